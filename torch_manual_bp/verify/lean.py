"""Checks: the lean step, gradients and updates a tile of rows at a time, against autograd and torch.optim."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ..training.tiling import LIMITS
from .finding import Finding, compare
from .networks import (
    PARAMETERS,
    Case,
    Values,
    eager,
    eager_objective,
    gradients,
    layers_of,
    objective_of,
    truth_of,
    values_of,
)
from .setting import DTYPES, Samples, Setting, Sizes

LOSSES = ("cross_entropy", "mse", "bce_with_logits")
ROWS = 37  # of a tile that does not divide the batch
SMALL = (64, 20, 64, 10)  # for which one call makes the whole step
EPSILON = 1e-3  # of Adam: with torch's 1e-8 the first steps are the gradient's signs, where rounding decides

Context = Callable[[], AbstractContextManager[Any]]


def large_head(device: torch.device, dtype: torch.dtype) -> Sizes:
    """B, d, h, q with so many logits that classes are tiled as well as rows."""
    limits = LIMITS["cpu" if device.type == "cpu" else "accelerator"]
    rows = limits.rows[0]
    return rows, 8, 8, limits.logits // (rows * dtype.itemsize) + 1001


def check_lean_gradients(setting: Setting) -> Iterator[Finding]:
    """accumulate_grad and Objective(tile_rows=…): J and each gradient against the equation table."""
    for activation, loss, dtype in itertools.product(("relu", "gelu"), LOSSES, DTYPES):
        case = Case(activation, loss, "auto", dtype, setting.sizes)
        yield from _gradients(case, setting, tiles=("auto", ROWS))
    for dtype in (torch.float32, torch.bfloat16):
        head = Case("relu", "cross_entropy", "auto", dtype, large_head(setting.device, dtype))
        yield from _gradients(head, setting, tiles=("auto",))


def check_autocast(setting: Setting) -> Iterator[Finding]:
    """The same of float32 parameters under autocast, and a step: as accurate as eager PyTorch under autocast."""

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(setting.device.type, torch.bfloat16)

    for loss in LOSSES:
        case = Case("gelu", loss, "auto", torch.float32, setting.sizes)
        yield from _gradients(case, setting, ("auto", ROWS), autocast, torch.bfloat16)
        for optimizer in (OPTIMIZERS[0], OPTIMIZERS[-2]):
            yield from _steps(optimizer, case, setting, "auto", autocast, torch.bfloat16)


def _gradients(
    case: Case, setting: Setting, tiles: Iterable[int | str], context: Context = nullcontext,
    dtype: torch.dtype | None = None,
) -> Iterator[Finding]:  # fmt: skip
    values = values_of(case, setting.device)
    truth, dtype = truth_of(case, values), dtype or case.dtype
    with context():
        graph = eager(case, values)
    torchs = gradients(graph)
    for tile_rows in tiles:
        for way, of in _LEAN_WAYS.items():
            with context():
                got = of(case, values, tile_rows)
            for symbol in got:
                what = f"{way}, tile_rows={tile_rows}{_said(context)}, {symbol}: {case}"
                yield compare(what, dtype, got[symbol], torchs[symbol], truth[symbol])


def _said(context: Context) -> str:
    return "" if context is nullcontext else ", autocast"


def _accumulated(case: Case, values: Values, tile_rows: int | str) -> Values:
    objective = objective_of(case, values)
    x = values["x"].clone().requires_grad_()
    J = objective.accumulate_grad(x, values["y"], tile_rows=tile_rows)
    return {"J": J} | _grads({"x": x, **layers_of(objective.mlp)})


def _backpropagated(case: Case, values: Values, tile_rows: int | str) -> Values:
    objective = objective_of(case, values, tile_rows)
    x = values["x"].clone().requires_grad_()
    J = objective(x, values["y"])
    J.backward()
    return {"J": J} | _grads({"x": x, **layers_of(objective.mlp)})


_LEAN_WAYS = {"accumulate_grad": _accumulated, "Objective": _backpropagated}


def _grads(leaves: Values) -> Values:
    return {
        f"d{name}": leaf.grad if leaf.grad is not None else torch.tensor(torch.nan) for name, leaf in leaves.items()
    }


class Training(NamedTuple):
    """An optimizer with its options, and what the gradient is clipped to."""

    name: str
    make: Callable[[Iterable[Tensor]], Optimizer]
    clip_norm: float | None = None


OPTIMIZERS = (
    Training("SGD", lambda p: SGD(p, 0.1)),
    Training("SGD, clipping", lambda p: SGD(p, 0.1), 0.5),
    Training("SGD, momentum, weight_decay", lambda p: SGD(p, 0.1, 0.9, weight_decay=0.01)),
    Training("SGD, Nesterov", lambda p: SGD(p, 0.1, 0.9, nesterov=True)),
    Training("Adam", lambda p: Adam(p, 0.01, eps=EPSILON, weight_decay=0.01)),
    Training("AdamW, clipping", lambda p: AdamW(p, 0.01, eps=EPSILON), 0.5),
    Training("RMSprop, by itself", lambda p: RMSprop(p, 0.01, eps=EPSILON)),
)
STEPS = 3


def check_steps(setting: Setting) -> Iterator[Finding]:
    """Objective.step with each optimizer, in one call and in tiles, bfloat16 and float16 parameters among them."""
    for training, dtype in itertools.product(OPTIMIZERS, DTYPES):
        for sizes, tile_rows in ((SMALL, "auto"), (setting.sizes, "auto"), (setting.sizes, ROWS)):
            case = Case("gelu", "cross_entropy", "auto", dtype, sizes)
            yield from _steps(training, case, setting, tile_rows)
    head = Case("relu", "cross_entropy", "auto", torch.float32, large_head(setting.device, torch.float32))
    yield from _steps(OPTIMIZERS[0], head, setting, "auto")


def _steps(
    training: Training, case: Case, setting: Setting, tile_rows: int | str, context: Context = nullcontext,
    dtype: torch.dtype | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """The parameters after three steps, each with rows of its own."""
    values, dtype = values_of(case, setting.device), dtype or case.dtype
    samples = Samples(f"steps {case}", setting.device, case.dtype)
    batches = [(samples.normal(*values["x"].shape), values["y"].flip(0)) for _ in range(STEPS)]
    objective = objective_of(case, values)
    optimizer = training.make(objective.parameters())
    for x, y in batches:
        with context():
            objective.step(x, y, optimizer, tile_rows=tile_rows, clip_norm=training.clip_norm)
    got = layers_of(objective.mlp)
    torchs = _by_torch(training, case, values, batches, context)
    on_cpu = [(x.double().cpu(), y.cpu()) for x, y in batches]
    truth = _by_torch(training, case, {name: values[name].double().cpu() for name in PARAMETERS}, on_cpu, nullcontext)
    # SGD inside the products: on a CPU they may add a row's term to the weight at a time, and round it each time
    one_by_one = setting.device.type == "cpu" and dtype == torch.float32 and training.name == "SGD"
    steps = STEPS * case.sizes[0] ** 0.5 if one_by_one else 1.0
    for name in PARAMETERS:
        what = f"step, {training.name}, tile_rows={tile_rows}{_said(context)}, {name}: {case}"
        yield compare(what, dtype, got[name], torchs[name], truth[name], steps=steps)


def _by_torch(
    training: Training, case: Case, start: Values, batches: Iterable[tuple[Tensor, Tensor]], context: Context
) -> Values:
    v: Values = {name: nn.Parameter(start[name].clone()) for name in PARAMETERS}
    optimizer = training.make(v.values())
    for x, y in batches:
        optimizer.zero_grad()
        with context():
            J = eager_objective(case, {"x": x, **v}, y)
        J.backward()
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(v.values(), training.clip_norm)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in v.items()}
