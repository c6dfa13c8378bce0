"""Will it fit? What training and prediction take: planned beforehand, and measured."""

from .measure import measure
from .measurement import Allocation, Measurement
from .plan import Plan, plan

__all__ = ["Allocation", "Measurement", "Plan", "measure", "plan"]
