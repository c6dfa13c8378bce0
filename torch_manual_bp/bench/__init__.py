"""How fast is it? Opponents timed in turn in one process, as ratios."""

from .timing import BusyMachineError, Timings, time_in_turn
from .usual_loop import SHAPES, bench_usual_loop

__all__ = ["SHAPES", "BusyMachineError", "Timings", "bench_usual_loop", "time_in_turn"]
