"""Second derivatives in closed form, in plain torch: products, diagonals, trace."""

from .curvature import Curvature

__all__ = ["Curvature"]
