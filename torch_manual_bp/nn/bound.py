"""Steps that were checked once: the same call again, as long as nothing has changed that the checks looked at.

A step of a small net takes some ten microseconds; to look at every tensor, layer and option anew takes several times as
long. So what the whole way found is kept, and each call asks by identity whether it still holds. Where it does not, or
the extension refuses what it is given, the whole way is gone again, with its checks and its words.
"""

import math
from collections.abc import Callable
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.optim import Optimizer

from .. import kernels
from ..autograd import state
from ..training.gradient import Share
from ..training.one_call import fits_one_call
from ..training.optimizers import cannot_be_captured, fused_rule, hooks_on_step, mark_stepped
from ..training.problem import Batch, Goal, Net
from ..training.tiling import Tiling
from .mlp import HOOKS, MLP

_distributed: Callable[[], bool] = dist.is_initialized if dist.is_available() else lambda: False


class Bound:
    """What the checks of a call have looked at, of the objective and its net.

    Args:
        objective: the objective.
        tile_rows: as it was given.
        net: the parameters of its MLP.
        goal: its loss and λ.
        rows: the most that one call takes.
    """

    def __init__(self, objective: nn.Module, tile_rows: int | str, net: Net, goal: Goal, rows: int) -> None:
        mlp: MLP = objective.mlp  # type: ignore[assignment]
        self.objective, self.tile_rows, self.rows, self.goal = objective.__dict__, tile_rows, rows, goal
        self.loss, self.weight_decay = goal.loss, goal.weight_decay
        self.parameters: list[nn.Parameter] = [p for p in net[:4] if p is not None]  # type: ignore[misc]
        self.pointers = [parameter.data_ptr() for parameter in self.parameters]
        self.tensors: Any = tuple(None if p is None else p.detach() for p in net[:4])
        self.phi = net.phi.name
        self.layers = layers = (mlp.fc1, mlp.fc2)
        self.same: list[tuple[dict[Any, Any], Any, Any]] = [
            (objective._modules, "mlp", mlp),
            (objective._buffers, "class_weight", objective._buffers["class_weight"]),
            (self.objective, "loss", goal.loss),
            (self.objective, "validate", objective.validate),
            (mlp._modules, "fc1", mlp.fc1),
            (mlp._modules, "fc2", mlp.fc2),
            (mlp.__dict__, "activation", mlp.activation),
            *((layer._parameters, name, getattr(layer, name)) for layer in layers for name in ("weight", "bias")),
            *((module.__dict__, "forward", None) for module in (mlp, *layers)),  # none but the class's
        ]
        self.hooks: list[Any] = [module.__dict__[hooks] for module in (mlp, *layers) for hooks in HOOKS]

    def asked_by(self, objective: nn.Module, tile_rows: int | str) -> bool:
        """Whether the same objective asks for the same tile; a shallow copy is another one."""
        return self.objective is objective.__dict__ and type(tile_rows) in (int, str) and tile_rows == self.tile_rows

    def holds(self, x: Tensor, y: Tensor) -> bool:
        """Whether all that was looked at is as it was, for a call with these rows."""
        if type(x) is not Tensor or type(y) is not Tensor or x.requires_grad or y.requires_grad:
            return False
        if (
            x.dim() != 2
            or x.size(0) > self.rows
            or _distributed()
            or not state.nothing_around()
            or _has_any_global_hook()
        ):
            return False
        for place, name, thing in self.same:
            if place.get(name) is not thing:
                return False
        for layer in self.layers:
            if type(layer) is not nn.Linear:  # a class can be changed in place
                return False
        for parameter, pointer in zip(self.parameters, self.pointers):  # noqa: B905  (strict costs a third)
            if (
                parameter.data_ptr() != pointer or not parameter.is_contiguous() or not parameter.requires_grad
                or parameter._backward_hooks or parameter._post_accumulate_grad_hooks
            ):  # fmt: skip
                return False
        return self.objective["weight_decay"] == self.weight_decay and not any(self.hooks)


class BoundGradient(Bound):
    """`Objective.accumulate_grad` in one call, with its default options."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor | None:
        """J; None where something is no longer as it was."""
        if not self.holds(x, y):
            return None
        before = [parameter.grad for parameter in self.parameters]
        add = before[0] is not None
        if any((gradient is not None) is not add for gradient in before):
            return None
        gradients: Any = before if add else [torch.empty_like(parameter) for parameter in self.parameters]
        given = iter(gradients)
        w1, b1, w2, b2 = self.tensors
        dw1, db1, dw2, db2 = (None if tensor is None else next(given) for tensor in self.tensors)
        try:
            J = kernels.objective_gradient_(
                x, y, None, w1, b1, w2, b2, self.goal.class_weight, self.phi, self.loss, self.weight_decay,
                1.0, 0.0, add, dw1, db1, dw2, db2,
            )  # fmt: skip
        except RuntimeError:  # what does not fit is told by the whole way
            return None
        if add:
            torch.autograd.graph.increment_version(gradients)
        else:
            for parameter, gradient in zip(self.parameters, gradients):  # noqa: B905
                parameter.grad = gradient
        return J


class BoundStep(Bound):
    """`Objective.step` in one call, with one optimizer and its options."""

    def __init__(
        self, objective: nn.Module, tile_rows: int | str, net: Net, goal: Goal, rows: int, optimizer: Optimizer,
        clip_norm: float | None,
    ) -> None:  # fmt: skip
        super().__init__(objective, tile_rows, net, goal, rows)
        self.optimizer, self.clip_norm = optimizer, clip_norm
        self.clip = math.inf if clip_norm is None else clip_norm
        self.named = {name: p for name, p in net._asdict().items() if isinstance(p, nn.Parameter)}
        self.hooks += hooks_on_step(optimizer)
        self.same.append((optimizer.__dict__, "step", optimizer.__dict__.get("step")))
        self._read_optimizer()

    def __call__(self, x: Tensor, y: Tensor, optimizer: Optimizer) -> Tensor | None:
        """J before the step; None where something is no longer as it was."""
        if optimizer is not self.optimizer or not self.holds(x, y) or not self._optimizer_holds():
            return None
        if self.counted and cannot_be_captured(self.parameters, self.counted):  # said by the whole way
            return None
        try:
            J = self.step(x, y)
        except RuntimeError:  # what does not fit is told by the whole way
            return None
        mark_stepped(optimizer, self.parameters)
        return J

    def _optimizer_holds(self) -> bool:
        groups = self.optimizer.param_groups
        if self.optimizer.state is not self.state or len(groups) != len(self.groups):
            return False
        for group, members in zip(groups, self.groups):  # noqa: B905
            if len(group["params"]) != len(members) or not all(map(is_, group["params"], members)):
                return False
        if [list(group.values()) for group in groups] != self.numbers and not self._read_optimizer():
            return False
        return all(place.get(name) is thing for place, name, thing in self.slots)

    def _read_optimizer(self) -> bool:
        """Take over its numbers and its state; whether they can be."""
        optimizer = self.optimizer
        rule = fused_rule(optimizer, self.named)
        if rule is None:
            return False
        w1, b1, w2, b2 = self.tensors
        bind: Any = kernels.bind_adam if rule.kind == "adam" else kernels.bind_sgd
        self.step: kernels.BoundStep = bind(
            w1, b1, w2, b2, self.goal.class_weight, self.phi, self.loss, self.weight_decay,
            *rule.states, rule.hyper(self.weight_decay), self.clip, rule.flag,
        )  # fmt: skip
        self.counted = {step.device for step in rule.states[2]} if rule.kind == "adam" else set()
        self.groups = [tuple(group["params"]) for group in optimizer.param_groups]
        self.numbers = [list(group.values()) for group in optimizer.param_groups]
        self.state = optimizer.state
        self.slots: list[tuple[Any, Any, Any]] = []
        for parameter in self.parameters if rule.kind != "sgd" else ():
            of_parameter = self.state[parameter]
            self.slots += [
                (self.state, parameter, of_parameter),
                *((of_parameter, *item) for item in of_parameter.items()),
            ]
        return True


class BoundCalls:
    """The last bound call of each kind; none of them is copied or pickled with the objective."""

    def __init__(self) -> None:
        self.gradient: BoundGradient | None = None
        self.step: BoundStep | None = None

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return BoundCalls, ()


def bind_gradient(
    objective: nn.Module, tile_rows: int | str, net: Net, goal: Goal, batch: Batch, tile: Tiling, dtype: torch.dtype,
    share: Share, parameters: dict[str, nn.Parameter],
) -> BoundGradient | None:  # fmt: skip
    """This call, bound; None where it takes more than one call of the extension."""
    if not _one_call(objective, net, goal, batch, tile, dtype, share, parameters):
        return None
    return BoundGradient(objective, tile_rows, net, goal, len(batch.x))


def bind_step(
    objective: nn.Module, tile_rows: int | str, net: Net, goal: Goal, batch: Batch, tile: Tiling, dtype: torch.dtype,
    share: Share, parameters: dict[str, nn.Parameter], optimizer: Optimizer, clip_norm: float | None,
) -> BoundStep | None:  # fmt: skip
    """This call, bound; None where it takes more than one call of the extension."""
    if not _one_call(objective, net, goal, batch, tile, dtype, share, parameters):
        return None
    if fused_rule(optimizer, parameters) is None:
        return None
    return BoundStep(objective, tile_rows, net, goal, len(batch.x), optimizer, clip_norm)


def _one_call(
    objective: nn.Module, net: Net, goal: Goal, batch: Batch, tile: Tiling, dtype: torch.dtype, share: Share,
    parameters: dict[str, nn.Parameter],
) -> bool:  # fmt: skip
    """Whether one call does it, on the tensors themselves: no copy of class weights, no parameter in two places.

    Labels on an accelerator are not looked at in that call, so where they are to be, each call goes the whole way.
    """
    if objective.validate and goal.loss.takes_classes and not batch.x.is_cpu:
        return False
    every = sum(parameter is not None for parameter in net[:4])
    distinct = len(set(map(id, parameters.values()))) == every
    return (
        distinct and goal.class_weight is objective.class_weight and fits_one_call(net, batch, tile, dtype, share)
    )  # fmt: skip
