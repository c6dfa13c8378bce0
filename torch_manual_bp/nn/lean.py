"""What the lean steps refuse, by name, before they write: all that a gradient written by hand would pass by."""

import math
from numbers import Real
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ..equations import ACTIVATIONS
from ..training.problem import PARAMETERS, Net
from .mlp import MLP


def net_of(mlp: MLP, op: str) -> Net:
    """The MLP's parameters, to compute with directly.

    Raises:
        RuntimeError: one of its layers does more with them than multiply.
    """
    weights = mlp.plain_weights()
    if weights is None:
        raise RuntimeError(
            f"{op}: mlp's fc1 and fc2 must be plain nn.Linear layers without hooks, since they are not called; "
            "the usual loop J = objective(x, y); J.backward() calls them"
        )
    return Net(*weights, ACTIVATIONS[mlp.activation])


def parameters_of(net: Net, op: str) -> dict[str, nn.Parameter]:
    """The parameters that need a gradient, by symbol.

    Raises:
        RuntimeError: one has hooks that only autograd would call.
        TypeError: one is no leaf of its own.
    """
    trained = {}
    for name in PARAMETERS:
        parameter = getattr(net, name)
        if parameter is None or not parameter.requires_grad:
            continue
        if not parameter.is_leaf:
            raise TypeError(f"{op}: {name} must be a parameter, got a tensor that was computed")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise RuntimeError(
                f"{op}: {name} has hooks on its gradient, which only J.backward() calls: "
                "remove them, or use the usual loop"
            )
        trained[name] = parameter
    return trained


def check_writable(parameters: dict[str, nn.Parameter], op: str) -> None:
    """Raise unless each parameter can be overwritten without another tensor noticing.

    Raises:
        RuntimeError: it is a view, or shares memory with another.
        ValueError: it is not contiguous.
    """
    storages: dict[int, str] = {}
    for name, parameter in parameters.items():
        if parameter._base is not None:
            raise RuntimeError(f"{op}: {name} must own its memory, got a view of another tensor")
        if not parameter.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {parameter.stride()}")
        other = storages.setdefault(parameter.untyped_storage().data_ptr(), name)
        if other != name and parameter.numel():
            raise RuntimeError(f"{op}: {name} must own its memory, it shares that of {other}")


def trained_by(optimizer: Optimizer, parameters: dict[str, nn.Parameter], op: str) -> dict[str, nn.Parameter]:
    """Those of the parameters that the optimizer trains.

    Raises:
        TypeError: no optimizer.
        ValueError: it trains others as well, or none of them; it evaluates J by itself; its lr makes no step.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{op}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"{op}: optimizer must make its step of one gradient, got LBFGS, which asks a closure for more of them; "
            "call accumulate_grad(x, y) in the closure"
        )
    for group in optimizer.param_groups:
        lr = group.get("lr", 0.0)
        if isinstance(lr, int | float) and not 0 <= lr < math.inf:
            raise ValueError(f"{op}: the optimizer's lr must be finite and not negative, got {lr}")
    theirs = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    mine = {name: parameter for name, parameter in parameters.items() if id(parameter) in theirs}
    others = sum(p.requires_grad for p in theirs.values()) - len({id(parameter) for parameter in mine.values()})
    if others or not mine:
        problem = f"{others} others as well" if others else "none of them"
        raise ValueError(
            f"{op}: optimizer must train this mlp's parameters alone, it trains {problem}; "
            "accumulate_grad(x, y) and optimizer.step() go with any"
        )
    return mine


def group_of(process_group: Any, local: bool, op: str) -> Any:
    """The group to sum over, or None for this process alone.

    Raises:
        RuntimeError: there are other processes, and neither a group nor ``local`` was given.
        ValueError: both were given.
    """
    if process_group is not None and local:
        raise ValueError(f"{op}: give process_group or local=True, not both")
    alone = process_group is None and not local and dist.is_available() and dist.is_initialized()
    if alone and dist.get_world_size() > 1:
        raise RuntimeError(
            f"{op}: there are {dist.get_world_size()} processes, whose gradients would differ; give process_group "
            "(torch.distributed.group.WORLD is all of them), or local=True to leave them apart"
        )
    return process_group


def checked_number(op: str, name: str, value: Any, positive: bool) -> float:
    """A finite float.

    Raises:
        TypeError: no number.
        ValueError: not finite, or not positive where it has to be.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}")
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f"{op}: {name} must be finite{' and positive' if positive else ''}, got {value}")
    return float(value)
