"""Will it fit? What training and prediction take: planned beforehand, and measured."""

from .measure import measure
from .measurement import Allocation, Measurement
from .plan import plan
from .planned import Plan

__all__ = ["Allocation", "Measurement", "Plan", "measure", "plan"]
