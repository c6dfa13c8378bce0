"""Check: the same call twice gives the same bits."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, AdamW

from .. import kernels
from .finding import Finding, same_bits
from .networks import Case, Values, gradients, layers_of, objective_of, ours, values_of
from .setting import DTYPES, Samples, Setting

IGNORED = -100
SIZES = (4099, 65, 259, 1100)  # many blocks of every kernel, and rows of logits that a whole block takes


def check_repeatability(setting: Setting) -> Iterator[Finding]:
    """Each op that sums over rows or columns, first and second order, and a step: twice from the same start."""
    for dtype in DTYPES[:3]:
        for name, call in _calls(setting, dtype):
            for i, (first, second) in enumerate(zip(call(), call(), strict=True)):
                yield same_bits(f"twice the same: {name}, result {i}", first, second)


def _calls(setting: Setting, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Sequence[Tensor]]]]:
    B, d, h, q = SIZES
    samples = Samples("repeatability", setting.device, dtype)
    z, dh, o, bias = samples.normal(B, h), samples.normal(B, h), samples.normal(B, q), samples.normal(q)
    y, target = samples.labels(B, q), samples.uniform(B, q)

    def dact() -> Sequence[Tensor]:
        dz = dh.clone()
        db = kernels.dact_(dz, z, "gelu", "z", True)
        return [dz] if db is None else [dz, db]

    def cross_entropy() -> Sequence[Tensor]:
        G = o.clone()
        return [G, *kernels.cross_entropy_(G, bias, y, None, None, 0.1, IGNORED, "mean")]

    def classes() -> Sequence[Tensor]:
        statistics = kernels.new_statistics(B, o)
        kernels.class_statistics_(o, bias, y, None, 0, statistics)
        return [statistics, *kernels.class_loss(statistics, y, None, q, 0.1, IGNORED)]

    def mse() -> Sequence[Tensor]:
        G = o.clone()
        return [G, *kernels.mse_(G, bias, target, None, "mean")]

    def bce() -> Sequence[Tensor]:
        G = o.clone()
        return [G, *kernels.bce_with_logits_(G, bias, target, None, "mean")]

    yield "dact_ with db", dact
    yield "cross_entropy_", cross_entropy
    yield "class_statistics_ and class_loss", classes
    yield "mse_", mse
    yield "bce_with_logits_", bce
    case = Case("gelu", "cross_entropy", "auto", dtype, (300, d, h, 10))
    values = values_of(case, setting.device)
    yield "Objective", lambda: list(gradients(ours(case, values)).values())
    yield "step, SGD", lambda: _stepped(case, values, torch.inf)
    yield "step, AdamW, clipping, in tiles", lambda: _stepped(case, values, 0.5)


def _stepped(case: Case, values: Values, clip_norm: float) -> Sequence[Tensor]:
    objective = objective_of(case, values)
    if clip_norm == torch.inf:
        objective.step(values["x"], values["y"], SGD(objective.parameters(), 0.1))
    else:
        optimizer = AdamW(objective.parameters(), 0.01)
        objective.step(values["x"], values["y"], optimizer, tile_rows=70, clip_norm=clip_norm)
    return [p.detach() for p in layers_of(objective.mlp).values()]
