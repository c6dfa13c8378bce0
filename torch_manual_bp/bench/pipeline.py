"""What do the ranks of a pipeline do with their time, is it what the simulator says, and are the gradients right?

Each rank calls these functions, with the same arguments.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..memory import measure, plan_stages
from ..nn import Objective
from ..pipeline import Pipe, Timeline, middle, picture, record, simulate, typical_durations
from .crowd import QUIET, Crowd
from .report import environment

ENOUGH = 5  # quiet steps, below which all are taken and a report says so
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative to the largest entry; sums in another order


@dataclass(frozen=True)
class Watched:
    """The steps of one schedule.

    Attributes:
        measured: the step of median length.
        simulated: from the durations of the measured actions and `send`.
        makespans: seconds of each step, of the quiet ones where there were enough.
        quiet: whether those were steps in which no other process had a rank's core.
        crowd: the share of time that the worst-off rank waited for its core, in each of all steps.
        send: seconds that an h takes to the neighbour.
        peak_bytes: of a step, by rank, above parameters and batch, gradients included.
        planned_bytes: the same as they were planned.
    """

    measured: Timeline
    simulated: Timeline
    makespans: tuple[float, ...]
    quiet: bool
    crowd: tuple[float, ...]
    send: float
    peak_bytes: tuple[int, ...]
    planned_bytes: tuple[int, ...]

    @property
    def makespan(self) -> float:
        """The median."""
        return statistics.median(self.makespans)

    @property
    def ratio(self) -> float:
        """Simulated over measured."""
        return self.simulated.makespan / self.makespan

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "environment": environment(),
            "measured": self.measured.as_dict(),
            "simulated": self.simulated.as_dict(),
            "makespans": list(self.makespans),
            "simulated / measured": self.ratio,
            "quiet": self.quiet,
            "crowd": list(self.crowd),
            "send": self.send,
            "peak_bytes": list(self.peak_bytes),
            "planned_bytes": list(self.planned_bytes),
        }

    def write(self, folder: Path) -> None:
        """``<schedule>.png`` and ``<schedule>.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        name = self.measured.schedule
        title = f"{name}, {self.measured.microbatches} microbatches: simulated / measured = {self.ratio:.3f}"
        lanes = {"measured": self.measured, "simulated": self.simulated}
        (folder / f"{name}.png").write_bytes(picture(lanes, title))
        (folder / f"{name}.json").write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")


def watch(pipe: Pipe, objective: Objective, schedule: str, x: Tensor, y: Tensor, steps: int = 20) -> Watched:
    """Record some steps, and simulate them; gradients are left as a step leaves them.

    Args:
        pipe: warm or cold.
        objective: the whole that it was built from, or its like.
        schedule: its schedule.
        x: a batch.
        y: its labels or targets.
        steps: how many are recorded.
    """

    def step() -> None:
        for parameter in pipe.parameters():
            parameter.grad = None
        pipe.step(x, y)

    for _ in range(2):  # the ranks connect, allocators and caches warm up
        step()
    crowds = []
    with record(pipe) as recorder:
        for _ in range(steps):
            crowd = Crowd()
            step()
            crowds.append(crowd.share())
    timelines = recorder.timelines()
    crowd_of = [max(shares) for shares in zip(*gather(crowds), strict=True)]
    still = [timeline for timeline, share in zip(timelines, crowd_of, strict=True) if share <= QUIET]
    quiet = len(still) >= ENOUGH
    taken = still if quiet else timelines
    send = seconds_to_send(pipe, len(x) // pipe.microbatches)
    peaks = gather(measure(step, str(pipe.device)).peak_bytes)
    simulated = simulate(schedule, pipe.microbatches, typical_durations(taken), send)
    makespans = tuple(timeline.makespan for timeline in taken)
    plans = plan_stages(objective, len(x), pipe.microbatches, schedule, device=pipe.device)
    planned = tuple(plan.call_bytes for plan in plans)
    return Watched(middle(taken), simulated, makespans, quiet, tuple(crowd_of), send, tuple(peaks), planned)


def seconds_to_send(pipe: Pipe, rows: int, rounds: int = 10) -> float:
    """Half of the time that an h of one microbatch takes from the first stage to the second and back, in median."""
    layers = [module for module in pipe.module.modules() if isinstance(module, nn.Linear)]
    width = gather(layers[-1].out_features)[0]
    h = torch.empty(rows, width, dtype=layers[-1].weight.dtype, device=pipe.device)
    group, seconds = pipe.stage.group, []
    for _ in range(2 + rounds):
        begin = time.perf_counter()
        if pipe.index == 0:
            dist.send(h, group=group, group_dst=1)
            dist.recv(h, group=group, group_src=1)
        elif pipe.index == 1:
            dist.recv(h, group=group, group_src=0)
            dist.send(h, group=group, group_dst=0)
        _synchronize(pipe.device)
        seconds.append((time.perf_counter() - begin) / 2)
    return gather(statistics.median(seconds[2:]))[0]


def errors_beside_one_process(pipe: Pipe, objective: Objective, x: Tensor, y: Tensor) -> dict[str, float]:
    """How far J and each gradient are from those that one process computes on the whole batch.

    Each is relative to the largest entry. The pipe's parameters must be the objective's.
    """
    for parameter in pipe.parameters():
        parameter.grad = None
    J = pipe.step(x, y)
    expected = objective(x, y)
    parameters = dict(objective.mlp.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(expected, list(parameters.values())), strict=True))
    own = {name: _error(p.grad, gradients[name]) for name, p in pipe.named_parameters()}
    found = {name: error for of_rank in gather(own) for name, error in of_rank.items()}
    return {"J": max(gather(_error(J, expected.detach()))), **{name: found[name] for name in parameters}}


def one_process_seconds(objective: Objective, x: Tensor, y: Tensor, steps: int = 5) -> float:
    """The median time of forward and backward on the whole batch on rank 0 alone, while the others wait."""
    seconds = [0.0]
    if dist.get_rank() == 0:
        for _ in range(2 + steps):
            begin = time.perf_counter()
            torch.autograd.grad(objective(x, y), list(objective.parameters()))
            _synchronize(x.device)
            seconds.append(time.perf_counter() - begin)
    return gather(statistics.median(seconds[-steps:]))[0]


def gather(value: Any) -> list[Any]:
    """Each rank's value, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _error(got: Tensor | None, expected: Tensor) -> float:
    assert got is not None, "a parameter without a gradient"
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny))


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
