"""J and its gradient over a batch, a tile of rows at a time, on one process or over a group of them."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..equations import ACTIVATIONS
from .problem import PARAMETERS, WEIGHTS, Batch, Goal, Maybe, Net, exact_dtype, sum_dtype
from .steps import Steps, steps
from .tiles import run_tiles
from .tiling import Tiling
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


class Gradient(NamedTuple):
    """What a pass over the batch amounts to.

    Attributes:
        J: the objective, 0-dim.
        penalty: the factor of W in ∂J/∂W, which is left to be added.
        factor: what the products of ``left`` are to be multiplied with.
        left: of a batch of one tile: x, h, g and dz, for products that are left to the update.
    """

    J: Tensor
    penalty: float | Tensor
    factor: float
    left: Mapping[str, Maybe]


def is_one_tile(net: Net, batch: Batch, tile: Tiling) -> bool:
    """Whether nothing is cut."""
    return len(batch.x) <= tile.rows and net.w2.shape[0] <= tile.classes


def room(
    wanted: Mapping[str, Tensor], net: Net, batch: Batch, tile: Tiling, dtype: torch.dtype, share: Share,
    workspace: Workspace | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Tensors for the gradients of what is wanted, by symbol: x, w1, b1, w2, b2; new ones, or the workspace's.

    Sums are longer than 16-bit products, except where there is nothing to add: one tile of one process makes a weight's
    gradient in one product, which is rounded once, as autograd's is.
    """
    alone = is_one_tile(net, batch, tile) and share.group is None
    made = {}
    for name, like in wanted.items():
        once = name == "x" or (alone and name in WEIGHTS and like.dtype is dtype)
        longer = dtype if once else sum_dtype(like.dtype)
        if workspace is None:
            made[f"d{name}"] = torch.empty_like(like, dtype=longer, memory_format=torch.contiguous_format)
        else:
            made |= workspace.take({f"d{name}": tuple(like.shape)}, longer, like.device)
    return made


def gradient(
    net: Net, goal: Goal, batch: Batch, sums: Mapping[str, Tensor], tile: Tiling, dtype: torch.dtype,
    workspace: Workspace, share: Share, in_update: bool = False,
) -> Gradient:  # fmt: skip
    """J, and ∂L/∂X in ``sums`` for each dX there.

    Args:
        net: the parameters.
        goal: the objective.
        batch: the rows.
        sums: dx, dw1, db1, dw2, db2, as far as wanted; overwritten.
        tile: the largest tile.
        dtype: of the matrix products.
        workspace: of the temporaries.
        share: how the rows count.
        in_update: whether dw1 and dw2 are left to the update of the weights, for which the factors are kept; of a
            batch of one tile.
    """
    loss, q = goal.loss, net.w2.shape[0]
    mean = loss.reduction == "mean"
    N: float | Tensor = 1.0
    if mean:
        N = _summed_number(loss.normalizer(batch.y, goal.class_weight, batch.row_weight), net.w1.device, share.group)
    whole = N if share.normalizer is None else share.normalizer
    over = _over(whole * loss.terms(q) if mean else 1.0, share.scale)
    if over.row_weight is not None:
        weight = over.row_weight.to(sum_dtype(dtype))
        of_rows = weight.expand(len(batch.x)).contiguous() if batch.row_weight is None else batch.row_weight * weight
        batch = batch._replace(row_weight=of_rows)
    factor = loss.gradient_factor * over.factor
    left: Mapping[str, Maybe] = {}
    if len(batch.x) > 0:
        table = _steps(
            net.phi.name, frozenset(sums) | (_OF_WEIGHTS if in_update else set()), dtype in _SHORT,
            "left to the update" if in_update else _kind_of(sums, dtype), batch.x.dtype is not dtype,
            tile.classes < q, loss.takes_classes,
        )  # fmt: skip
        total, left = run_tiles(table, _in_dtype(net, dtype, workspace), goal, batch, tile, factor, sums, workspace)
    else:
        total = net.w1.new_zeros((), dtype=exact_dtype(net.w1.device))
        for tensor in sums.values():
            tensor.zero_()
    total = _summed(total, share.group)
    for name in PARAMETERS:
        if f"d{name}" in sums:
            _summed(sums[f"d{name}"], share.group)
    part = 1.0 if share.normalizer is None else N / share.normalizer
    J = (total / over.divisor).to(sum_dtype(net.w1.dtype))
    if goal.weight_decay:
        norms = [torch.linalg.vector_norm(w, dtype=J.dtype).square() for w in (net.w1, net.w2)]
        J += (norms[0] + norms[1]) * (0.5 * goal.weight_decay * part)  # J = L + λ/2 (‖W1‖² + ‖W2‖²)
    return Gradient(J, share.scale * goal.weight_decay * part, factor, left)


def add_penalty(sums: Mapping[str, Tensor], net: Net, penalty: float | Tensor) -> None:
    """Make ∂J/∂W of ∂L/∂W, in place: dW1 = dZᵀ X + λ W1, dW2 = dOᵀ H + λ W2."""
    for name, w in (("dw1", net.w1), ("dw2", net.w2)):
        if name not in sums:
            continue
        if isinstance(penalty, Tensor):
            sums[name].addcmul_(w, penalty.to(sums[name].dtype))
        elif penalty:
            sums[name].add_(w, alpha=penalty)


_OF_WEIGHTS = {"dw1", "dw2"}


@cache
def _steps(
    activation: str, wanted: frozenset[str], short: bool, sums: str, cast: bool, tiled: bool, by_class: bool
) -> Steps:
    return steps(ACTIVATIONS[activation], wanted, short, sums, cast, tiled, statistics=tiled and by_class)


def _kind_of(sums: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """What the products that make dw1 and dw2 have to do with the sums' dtype."""
    of_weights = [sums[name] for name in _OF_WEIGHTS & sums.keys()]
    if all(tensor.dtype is dtype for tensor in of_weights):
        return "same"
    return "longer" if of_weights[0].is_cuda else "rounded"


class _Over(NamedTuple):
    """How a sum over rows becomes what is wanted, for ∂J/∂O = factor · Ĝ · scale and L = Σ r l / divisor.

    Attributes:
        factor: without the loss's own.
        divisor: of the sum of the losses.
        row_weight: what each row is weighted with besides: where the device alone knows the number of rows, it comes
            into the sums by the rows, and nobody has to wait for it.
    """

    factor: float
    divisor: float | Tensor
    row_weight: Tensor | None


def _over(mean_of: float | Tensor, scale: float) -> _Over:
    if not isinstance(mean_of, Tensor):
        return _Over(scale / mean_of if mean_of else 0.0, mean_of, None)  # for none at all: NaN, whose gradient is 0
    in_rows = scale or 1.0  # so that 16-bit gradients are scaled before they are rounded
    inverse = torch.where(mean_of == 0, torch.zeros_like(mean_of), in_rows / mean_of)
    return _Over(1.0 if scale else 0.0, in_rows * (mean_of / mean_of), inverse)


def _summed(tensor: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
    """The sum over the group's processes, in place."""
    if group is not None:
        dist.all_reduce(tensor, group=group)
    return tensor


def _summed_number(n: float | Tensor, device: torch.device, group: "dist.ProcessGroup | None") -> float | Tensor:
    """The sum over the processes, as a number where looking at it costs no wait."""
    if group is not None and not isinstance(n, Tensor):
        n = torch.full((), n, dtype=exact_dtype(device), device=device)
    if not isinstance(n, Tensor):
        return n
    n = _summed(n, group)
    return n.item() if n.is_cpu else n.to(exact_dtype(n.device))


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
