"""Batches of one tile on the CPU: gradient, or gradient and update, in one call of the extension.

Where a net is small, Python and dispatch are most of a step, so nothing is done here that need not be done each time.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import kernels
from .gradient import Share, is_one_tile
from .optimizers import Rule
from .problem import Batch, Goal, Net
from .tiling import Tiling


def fits_one_call(net: Net, batch: Batch, tile: Tiling, dtype: torch.dtype, share: Share) -> bool:
    """Whether the batch is one tile, in one dtype, of one process, where there are ops for it."""
    return (
        is_one_tile(net, batch, tile) and share.group is None
        and dtype is net.w1.dtype and batch.x.dtype is dtype and kernels.has_one_call(batch.x)
        and all(parameter is None or parameter.is_contiguous() for parameter in net[:4])
    )  # fmt: skip


def gradient_in_one_call(net: Net, goal: Goal, batch: Batch, gradients: Mapping[str, Tensor], share: Share) -> Tensor:
    """J, and in ``gradients`` ∂J/∂p, penalty included, by dw1, db1, dw2, db2."""
    return kernels.objective_gradient_(
        batch.x.contiguous(), batch.y, batch.row_weight, *net[:4], goal.class_weight, net.phi.name, goal.loss,
        goal.weight_decay, share.scale, share.normalizer or 0.0, False,
        gradients.get("dw1"), gradients.get("db1"), gradients.get("dw2"), gradients.get("db2"),
    )  # fmt: skip


def step_in_one_call(net: Net, goal: Goal, batch: Batch, rule: Rule, clip_norm: float) -> Tensor:
    """J before the step, which the rule makes of all parameters."""
    w1, b1, w2, b2, phi = net
    of_objective = (
        batch.x.contiguous(), batch.y, batch.row_weight, w1, b1, w2, b2, goal.class_weight, phi.name,
        goal.loss, goal.weight_decay,
    )  # fmt: skip
    hyper = rule.hyper(goal.weight_decay)
    if rule.kind == "adam":
        exp_avg, exp_avg_sq, steps = rule.states
        return kernels.objective_adam_(*of_objective, exp_avg, exp_avg_sq, steps, hyper, clip_norm, rule.flag)
    return kernels.objective_sgd_(*of_objective, rule.states[0], hyper, clip_norm, rule.flag)
