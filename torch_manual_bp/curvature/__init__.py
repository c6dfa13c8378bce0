"""Second derivatives in closed form, in plain torch: products, diagonals, matrix, factors, spectrum."""

from .curvature import Curvature
from .kfac import Kronecker
from .low_rank import LowRank

__all__ = ["Curvature", "Kronecker", "LowRank"]
