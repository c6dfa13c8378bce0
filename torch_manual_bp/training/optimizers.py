"""What a torch optimizer would do to the parameters, read off it: its rule, its numbers, its state.

The optimizer stays the owner of all of it; nothing is copied: schedulers, ``state_dict`` and a later ``step()`` of the
optimizer itself find what they expect.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as _module

from .. import kernels
from .problem import Net

_SINGLE = (torch.float32, torch.float64)
_NOT_FUSED = ("maximize", "differentiable", "capturable", "amsgrad")


Numbers = list[tuple[float, ...]]


class Rule(NamedTuple):
    """An update that the fused kernels make.

    Attributes:
        kind: "sgd", "momentum" or "adam".
        flag: nesterov of SGD with momentum; decoupled weight decay of Adam.
        parameters: what is updated, by symbol: w1, b1, w2, b2.
        numbers: of each parameter, as the kernels take them behind the penalty: (lr, weight_decay, momentum) or
            (lr, weight_decay, β1, β2, ε).
        states: of each parameter, in the order in which the kernels take them.
    """

    kind: str
    flag: bool
    parameters: dict[str, nn.Parameter]
    numbers: Numbers
    states: tuple[list[Tensor], ...]

    def apply(self, gradients: Mapping[str, Tensor], penalty: float, clip_norm: float) -> None:
        """Update the parameters and the optimizer's state, all in one call.

        Args:
            gradients: ∂L/∂p by dw1, db1, dw2, db2.
            penalty: λ, for the weights.
            clip_norm: the largest norm of the gradient of J; inf for any.
        """
        p = [parameter.detach() for parameter in self.parameters.values()]
        g = [gradients[f"d{name}"] for name in self.parameters]
        hyper = self.hyper(penalty)
        if self.kind == "adam":
            exp_avg, exp_avg_sq, step = self.states
            kernels.adam_(p, g, exp_avg, exp_avg_sq, step, hyper, clip_norm, self.flag)
        else:
            kernels.sgd_(p, g, self.states[0], hyper, clip_norm, self.flag)

    def apply_in_products(
        self, left: Mapping[str, Any], sums: Mapping[str, Tensor], penalty: float, factor: float
    ) -> None:
        """The same for plain SGD of all parameters, with the gradients of the weights not yet multiplied out.

        Args:
            left: x, h, g and dz.
            sums: db1 and db2, where there are biases.
            penalty: λ, for the weights.
            factor: of g and dz.
        """
        p = {name: parameter.detach() for name, parameter in self.parameters.items()}
        kernels.sgd_products_(
            p["w1"], p.get("b1"), p["w2"], p.get("b2"), left["x"], left["h"], left["g"], left["dz"],
            sums.get("db1"), sums.get("db2"), self.hyper(penalty), factor,
        )  # fmt: skip

    @property
    def takes_sums(self) -> bool:
        """Whether the fused kernels know the parameters' dtype."""
        return _all_single(self.parameters)

    def trains_all(self, net: Net) -> bool:
        """Whether it updates every parameter that the net has."""
        return len(self.parameters) == sum(parameter is not None for parameter in net[:4])

    def hyper(self, penalty: float) -> Tensor:
        """The numbers of each parameter, one row each, behind its penalty."""
        of_weights = {"w1": penalty, "w2": penalty}
        rows = [(of_weights.get(n, 0.0), *more) for n, more in zip(self.parameters, self.numbers, strict=True)]
        return torch.tensor(rows, dtype=torch.float64)


def hooks_on_step(optimizer: Optimizer) -> list[Mapping[Any, Any]]:
    """Where hooks on the optimizer's ``step()`` are, its own and those of all optimizers."""
    own: list[Mapping[Any, Any]] = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    return [*own, _module._global_optimizer_pre_hooks, _module._global_optimizer_post_hooks]


def fused_rule(optimizer: Optimizer, parameters: dict[str, nn.Parameter]) -> Rule | None:
    """The optimizer's update of these parameters, or None where it has to make it itself.

    SGD (with momentum, Nesterov's too), Adam and AdamW are known; not with ``maximize``, ``amsgrad``, ``capturable``,
    ``differentiable``, dampening, a learning rate that is a tensor, hooks on ``step`` or another in its place; and
    16-bit parameters only with plain SGD.
    """
    if type(optimizer) not in (SGD, Adam, AdamW) or not parameters or any(hooks_on_step(optimizer)):
        return None
    own = vars(optimizer).get("step")  # a scheduler's only notes that it was called, see mark_stepped
    if own is not None and not hasattr(own, "_wrapped_by_lr_sched"):
        return None
    groups = [_group_of(optimizer, parameter) for parameter in parameters.values()]
    if any(group.get(flag) for group in groups for flag in _NOT_FUSED):
        return None
    return (_sgd if type(optimizer) is SGD else _adam)(optimizer, parameters, groups)


def _group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))


def _sgd(optimizer: Optimizer, parameters: dict[str, nn.Parameter], groups: list[dict[str, Any]]) -> Rule | None:
    numbers: Numbers = [(group["lr"], group["weight_decay"], group["momentum"]) for group in groups]
    nesterov, momentum = {bool(group["nesterov"]) for group in groups}, {row[2] != 0 for row in numbers}
    mixed = len(nesterov) > 1 or len(momentum) > 1 or any(group["dampening"] for group in groups)
    if mixed or not _all_good(numbers):
        return None
    if momentum == {False}:
        return Rule("sgd", False, parameters, numbers, ([],))
    if not _all_single(parameters):
        return None
    buffers = []
    for parameter in parameters.values():
        state = optimizer.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        buffers.append(state["momentum_buffer"])
    return Rule("momentum", nesterov.pop(), parameters, numbers, (buffers,))


def _adam(optimizer: Optimizer, parameters: dict[str, nn.Parameter], groups: list[dict[str, Any]]) -> Rule | None:
    numbers: Numbers = [(group["lr"], group["weight_decay"], *group["betas"], group["eps"]) for group in groups]
    decoupled = {bool(group["decoupled_weight_decay"]) for group in groups}
    if len(decoupled) > 1 or not _all_good(numbers) or not _all_single(parameters):
        return None
    if torch.get_default_dtype() == torch.float64:  # the step counter would be one, too
        return None
    for parameter in parameters.values():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    states = [optimizer.state[parameter] for parameter in parameters.values()]
    lists = tuple([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    if any(step.device.type != "cpu" or step.dtype is not torch.float32 for step in lists[2]):
        return None
    return Rule("adam", decoupled.pop(), parameters, numbers, lists)


def _all_single(parameters: Mapping[str, nn.Parameter]) -> bool:
    return all(parameter.dtype in _SINGLE for parameter in parameters.values())


def _all_good(numbers: Numbers) -> bool:
    """Whether they are finite numbers, and no learning rate, the first of each row, is negative."""
    finite = all(isinstance(number, int | float) and math.isfinite(number) for row in numbers for number in row)
    return finite and all(row[0] >= 0 for row in numbers)


def mark_stepped(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Tell torch what it did not see: that parameters changed in place, and that the optimizer has stepped."""
    torch.autograd.graph.increment_version(parameters)
    optimizer._opt_called = True  # type: ignore[attr-defined]  # what learning rate schedulers look at
