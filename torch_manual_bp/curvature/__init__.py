"""Second derivatives in closed form, in plain torch: products, diagonals, matrix, factors, spectrum."""

from .curvature import Curvature
from .density import Density
from .kfac import Kronecker
from .low_rank import LowRank

__all__ = ["Curvature", "Density", "Kronecker", "LowRank"]
