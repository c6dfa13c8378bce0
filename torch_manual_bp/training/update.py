"""The training step: gradient and update in one.

All that can fail or be interrupted comes before the one call that writes the parameters and the optimizer's state.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .gradient import Share, add_penalty, gradient
from .one_call import fits_one_call, step_in_one_call
from .optimizers import fused_rule, mark_stepped
from .problem import Batch, Goal, Net, sum_dtype
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
    if rule is not None and fits_one_call(net, batch, tile, dtype, share) and rule.trains_all(net):
        J = step_in_one_call(net, goal, batch, rule, clip)
    else:
        room = Workspace() if rule is None else workspace  # an optimizer may keep the gradients that it is given
        sums = _sums(net, parameters, room)
        J, penalty = gradient(net, goal, batch, sums, tile, dtype, workspace, share)
        if rule is None:
            add_penalty(sums, net, penalty)
            _by_the_optimizer(optimizer, parameters, sums, clip_norm)
            return J
        rule.apply(sums, penalty, clip)
    mark_stepped(optimizer, parameters.values())
    return J


def _sums(net: Net, parameters: dict[str, nn.Parameter], workspace: Workspace) -> dict[str, Tensor]:
    """Room for the gradients."""
    shapes = {f"d{name}": tuple(parameter.shape) for name, parameter in parameters.items()}
    return workspace.take(shapes, sum_dtype(net.w1.dtype), net.w1.device)


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
