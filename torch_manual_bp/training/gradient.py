"""J and its gradient over a batch, a tile of rows at a time, on one process or over a group of them."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..equations import ACTIVATIONS
from . import tiling
from .problem import PARAMETERS, Batch, Goal, Net, exact_dtype, sum_dtype
from .steps import Steps, steps
from .tiles import run_tiles
from .workspace import Workspace

_SHORT = (torch.bfloat16, torch.float16)


class Share(NamedTuple):
    """How the rows of a call count.

    Attributes:
        scale: what J is multiplied with before it is differentiated.
        normalizer: N of a larger batch, of which these rows are a part; None: they are the whole batch.
        group: the processes whose rows make up the batch together; None: this one alone.
    """

    scale: float = 1.0
    normalizer: float | None = None
    group: "dist.ProcessGroup | None" = None


def gradient(
    net: Net, goal: Goal, batch: Batch, sums: Mapping[str, Tensor], tile: tiling.Tiling, dtype: torch.dtype,
    workspace: Workspace, share: Share,
) -> tuple[Tensor, float]:  # fmt: skip
    """J, ∂L/∂X in ``sums`` for each dX there, and the factor of W in ∂J/∂W, which is left to be added.

    Args:
        net: the parameters.
        goal: the objective.
        batch: the rows.
        sums: dx, dw1, db1, dw2, db2, as far as wanted; overwritten.
        tile: the largest tile.
        dtype: of the matrix products.
        workspace: of the temporaries.
        share: how the rows count.
    """
    loss, q = goal.loss, net.w2.shape[0]
    cast = batch.x.dtype is not dtype
    table = _steps(net.phi.name, frozenset(sums), dtype in _SHORT, cast, tile.classes < q, loss.takes_classes)
    N = _number(_summed(loss.normalizer(batch.y, goal.class_weight, batch.row_weight), share.group))
    whole = N if share.normalizer is None else share.normalizer
    mean_of = whole * loss.terms(q) if loss.reduction == "mean" else 1.0
    factor = (share.scale * loss.gradient_factor) * _inverse(mean_of)
    if len(batch.x) > 0:
        products = _in_dtype(net, dtype, workspace)
        total = run_tiles(table, products, goal, batch, tile, factor, sums, workspace)
    else:
        total = net.w1.new_zeros((), dtype=exact_dtype(net.w1.device))
        for tensor in sums.values():
            tensor.zero_()
    total = _summed(total, share.group)
    for name in PARAMETERS:
        if f"d{name}" in sums:
            _summed(sums[f"d{name}"], share.group)
    part = 1.0 if share.normalizer is None else float(N) / share.normalizer
    J = (total / mean_of).to(sum_dtype(net.w1.dtype))
    if goal.weight_decay:
        norms = [_squared_norm(w, J.dtype) for w in (net.w1, net.w2)]
        J.add_(norms[0].add(norms[1]), alpha=0.5 * part * goal.weight_decay)  # J = L + λ/2 (‖W1‖² + ‖W2‖²)
    return J, share.scale * part * goal.weight_decay


def _squared_norm(w: Tensor, dtype: torch.dtype) -> Tensor:
    """‖W‖², row by row: on a CPU torch's norm adds the squares one after another, 1e-3 off for 4096 × 4096 of them."""
    return torch.linalg.vector_norm(w, dim=1, dtype=dtype).square_().sum()


def add_penalty(sums: Mapping[str, Tensor], net: Net, penalty: float) -> None:
    """Make ∂J/∂W of ∂L/∂W, in place."""
    for name, w in (("dw1", net.w1), ("dw2", net.w2)):
        if penalty and name in sums:
            sums[name].add_(w, alpha=penalty)  # dW1 = dZᵀ X + λ W1, dW2 = dOᵀ H + λ W2


@cache
def _steps(activation: str, wanted: frozenset[str], short: bool, cast: bool, tiled: bool, by_class: bool) -> Steps:
    return steps(ACTIVATIONS[activation], wanted, short, cast, classes_tiled=tiled, statistics=tiled and by_class)


def _summed(tensor: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
    """The sum over the group's processes, in place."""
    if group is not None:
        dist.all_reduce(tensor, group=group)
    return tensor


def _number(N: Tensor) -> float | Tensor:
    """N as a number where looking at it costs no wait."""
    return N.item() if N.is_cpu else N.to(exact_dtype(N.device))


def _inverse(n: float | Tensor) -> float | Tensor:
    """1/n, or 0 for n = 0: the gradient of nothing."""
    if isinstance(n, Tensor):
        return torch.where(n == 0, torch.zeros_like(n), 1 / n)
    return 1 / n if n else 0.0


def _in_dtype(net: Net, dtype: torch.dtype, workspace: Workspace) -> Net:
    """The net as the kernels take it: copies in the workspace where the dtype is another; contiguous biases."""
    if net.w1.dtype is dtype:
        b1, b2 = (None if b is None else b.contiguous() for b in (net.b1, net.b2))
        return net._replace(b1=b1, b2=b2)
    given = {name: tensor for name in PARAMETERS if (tensor := getattr(net, name)) is not None}
    shapes = {f"{name} in another dtype": tuple(tensor.shape) for name, tensor in given.items()}
    copies = workspace.take(shapes, dtype, net.w1.device)
    copied = {name: copy.copy_(given[name]) for name, copy in zip(given, copies.values(), strict=True)}
    return Net(copied["w1"], copied.get("b1"), copied["w2"], copied.get("b2"), net.phi)
