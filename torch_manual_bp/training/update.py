"""The training step: gradient and update in one.

All that can fail or be interrupted comes before the one call that writes the parameters and the optimizer's state.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .gradient import Share, add_penalty, gradient, is_one_tile, room
from .one_call import fits_one_call, step_in_one_call
from .optimizers import Rule, fused_rule, mark_stepped
from .problem import WEIGHTS, Batch, Goal, Net
from .tiling import Tiling
from .workspace import Workspace


@torch.no_grad()
def step(
    net: Net, goal: Goal, batch: Batch, optimizer: Optimizer, parameters: dict[str, nn.Parameter], tile: Tiling,
    dtype: torch.dtype, workspace: Workspace, share: Share, clip_norm: float | None,
) -> Tensor:  # fmt: skip
    """One step of the optimizer on these parameters; J before it.

    Args:
        net: the parameters as tensors.
        goal: the objective.
        batch: the rows.
        optimizer: any of torch.optim.
        parameters: those that it trains, by symbol; the others stay as they are.
        tile: the largest tile.
        dtype: of the matrix products.
        workspace: of the temporaries.
        share: the group of processes.
        clip_norm: the largest norm of the gradient of J over these parameters, or None.
    """
    clip = math.inf if clip_norm is None else clip_norm
    rule = fused_rule(optimizer, parameters)
    way = way_of(net, batch, rule, tile, dtype, share, clip)
    if rule is None or way == "optimizer":
        sums = room(parameters, net, batch, tile, dtype, share)  # an optimizer may keep the gradients that it is given
        J = gradient(net, goal, batch, sums, tile, dtype, workspace, share).J
        add_penalty(sums, net, goal.weight_decay)
        _by_the_optimizer(optimizer, parameters, sums, clip_norm)
        return J
    if way == "one call":
        J = step_in_one_call(net, goal, batch, rule, clip)
    elif way == "in products":
        J = _step_in_products(net, goal, batch, rule, tile, workspace, share)
    else:
        sums = room(parameters, net, batch, tile, dtype, share, workspace)
        J = gradient(net, goal, batch, sums, tile, dtype, workspace, share).J
        rule.apply(sums, goal.weight_decay, clip)
    mark_stepped(optimizer, parameters.values())
    return J


def way_of(
    net: Net, batch: Batch, rule: Rule | None, tile: Tiling, dtype: torch.dtype, share: Share, clip: float
) -> Literal["one call", "in products", "sums", "optimizer"]:  # fmt: skip
    """How a step is made: all in one call; plain SGD in the products; sums, then a fused update, or the optimizer's."""
    if rule is None:
        return "optimizer"
    if rule.trains_all(net) and fits_one_call(net, batch, tile, dtype, share):
        return "one call"
    if clip == math.inf and _fits_products(net, batch, rule, tile, dtype, share):
        return "in products"
    return "sums" if rule.takes_sums else "optimizer"


def _fits_products(net: Net, batch: Batch, rule: Rule, tile: Tiling, dtype: torch.dtype, share: Share) -> bool:
    """Whether two products, each over all rows, can update the weights: then there is no gradient of them."""
    return (
        rule.kind == "sgd" and rule.trains_all(net) and len(batch.x) > 0 and is_one_tile(net, batch, tile)
        and share.group is None and all(parameter.dtype is dtype for parameter in rule.parameters.values())
    )  # fmt: skip


def _step_in_products(
    net: Net, goal: Goal, batch: Batch, rule: Rule, tile: Tiling, workspace: Workspace, share: Share
) -> Tensor:  # fmt: skip
    dtype, batch = net.w1.dtype, batch._replace(x=batch.x.contiguous())
    biases = {name: parameter for name, parameter in rule.parameters.items() if name not in WEIGHTS}
    sums = room(biases, net, batch, tile, dtype, share, workspace)
    J, _, factor, left = gradient(net, goal, batch, sums, tile, dtype, workspace, share, in_update=True)
    rule.apply_in_products(left, sums, goal.weight_decay, factor)
    return J


def _by_the_optimizer(
    optimizer: Optimizer, parameters: dict[str, nn.Parameter], gradients: dict[str, Tensor], clip_norm: float | None
) -> None:
    """The optimizer's own ``step()``, with these gradients in place of those that the parameters have."""
    before = {name: parameter.grad for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.grad = gradients[f"d{name}"].to(parameter.dtype)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters.values(), clip_norm)
        optimizer.step()
    finally:
        for name, parameter in parameters.items():
            parameter.grad = before[name]
