"""What training takes: the memory of a call, measured."""

from .measure import measure
from .measurement import Allocation, Measurement

__all__ = ["Allocation", "Measurement", "measure"]
