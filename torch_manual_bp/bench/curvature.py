"""Question: how many gradients do the exact second derivatives cost?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .goals import Goal, Judged
from .peak import candidate_peak
from .problem import FLOOR, GPU_MIDDLING, Candidate, Problem, Shape, matrix_products
from .report import Question, Row, Settings, as_bytes, as_time
from .second_order import (
    BACKPACK,
    CACHED,
    DIAGONAL,
    DOUBLE,
    GRADIENT,
    PRODUCT,
    RETAINED,
    TRACE,
    backpack_diagonal,
    closed_forms,
    double_backward,
    gradient,
)  # fmt: skip
from .timing import Timings, time_in_turn

SHAPE: Shape = (256, 784, 256, 10)
ACTIVATIONS = ("tanh", "relu")


class Quantity(NamedTuple):
    """What is computed, against what; goals: at most so many gradients, and at least so many times as fast."""

    ours: str
    theirs: str = ""
    gradients: float | None = None
    faster: Mapping[str, float] = {}  # by activation; "" for any


QUANTITIES = (
    Quantity(DIAGONAL, BACKPACK, 1.6, {"tanh": 40.0, "relu": 1.7}),
    Quantity(TRACE, gradients=0.7),
    Quantity(PRODUCT, DOUBLE, 1.6, {"": 1.3}),
    Quantity(CACHED, RETAINED, 1.0),
)


def measure(settings: Settings, shape: Shape | None = None) -> Iterator[Row]:
    """A row for each activation and quantity.

    Raises:
        BusyMachineError: the floor's own times scatter so much that a row would mean nothing.
    """
    for activation in settings.activations or ACTIVATIONS:
        size = shape or (SHAPE if settings.on_cpu else GPU_MIDDLING)
        problem = Problem(size, activation, settings.dtype, settings.device)
        unit = gradient(problem)
        quick = [unit, *closed_forms(problem), *double_backward(problem)]
        timings, peaks = _in_turn(quick, problem, settings)
        try:  # apart: it takes so long that few rounds would be left for the others
            slow = [unit, next(closed_forms(problem)), backpack_diagonal(problem)]
        except ImportError:  # a dependency of development
            beside = None
        else:
            beside = _in_turn(slow, problem, settings)
        for quantity in QUANTITIES:
            used, bytes_ = (timings, peaks) if quantity.theirs != BACKPACK else beside or (timings, peaks)
            yield _row(quantity, problem, used, bytes_)


def _in_turn(
    candidates: Sequence[Candidate], problem: Problem, settings: Settings
) -> tuple[Timings, dict[str, int]]:  # fmt: skip
    calls = {candidate.name: candidate.call for candidate in (matrix_products(problem), *candidates)}
    timings = time_in_turn(calls, budget=settings.budget, device=settings.device)
    settings.require_quiet(timings, FLOOR)
    return timings, {candidate.name: candidate_peak(candidate, settings.device) for candidate in candidates}


def _row(quantity: Quantity, problem: Problem, timings: Timings, peaks: Mapping[str, int]) -> Row:
    ours = quantity.ours
    names = [name for name in (GRADIENT, ours, quantity.theirs) if name in timings.seconds]
    ratios = {f"{name} / {GRADIENT}": timings.ratio(name, GRADIENT) for name in names}
    ratios |= {f"{name} / {ours}": timings.ratio(name, ours) for name in names}
    return Row(
        {"quantity": ours, **problem.labels},
        {name: timings.median(name) for name in names},
        ratios,
        {name: peaks[name] for name in names},
        timings.noise(FLOOR),
    )


def _of(row: Row) -> Quantity:
    return next(quantity for quantity in QUANTITIES if quantity.ours == row.labels["quantity"])


def cells(row: Row) -> dict[str, str]:
    """Time, gradients and bytes of ours, and of what it is compared with."""
    ours, theirs = _of(row).ours, _of(row).theirs
    found = {
        "time": as_time(row.seconds[ours]),
        "gradients": f"**{row.ratios[f'{ours} / {GRADIENT}']:.2f}**",
        "peak bytes": as_bytes(row.peak_bytes[ours]),
        "beside": "", "its time": "", "its time / ours": "", "its peak bytes": "",
    }  # fmt: skip
    if theirs in row.seconds:
        found |= {
            "beside": theirs, "its time": as_time(row.seconds[theirs]),
            "its time / ours": f"**{row.ratios[f'{theirs} / {ours}']:.3g}**",
            "its peak bytes": as_bytes(row.peak_bytes[theirs]),
        }  # fmt: skip
    return found


def goals(row: Row) -> list[Judged]:
    """What this quantity is to cost at most, in gradients, and how many times as fast it is to be."""
    if row.shape != SHAPE:
        return []
    ours, theirs, gradients, faster = _of(row)
    judged = []
    if gradients is not None:
        judged.append(Judged("gradients", row.ratios[f"{ours} / {GRADIENT}"], Goal(gradients)))
    bound = faster.get(row.labels["φ"], faster.get(""))
    if theirs in row.seconds and bound is not None:
        judged.append(Judged(f"{theirs} / {ours}", row.ratios[f"{theirs} / {ours}"], Goal(bound, at_least=True)))
    return judged


QUESTION = Question(
    "curvature",
    "How many gradients do the exact second derivatives cost? A gradient is one by autograd, forward pass included; "
    "all are of L, λ = 0. Each closed form but the last makes its own pass; vectors are lists of tensors like the "
    "parameters.",
    measure,
    cells,
    goals,
)
