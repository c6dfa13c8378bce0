"""Question: how close does each op of one pass come to the rate at which the device copies memory?

The copy, of two tensors as large as the ops', is timed in turn with them. An op's bytes are those that it must read and
write: what a second walk over a row finds in the cache is not counted.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .goals import Goal, Judged
from .report import Question, Row, Settings, as_time
from .timing import time_in_turn

COPY, OP = "copy", "op"
SHARE = "the op's rate / the copy's"
LEAST = 0.85
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
BYTES, COLUMNS = 2**30, 4096  # of each matrix
IGNORED = -100


class Op(NamedTuple):
    """An op on matrices, and how many bytes it reads and writes in all."""

    name: str
    call: Callable[[], object]
    bytes: float


def measure(
    settings: Settings, size: int = BYTES, columns: int = COLUMNS, dtypes: Sequence[torch.dtype] = DTYPES
) -> Iterator[Row]:
    """A row for each op and dtype; all ops of a dtype are timed in turn with each other and the copy."""
    for dtype in dtypes:
        m = _Matrices(size, columns, dtype, settings.device)
        found = list(_ops(m, settings.activations or ("relu", "gelu")))
        if dtype == torch.float32:
            found += list(_updates(m))
        calls = {COPY: m.copy} | {op.name: op.call for op in found}
        timings = time_in_turn(calls, budget=settings.budget * len(found) / 4, device=settings.device)
        settings.require_quiet(timings, COPY)
        for op in found:
            labels = {"op": op.name, "dtype": str(dtype).removeprefix("torch."), "GiB": f"{op.bytes / 2**30:.4g}"}
            seconds = {COPY: timings.median(COPY), OP: timings.median(op.name)}
            share = op.bytes / (2 * m.bytes) * timings.ratio(COPY, op.name)
            yield Row(labels, seconds, {SHARE: share}, noise=timings.noise(COPY))
        del m, found, calls


class _Matrices:
    """Three matrices of one size, with a bias, labels and targets; what is in them does not matter."""

    def __init__(self, size: int, columns: int, dtype: torch.dtype, device: str) -> None:
        rows = max(1, size // (columns * dtype.itemsize))
        self.a, self.b, self.c = (torch.rand(rows, columns, dtype=dtype, device=device) for _ in range(3))
        self.bias = torch.zeros(columns, dtype=dtype, device=device)
        self.labels = torch.randint(columns, (rows,), device=device)
        self.bytes = self.a.nbytes

    def copy(self) -> Tensor:
        return self.a.copy_(self.b)


def _ops(m: _Matrices, activations: Sequence[str]) -> Iterator[Op]:
    a, b, c, bias, y, n = m.a, m.b, m.c, m.bias, m.labels, m.bytes
    bits = a.numel() / 8
    for phi in activations:
        yield Op(f"bias_act_, {phi}", partial(kernels.bias_act_, a, bias, phi), 2 * n)
        yield Op(f"bias_act_keep_, {phi}", partial(kernels.bias_act_keep_, a, c, bias, phi), 3 * n)
        yield Op(f"act, {phi}", partial(kernels.act, b, phi), 2 * n)
        yield Op(f"dact_ from z, {phi}", partial(kernels.dact_, a, b, phi, "z", False), 3 * n)
        yield Op(f"dact_ from z with db, {phi}", partial(kernels.dact_, a, b, phi, "z", True), 3 * n)
    mask = kernels.bias_act_mask_(c, None, "relu")
    yield Op("bias_act_mask_, relu", partial(kernels.bias_act_mask_, a, bias, "relu"), 2 * n + bits)
    yield Op("dact_ from mask with db, relu", partial(kernels.dact_, a, mask, "relu", "mask", True), 2 * n + bits)
    yield Op("mse_", partial(kernels.mse_, a, bias, b, None, "sum"), 3 * n)
    yield Op("bce_with_logits_", partial(kernels.bce_with_logits_, a, bias, b, None, "sum"), 3 * n)
    factor = torch.tensor(1 / 3, device=a.device)
    yield Op("scaled", partial(kernels.scaled, b, factor), 2 * n)
    cross_entropy = partial(kernels.cross_entropy_, a, bias, y, None, None, 0.0, IGNORED, "sum")
    yield Op("cross_entropy_", cross_entropy, 2 * n)
    statistics = kernels.new_statistics(len(a), a)
    walk = partial(kernels.class_statistics_, b, bias, y, None, 0, statistics)
    walk()
    yield Op("class_statistics_", walk, n)
    of_classes = (0, a.shape[1], 0.0, IGNORED, statistics)
    yield Op(
        "cross_entropy_classes_", partial(kernels.cross_entropy_classes_, a, bias, y, None, None, *of_classes), 2 * n
    )


def _updates(m: _Matrices) -> Iterator[Op]:
    """Of parameters in float32: reads p, g and the state, writes p and the state."""
    p, g, first, n = m.a, m.b, m.c, m.bytes
    second, step = torch.rand_like(p), torch.tensor(1.0)
    sgd = torch.tensor([[0.0, 1e-3, 0.0, 0.9]], dtype=torch.float64)
    adam = torch.tensor([[0.0, 1e-3, 0.01, 0.9, 0.999, 1e-8]], dtype=torch.float64)
    yield Op("sgd_", partial(kernels.sgd_, [p], [g], [], sgd, torch.inf, False), 3 * n)
    yield Op("sgd_ with momentum", partial(kernels.sgd_, [p], [g], [first], sgd, torch.inf, False), 5 * n)
    with_adam = partial(kernels.adam_, [p], [g], [first], [second], [step], adam)
    yield Op("adam_", partial(with_adam, torch.inf, True), 7 * n)
    yield Op("adam_, clipping", partial(with_adam, 1.0, True), 8 * n)  # the gradient is read for its norm, too


def cells(row: Row) -> dict[str, str]:
    """Time, rate, and what part that is of the copy's."""
    rate = float(row.labels["GiB"]) * 2**30 / row.seconds[OP]
    return {
        "time": as_time(row.seconds[OP]),
        "GB/s": f"{rate / 1e9:.0f}",
        "of the copy's rate": f"**{row.ratios[SHARE]:.2f}**",
    }


def goals(row: Row) -> list[Judged]:
    """At least 85 % of the copy's rate."""
    return [Judged(SHARE, row.ratios[SHARE], Goal(LEAST, at_least=True))]


QUESTION = Question(
    "bandwidth",
    "How close does each op of one pass over memory come to the rate at which the device copies memory? GB are 10⁹ "
    "bytes, read and written; each matrix is 1 GiB; the copy is timed in turn with the ops.",
    measure,
    cells,
    goals,
    gpu_only=True,
)
