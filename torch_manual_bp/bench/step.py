"""Question: what does a whole training step cost (forward, loss, backward, update), beside the bare matrix products?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from .adamw_steps import adamw_candidates
from .goals import Goal, Judged
from .picture import over_floor_png
from .problem import FLOOR, SHAPES, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_time, timed_row
from .sgd_steps import EAGER, STEP, lean_step, sgd_candidates
from .timing import time_in_turn

SGD, ADAMW, BFLOAT16 = "SGD", "AdamW, clipping", "SGD, bfloat16 autocast"
STEP_FLOAT32 = "step, float32"
SMALL, LOW_PRECISION, FEED_FORWARD = SHAPES[0], SHAPES[2], (8192, 4096, 16384, 4096)
# by shape: step / matrix products at most, best opponent / step at least
GOALS = dict(zip(SHAPES, ((0.5, 8.0), (1.15, 1.3), (1.05, 1.10), (1.03, 1.05), (1.03, 1.03)), strict=True))


def measure(
    settings: Settings, shapes: Sequence[Shape] = SHAPES, small: Shape = SMALL, low_precision: Shape = LOW_PRECISION
) -> Iterator[Row]:
    """A row for each shape and activation with SGD; then AdamW on the small net, and bfloat16 on a middling one.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    on_cuda = settings.device != "cpu"
    for activation in settings.activations or ("relu",):
        for shape in shapes:
            problem = Problem(shape, activation, settings.dtype, settings.device)
            yield _row(SGD, problem, sgd_candidates(problem, settings.compiled), settings, on_cuda and shape == small)
        if on_cuda:
            problem = Problem(FEED_FORWARD, activation, torch.bfloat16, settings.device)
            yield _row(SGD, problem, sgd_candidates(problem, settings.compiled), settings)
        problem = Problem(small, activation, settings.dtype, settings.device)
        yield _row(ADAMW, problem, adamw_candidates(problem, settings.compiled), settings, on_cuda)
        problem = Problem(low_precision, activation, torch.float32, settings.device)
        floor = matrix_products(replace(problem, dtype=torch.bfloat16))
        yield _row(BFLOAT16, problem, _under_autocast(problem, settings.compiled), settings, floor=floor)


def _row(
    what: str,
    problem: Problem,
    candidates: Iterable[Candidate],
    settings: Settings,
    graphs: bool = False,
    floor: Candidate | None = None,
) -> Row:
    floor = floor or matrix_products(problem)
    calls = {candidate.name: candidate.call for candidate in (floor, *candidates)}
    if graphs:
        calls = {name: _graphed(call) for name, call in calls.items()}
    timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
    timings.require_quiet(FLOOR)
    return timed_row({"update": what, **problem.labels}, timings, to=STEP)


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
    return {
        "step": as_time(row.seconds[STEP]),
        "step / matrix products": f"{1 / row.ratios[f'{FLOOR} / {STEP}']:.2f}",
        "best opponent": best,
        "best opponent / step": f"**{row.ratios[f'{best} / {STEP}']:.2f}**",
        "eager / step": f"{row.ratios[f'{EAGER} / {STEP}']:.2f}",
        "all, fastest first": ", ".join(f"{name} {as_time(row.seconds[name])}" for name in by_time),
    }


def goals(row: Row) -> list[Judged]:
    """What the step is to reach in this row."""
    what = row.labels["update"]
    if what == ADAMW:
        return [Judged("microseconds a step", row.seconds[STEP] * 1e6, Goal(40))]
    if what == BFLOAT16:
        return [Judged(f"{STEP_FLOAT32} / step", row.ratios[f"{STEP_FLOAT32} / {STEP}"], Goal(1.7, at_least=True))]
    if row.shape not in GOALS:
        return []
    to_floor, to_best = GOALS[row.shape]
    return [
        Judged("step / matrix products", 1 / row.ratios[f"{FLOOR} / {STEP}"], Goal(to_floor)),
        Judged("best opponent / step", row.ratios[f"{best_opponent(row)} / {STEP}"], Goal(to_best, at_least=True)),
    ]


QUESTION = Question(
    "step",
    "What does a whole training step cost (forward, loss, backward, update), beside the bare matrix products?",
    measure,
    cells,
    goals,
    over_floor_png,
)
