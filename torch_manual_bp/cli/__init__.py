"""The command line.

Exit status: 0; 1: training failed, a derivation is wrong, a plan does not fit; 2: bad input; 130: Ctrl-C.
"""

from . import check, curvature, derivation, graph, memory, training  # noqa: F401  (each adds its commands)
from .app import app

__all__ = ["app"]
