"""Question: what becomes of time a row and of memory as the batch grows?"""

from collections.abc import Iterator, Sequence

import torch

from ..nn import Objective
from .peak import candidate_peak
from .picture import growth_png
from .problem import FLOOR, WEIGHT_DECAY, Candidate, Problem, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time, timed_row
from .sgd_steps import LEARNING_RATE, STEP, eager, lean_step
from .timing import time_in_turn

NET = (784, 256, 10)
BATCHES = tuple(4**k for k in range(10))  # 1 to 262144 rows
TILED = 'Objective, tile_rows="auto"'


def measure(settings: Settings, batches: Sequence[int] = BATCHES, net: tuple[int, int, int] = NET) -> Iterator[Row]:
    """A row for each size of the batch: whole steps with SGD.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ("relu",):
        for B in batches:
            problem = Problem((B, *net), activation, settings.dtype, settings.device)
            candidates = (eager(problem), in_tiles(problem), lean_step(problem))
            calls = {candidate.name: candidate.call for candidate in (matrix_products(problem), *candidates)}
            timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
            settings.require_quiet(timings, FLOOR)
            peaks = {candidate.name: candidate_peak(candidate, settings.device) for candidate in candidates}
            yield timed_row(problem.labels, timings, STEP, peaks)


def in_tiles(problem: Problem) -> Candidate:
    """The usual loop with an Objective that works in tiles of rows."""
    x, y = problem.batch
    objective = Objective(problem.mlp(), "cross_entropy", WEIGHT_DECAY, tile_rows="auto")
    parameters = list(objective.parameters())
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        objective(x, y).backward()
        optimizer.step()

    return Candidate(TILED, step, parameters, objective.release_workspace)


def cells(row: Row) -> dict[str, str]:
    """Time a row and bytes of each candidate."""
    times = {f"{name}, a row": as_time(seconds / row.shape[0]) for name, seconds in row.seconds.items()}
    return times | {f"{name}, bytes": as_bytes(peak) for name, peak in row.peak_bytes.items()}


QUESTION = Question(
    "growth",
    "What becomes of time a row and of memory as the batch grows? Whole steps with SGD, bytes above parameters and "
    "batch (MB are 10⁶ bytes).",
    measure,
    cells,
    picture=growth_png,
)
