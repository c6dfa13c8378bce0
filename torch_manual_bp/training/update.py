"""The training step: gradient and update in one.

All that can fail or be interrupted comes before the one call that writes the parameters and the optimizer's state.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import kernels
from .gradient import Share, add_penalty, gradient
from .optimizers import Rule, fused_rule, mark_stepped
from .problem import WEIGHTS, Batch, Goal, Net, sum_dtype
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
    rule = fused_rule(optimizer, parameters)
    one_tile = 0 < len(batch.x) <= tile.rows and tile.classes >= net.w2.shape[0]
    if (
        rule is not None and rule.kind == "sgd" and clip_norm is None and one_tile
        and share.group is None and dtype is net.w1.dtype and batch.x.is_cpu
    ):  # fmt: skip
        J = _sgd_in_products(net, goal, batch, rule, tile, dtype, workspace, share)
    else:
        sums = sums_for(net, parameters, workspace)
        J, _, penalty, _ = gradient(net, goal, batch, sums, tile, dtype, workspace, share)
        if rule is None:
            add_penalty(sums, net, penalty)
            _by_the_optimizer(optimizer, parameters, sums, clip_norm)
            return J
        rule.apply(sums, penalty, math.inf if clip_norm is None else clip_norm)
    mark_stepped(optimizer, parameters)
    return J


def sums_for(net: Net, parameters: dict[str, nn.Parameter], workspace: Workspace) -> dict[str, Tensor]:
    """Room for the gradients, in the workspace."""
    shapes = {f"d{name}": tuple(parameter.shape) for name, parameter in parameters.items()}
    return workspace.take(shapes, sum_dtype(net.w1.dtype), net.w1.device)


def _sgd_in_products(
    net: Net, goal: Goal, batch: Batch, rule: Rule, tile: Tiling, dtype: torch.dtype, workspace: Workspace,
    share: Share,
) -> Tensor:  # fmt: skip
    """SGD with its update of w1 and w2 inside the matrix products that make their gradients: there is no dW.

    W1 ← (1−ηλ) W1 − η dZᵀX, W2 ← (1−ηλ) W2 − η dOᵀH. Everything that reads W2 has been computed by then.
    """
    weights = [name for name in rule.parameters if name in WEIGHTS]
    biases = [name for name in rule.parameters if name not in WEIGHTS]
    sums = sums_for(net, {name: rule.parameters[name] for name in biases}, workspace)
    factors = frozenset(f"d{name}" for name in weights)
    J, factor, penalty, last = gradient(net, goal, batch, sums, tile, dtype, workspace, share, factors)
    left_and_right = {"w1": (last["dzᵀ"], last["x"]), "w2": (last["gᵀ"], last["h"])}
    of = dict(zip(rule.parameters, rule.numbers, strict=True))  # (lr, weight_decay, 0)
    kernels.sgd_products_(
        [rule.parameters[name].detach() for name in weights],
        [left_and_right[name][0] for name in weights],  # type: ignore[misc]
        [left_and_right[name][1] for name in weights],  # type: ignore[misc]
        [1 - of[name][0] * (of[name][1] + penalty) for name in weights],
        [of[name][0] * factor for name in weights],  # type: ignore[misc]  # a number, on the CPU
        [rule.parameters[name].detach() for name in biases],
        [sums[f"d{name}"] for name in biases],
        [1 - of[name][0] * of[name][1] for name in biases],
        [of[name][0] for name in biases],
    )
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
