"""Question: what becomes of the cost of second derivatives as the batch grows, and as the net does?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .peak import candidate_peak
from .picture import curvature_growth_png
from .problem import FLOOR, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time, timed_row
from .second_order import DENSE, DIAGONAL, GRADIENT, PRODUCT, TRACE, closed_forms, gradient, matrices, one_pass_of_n
from .timing import time_in_turn

N_PASSES = "n backward passes"  # what the textbook has: one of them is timed
BATCHES: tuple[Shape, ...] = tuple((4**k, 20, 64, 10) for k in range(2, 8))  # 16 to 16384 rows, n = 1994
NETS: tuple[Shape, ...] = tuple((256, 20, 4**k, 10) for k in range(1, 6))  # n = 134 to 31754
LARGEST_MATRIX = 10_000  # n from which the whole matrix is left out: 400 MB of float32


def measure(
    settings: Settings, batches: Sequence[Shape] = BATCHES, nets: Sequence[Shape] = NETS
) -> Iterator[Row]:  # fmt: skip
    """A row for each size of the batch, and then for each width of the net.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ("tanh",):
        for what, shapes in (("B", batches), ("n", nets)):
            for shape in shapes:
                yield _row(what, Problem(shape, activation, settings.dtype, settings.device), settings)


def _row(what: str, problem: Problem, settings: Settings) -> Row:
    n = parameters_of(problem.shape)
    candidates = [gradient(problem), *(c for c in closed_forms(problem) if c.name in (DIAGONAL, TRACE, PRODUCT))]
    if n <= LARGEST_MATRIX:
        candidates.append(next(matrices(problem)))
    one = replace(one_pass_of_n(problem), name=N_PASSES)
    everything: list[Candidate] = [*candidates, one]
    calls = {candidate.name: candidate.call for candidate in (matrix_products(problem), *everything)}
    timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
    settings.require_quiet(timings, FLOOR)
    peaks = {candidate.name: candidate_peak(candidate, settings.device) for candidate in everything}
    row = timed_row({"grows": what, "n": str(n), **problem.labels}, timings, GRADIENT, peaks)
    ratio = f"{N_PASSES} / {GRADIENT}"
    size = n * problem.dtype.itemsize
    return replace(
        row,
        seconds={**row.seconds, N_PASSES: n * row.seconds[N_PASSES]},
        ratios={**row.ratios, ratio: n * row.ratios[ratio]},
        # (the rows that the passes give are kept: the matrix)
        peak_bytes={**row.peak_bytes, N_PASSES: row.peak_bytes[N_PASSES] + (n - 1) * size},
    )


def parameters_of(shape: Shape) -> int:
    """The number n of parameters, biases included."""
    _, d, h, q = shape
    return h * (d + 1) + q * (h + 1)


def cells(row: Row) -> dict[str, str]:
    """Times in gradients, and bytes."""
    found = {"gradient": f"{as_time(row.seconds[GRADIENT])}, {as_bytes(row.peak_bytes[GRADIENT])}"}
    for name in (TRACE, DIAGONAL, PRODUCT, DENSE, N_PASSES):
        found[name] = (
            f"{row.ratios[f'{name} / {GRADIENT}']:.3g}, {as_bytes(row.peak_bytes[name])}" if name in row.seconds else ""
        )
    return found


QUESTION = Question(
    "curvature_growth",
    "What becomes of the cost of second derivatives as the batch grows, and as the net does? Times in gradients (by "
    "autograd, forward pass included), and bytes at the peak. The n backward passes of the textbook: one is timed, "
    "and taken n times.",
    measure,
    cells,
    picture=curvature_growth_png,
    notes="The whole matrix stands where it has at most 10,000² numbers.",
)
