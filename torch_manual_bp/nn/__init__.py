"""How you plug it in: modules."""

from .mlp import MLP
from .objective import Objective

__all__ = ["MLP", "Objective"]
