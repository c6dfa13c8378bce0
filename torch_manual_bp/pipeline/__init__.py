"""The two layers on two devices, and stacks of them on more: stages for the schedules of torch's own pipelining.

Only h (m,h) goes over, only ∂J/∂h comes back; the weights' gradients wait until the schedule has nothing more urgent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .build import build
from .durations import planned_durations
from .one_process import OneProcess
from .picture import picture
from .simulate import simulate
from .spans import record
from .stages import Block, Hidden, Output, split
from .timeline import Durations, Span, Timeline, middle, typical_durations

if TYPE_CHECKING:
    from .pipe import Pipe

__all__ = [
    "Block",
    "Durations",
    "Hidden",
    "OneProcess",
    "Output",
    "Pipe",
    "Span",
    "Timeline",
    "build",
    "middle",
    "picture",
    "planned_durations",
    "record",
    "simulate",
    "split",
    "typical_durations",
]


def __getattr__(name: str) -> Any:
    """`Pipe` on demand: it imports torch.distributed.pipelining, which takes a second."""
    if name == "Pipe":
        return import_module(".pipe", __name__).Pipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
