"""When a rank's actions really began and ended: time stamps round the three calls that an upstream schedule makes.

Every schedule of torch.distributed.pipelining drives its stage by ``forward_one_chunk``, ``backward_one_chunk`` (whole,
or the part by the input) and ``backward_weight_one_chunk``, and computes the loss in between; all else is sending,
receiving and waiting. On an accelerator the stamps are events in its current stream, behind the messages that were
waited for there.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.distributed as dist

from .orders import Kind
from .timeline import Span, Timeline

_NAMES = {
    "ScheduleGPipe": "gpipe",
    "Schedule1F1B": "1f1b",
    "ScheduleInterleavedZeroBubble": "zero_bubble",
}


class Driven(Protocol):
    """A rank's part of a pipeline: an upstream stage, and the upstream schedule that drives it."""

    @property
    def stage(self) -> Any:
        """The ``PipelineStage``."""

    @property
    def schedule(self) -> Any:
        """A schedule with this stage alone on this rank."""


class Recorder:
    """What `record` returns; used as a context."""

    def __init__(self, pipe: Driven):
        if not hasattr(type(pipe), "stage") and not hasattr(pipe, "stage"):
            raise TypeError(f"record: pipe must have a stage and a schedule of torch's, got {type(pipe).__name__}")
        self._pipe, self._stage, self._schedule = pipe, pipe.stage, pipe.schedule
        self._clock = _clock_of(torch.device(self._stage.device))
        self._stamps: list[tuple[Kind, int, Any, Any]] = []
        self._shadowed: list[tuple[Any, str, bool, Any]] = []

    def __enter__(self) -> "Recorder":
        stage = self._stage
        self._shadow(stage, "forward_one_chunk", self._timed(stage.forward_one_chunk, lambda call: "F"))
        whole_or_input = self._timed(
            stage.backward_one_chunk, lambda call: "B" if call.get("full_backward", True) else "I"
        )
        self._shadow(stage, "backward_one_chunk", whole_or_input)
        self._shadow(stage, "backward_weight_one_chunk", self._timed(stage.backward_weight_one_chunk, lambda call: "W"))
        if self._schedule._loss_fn is not None:
            self._shadow(self._schedule, "_loss_fn", self._belonging_to_the_forward(self._schedule._loss_fn))
        self._clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._shadowed:
            owner, name, had_its_own, before = self._shadowed.pop()
            if had_its_own:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    def timelines(self) -> tuple[Timeline, ...]:
        """The timeline of each step that was recorded, on every rank; every rank has to call it.

        Raises:
            RuntimeError: the ranks are on several machines, whose clocks have no common zero, or recorded different
                numbers of steps; or a batch of another size made the pipe take another stage.
        """
        if self._pipe.stage is not self._stage:
            raise RuntimeError("record: all batches must have the same number of rows, got others meanwhile")
        own = (self._stage.stage_index, _machine(), self._steps())
        found: list[Any] = [own]
        if self._stage.group_size > 1:
            found = [None] * self._stage.group_size
            dist.all_gather_object(found, own, group=self._stage.group)
        machines = {machine for _, machine, _ in found}
        if len(machines) > 1:
            raise RuntimeError(f"record: the ranks must share a clock, got ranks on {len(machines)} machines")
        counts = {rank: len(steps) for rank, _, steps in found}
        if len(set(counts.values())) > 1:
            raise RuntimeError(f"record: every rank must record the same steps, got {counts} steps by rank")
        name = _NAMES.get(type(self._schedule).__name__, type(self._schedule).__name__)
        return tuple(
            Timeline.of(name, (Span(rank, *stamp) for rank, _, steps in found for stamp in steps[i]))
            for i in range(len(found[0][2]))
        )

    def _steps(self) -> list[list[tuple[Kind, int, float, float]]]:
        """Kind, microbatch, begin and end in seconds; a step begins with the forward pass of microbatch 0."""
        steps: list[list[tuple[Kind, int, float, float]]] = []
        for kind, microbatch, begin, end in self._stamps:
            if kind == "F" and microbatch == 0:
                steps.append([])
            steps[-1].append((kind, microbatch, self._clock.seconds(begin), self._clock.seconds(end)))
        return steps

    def _timed(self, call: Callable[..., Any], kind_of: Callable[[dict[str, Any]], Kind]) -> Callable[..., Any]:
        def timed(microbatch: int, *args: Any, **kwargs: Any) -> Any:
            begin = self._clock.stamp()
            result = call(microbatch, *args, **kwargs)
            self._stamps.append((kind_of(kwargs), microbatch, begin, self._clock.stamp()))
            return result

        return timed

    def _belonging_to_the_forward(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The last rank's loss, which schedules compute right after the forward pass, and outside of the stage."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            result = loss(*args, **kwargs)
            if self._stamps and self._stamps[-1][0] == "F":
                self._stamps[-1] = (*self._stamps[-1][:3], self._clock.stamp())
            return result

        return timed

    def _shadow(self, owner: Any, name: str, replacement: Any) -> None:
        own = vars(owner)
        self._shadowed.append((owner, name, name in own, own.get(name)))
        setattr(owner, name, replacement)


def record(pipe: Driven) -> Recorder:
    """Record what each rank does in the steps that are taken inside of the context.

    >>> with tmb.pipeline.record(pipe) as recorder:          # on every rank
    ...     for x, y in batches:
    ...         pipe.step(x, y)
    >>> timeline = tmb.pipeline.middle(recorder.timelines())  # on every rank; the step of median length

    Take a step before: the first one connects the ranks. A stamp costs about a microsecond, an event on a GPU about
    ten. What lies between two actions of a rank is waiting, and the schedule's own Python.

    Args:
        pipe: a `Pipe`, or anything with an upstream ``stage`` and the ``schedule`` that drives it alone.

    Raises:
        TypeError: it has neither, as one process on several devices, whose stages are driven by no schedule.
        RuntimeError: before its first step.
    """
    return Recorder(pipe)


class _HostClock:
    """Nanoseconds of a clock that all processes of a machine share."""

    def start(self) -> None:
        pass

    def stamp(self) -> int:
        return time.monotonic_ns()

    def seconds(self, stamp: int) -> float:
        return stamp * 1e-9


class _DeviceClock:
    """Events in the device's current stream; one of them, waited for, ties them to the host's clock."""

    def __init__(self, device: torch.device):
        self._device, self._module = device, torch.get_device_module(device)

    def start(self) -> None:
        self._module.synchronize(self._device)
        self._zero = self.stamp()
        self._zero.synchronize()
        self._zero_seconds = time.monotonic_ns() * 1e-9

    def stamp(self) -> Any:
        event = self._module.Event(enable_timing=True)
        event.record(self._module.current_stream(self._device))
        return event

    def seconds(self, stamp: Any) -> float:
        stamp.synchronize()
        return self._zero_seconds + self._zero.elapsed_time(stamp) * 1e-3


def _clock_of(device: torch.device) -> _HostClock | _DeviceClock:
    return _HostClock() if device.type == "cpu" else _DeviceClock(device)


def _machine() -> str:
    """The same for all processes that share a monotonic clock: the kernel's boot where that is told, or the host."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()
