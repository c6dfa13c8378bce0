"""Will it fit? What training and prediction take: planned beforehand, and measured."""

from .advice import Advice
from .measure import measure
from .measurement import Allocation, Measurement
from .plan import plan, plan_stages
from .planned import Plan
from .trace import trace

__all__ = ["Advice", "Allocation", "Measurement", "Plan", "measure", "plan", "plan_stages", "trace"]
