"""Question: what does a whole training step cost (forward, loss, backward, update), beside the bare matrix products?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from .adamw_steps import adamw_candidates
from .goals import Goal, Judged
from .peak import candidate_peak
from .picture import over_floor_png
from .problem import FLOOR, GPU_MIDDLING, GPU_SMALL, HEAD, SHAPES, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time, timed_row
from .sgd_steps import EAGER, STEP, lean_step, sgd_candidates
from .timing import time_in_turn

SGD, ADAMW, BFLOAT16, GRAPHS = "SGD", "AdamW, clipping", "SGD, bfloat16 autocast", "SGD, CUDA graphs"
STEP_FLOAT32 = "step, float32"
FEED_FORWARD = (8192, 4096, 16384, 4096)  # a transformer's, of a large model


class Case(NamedTuple):
    """A kind of step of a net; `dtype` None is the one that was asked for, `peaks` whether memory is measured too."""

    update: str
    shape: Shape
    dtype: torch.dtype | None = None
    peaks: bool = False


SMALL, LOW_PRECISION = SHAPES[0], SHAPES[2]
CPU_CASES = (*(Case(SGD, shape) for shape in SHAPES), Case(ADAMW, SMALL), Case(BFLOAT16, LOW_PRECISION, torch.float32))
GPU_CASES = (
    Case(SGD, FEED_FORWARD, torch.bfloat16, peaks=True),
    Case(SGD, HEAD, torch.bfloat16, peaks=True),
    Case(SGD, GPU_SMALL),
    Case(ADAMW, GPU_SMALL),
    Case(SGD, GPU_MIDDLING),
    Case(BFLOAT16, GPU_MIDDLING, torch.float32),
    Case(GRAPHS, GPU_SMALL),  # the last: an opponent that cannot be captured ends the rows
)
# by shape: step / matrix products at most, best opponent / step at least
GOALS = dict(zip(SHAPES, ((0.5, 8.0), (1.15, 1.3), (1.05, 1.10), (1.03, 1.05), (1.03, 1.03)), strict=True))
GOALS[FEED_FORWARD] = (1 / 0.92, 1.0)
# by shape: eager / step at least; and eager's bytes over the step's
FASTER_THAN_EAGER = {GPU_SMALL: 5.0, HEAD: 1.0}
LESS_THAN_EAGER = {FEED_FORWARD: 1 / 0.7, HEAD: 10.0}


def measure(settings: Settings, cases: Sequence[Case] = ()) -> Iterator[Row]:
    """A row for each case, by default the device's.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ("relu",):
        for case in cases or (CPU_CASES if settings.on_cpu else GPU_CASES):
            problem = Problem(case.shape, activation, case.dtype or settings.dtype, settings.device)
            yield _row(case, problem, settings)


def _row(case: Case, problem: Problem, settings: Settings) -> Row:
    floor = problem
    if case.update == ADAMW:
        candidates = list(adamw_candidates(problem, settings.compiled))
    elif case.update == BFLOAT16:
        floor, candidates = replace(problem, dtype=torch.bfloat16), list(_under_autocast(problem, settings.compiled))
    else:
        candidates = list(sgd_candidates(problem, settings.compiled))
    calls = {candidate.name: candidate.call for candidate in (matrix_products(floor), *candidates)}
    if case.update == GRAPHS:
        calls = {name: _graphed(call) for name, call in calls.items()}
    timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
    settings.require_quiet(timings, FLOOR)
    peaks = {c.name: candidate_peak(c, settings.device) for c in candidates if case.peaks}
    return timed_row({"update": case.update, **problem.labels}, timings, STEP, peaks)


def _under_autocast(problem: Problem, compiled: bool) -> Iterator[Candidate]:
    """The steps in bfloat16 under autocast, and our float32 step beside them."""

    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(torch.device(problem.device).type, torch.bfloat16)

    with precision():  # torch.compile is to see at once what it will be called in
        candidates = list(sgd_candidates(problem, compiled))
    for candidate in candidates:
        yield replace(candidate, call=_within(precision, candidate.call))
    yield replace(lean_step(problem), name=STEP_FLOAT32)


def _within(context: Callable[[], AbstractContextManager[Any]], call: Callable[[], Any]) -> Callable[[], None]:
    def within() -> None:
        with context():
            call()

    return within


def _graphed(call: Callable[[], Any]) -> Callable[[], None]:
    """Replays what a call launches on the CUDA device, captured after a warm-up on a stream beside the current one."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def best_opponent(row: Row) -> str:
    """The name of the fastest candidate that is neither ours nor the floor."""
    opponents = {name: row.ratios[f"{name} / {STEP}"] for name in row.seconds if name not in _NO_OPPONENTS}
    return min(opponents, key=opponents.__getitem__)


_NO_OPPONENTS = {FLOOR, STEP, STEP_FLOAT32}


def cells(row: Row) -> dict[str, str]:
    """The table's columns beside the labels."""
    best = best_opponent(row)
    by_time = sorted(row.seconds, key=row.seconds.__getitem__)
    peaks = ", ".join(f"{name} {as_bytes(peak)}" for name, peak in row.peak_bytes.items())
    return {
        "step": as_time(row.seconds[STEP]),
        "step / matrix products": f"{1 / row.ratios[f'{FLOOR} / {STEP}']:.2f}",
        "best opponent": best,
        "best opponent / step": f"**{row.ratios[f'{best} / {STEP}']:.2f}**",
        "eager / step": f"{row.ratios[f'{EAGER} / {STEP}']:.2f}",
        "all, fastest first": ", ".join(f"{name} {as_time(row.seconds[name])}" for name in by_time)
        + (f"; {peaks}" if peaks else ""),
    }


def goals(row: Row) -> list[Judged]:
    """What the step is to reach in this row."""
    what, shape = row.labels["update"], row.shape
    if (what, shape) == (ADAMW, SMALL):
        return [Judged("microseconds a step", row.seconds[STEP] * 1e6, Goal(40))]
    if (what, shape) == (BFLOAT16, LOW_PRECISION):
        return [Judged(f"{STEP_FLOAT32} / step", row.ratios[f"{STEP_FLOAT32} / {STEP}"], Goal(1.7, at_least=True))]
    if what != SGD:
        return []
    judged = []
    if shape in GOALS:
        to_floor, to_best = GOALS[shape]
        over_best = row.ratios[f"{best_opponent(row)} / {STEP}"]
        judged.append(Judged("step / matrix products", 1 / row.ratios[f"{FLOOR} / {STEP}"], Goal(to_floor)))
        judged.append(Judged("best opponent / step", over_best, Goal(to_best, at_least=True)))
    if shape in FASTER_THAN_EAGER:
        faster = row.ratios[f"{EAGER} / {STEP}"]
        judged.append(Judged("eager / step", faster, Goal(FASTER_THAN_EAGER[shape], at_least=True)))
    if shape in LESS_THAN_EAGER and row.peak_bytes:
        less = row.peak_bytes[EAGER] / max(row.peak_bytes[STEP], 1)
        judged.append(Judged("eager's bytes / step's", less, Goal(LESS_THAN_EAGER[shape], at_least=True, exact=True)))
    return judged


QUESTION = Question(
    "step",
    "What does a whole training step cost (forward, loss, backward, update), beside the bare matrix products?",
    measure,
    cells,
    goals,
    over_floor_png,
)
