"""Second derivatives in closed form, in plain torch: products, diagonals, trace, the matrix and its blocks."""

from .curvature import Curvature

__all__ = ["Curvature"]
