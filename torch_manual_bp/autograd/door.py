"""The door: checks the arguments, then picks the path that fits what torch is doing around the call.

| torch is | path |
|---|---|
| recording (export, trace), nesting forward mode, compiling a transform, given Tensor subclasses | plain composition |
| compiling | `TracedForward` |
| transforming (torch.func), or in forward mode | `TransformedForward` |
| running eagerly, a gradient can be asked for | `MLPForward`, `ObjectiveForward` |
| running eagerly, none can | the fused kernels |
"""

import warnings
from functools import cache
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

from ..equations import Activation, Loss
from . import check, fused, pure, state
from .functions import MLPForward, TracedForward, TransformedForward
from .keep import Needs, what_to_keep
from .objective import ObjectiveForward, objective_value

Path = Literal["plain", "traced", "transformed", "eager"]
_ALL_NEEDED = Needs(True, True, True, True, True)


def mlp(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, phi: Activation, save: str, op: str
) -> Tensor:
    """O = φ(X W1ᵀ + 1 b1ᵀ) W2ᵀ + 1 b2ᵀ for x (..., d); errors speak in the name of ``op``."""
    x, w1, b1, w2, b2 = _autocast(x, w1, b1, w2, b2)
    check.save_policy(op, save)
    check.tensors(op, x, w1, b1, w2, b2)
    path = _path(x, w1, b1, w2, b2)
    with state.without_autocast(x.device.type):
        if path == "plain":
            return pure.composition(x, w1, b1, w2, b2, phi)
        flat = pure.matrix(x)
        if path == "eager":
            o = _eager(flat, w1, b1, w2, b2, phi, save)
        else:
            function = TracedForward if path == "traced" else TransformedForward
            o = function.apply(flat, w1, b1, w2, b2, phi.name, what_to_keep(phi, save, _ALL_NEEDED))[0]
        return o if x.dim() == 2 else o.view(*x.shape[:-1], w2.shape[0])


def _eager(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, phi: Activation, save: str
) -> Tensor:
    if _gradient_possible(x, w1, b1, w2, b2):
        return MLPForward.apply(x, w1, b1, w2, b2, phi.name, save)[0]
    return fused.forward(x, w1, b1, w2, b2, phi, "nothing")[0]


def objective(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, phi: Activation, save: str,
    loss: Loss, class_weight: Tensor | None, row_weight: Tensor | None, weight_decay: float, validate: bool, op: str,
) -> Tensor:  # fmt: skip
    """J = L + λ/2 (‖W1‖² + ‖W2‖²) for x (..., d) and y (...) or (..., q)."""
    if weight_decay and _is_autocast(x):  # autocast shortens products, not the weights: s and λW are theirs
        L = objective(
            x, y, w1, b1, w2, b2, phi, save, loss, class_weight, row_weight, 0.0, validate, op
        )  # fmt: skip
        return L + pure.penalty(w1, w2, weight_decay)
    x, w1, b1, w2, b2 = _autocast(x, w1, b1, w2, b2)
    check.save_policy(op, save)
    check.tensors(op, x, w1, b1, w2, b2)
    path = _path(x, w1, b1, w2, b2, y)
    look = path == "eager" and _labels_are_at_hand(y, validate)
    check.loss_arguments(op, loss, y, class_weight, row_weight, x.shape[:-1], w2.shape[0], x, look)
    if path == "eager" and not y.requires_grad:
        y, class_weight, row_weight = pure.loss_rows(loss, y, class_weight, row_weight, x.dtype)
        arguments = (pure.matrix(x), y, w1, b1, w2, b2, class_weight, row_weight, phi, save, loss, weight_decay)
        with state.without_autocast(x.device.type):
            if _gradient_possible(x, w1, b1, w2, b2):
                return ObjectiveForward.apply(*arguments)[0]
            return objective_value(*arguments)
    o = mlp(x, w1, b1, w2, b2, phi, save, op)
    return pure.objective(o, y, w1, w2, loss, class_weight, row_weight, weight_decay)


class LeanArguments(NamedTuple):
    """Checked arguments of an objective that is computed in tiles; dtype is that of the matrix products.

    x (B,d), y (B,) or (B,q), class_weight (q,) and row_weight (B,) in the dtype that sums have.
    """

    x: Tensor
    y: Tensor
    class_weight: Tensor | None
    row_weight: Tensor | None
    dtype: torch.dtype


def lean_arguments(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None,
    loss: Loss, class_weight: Tensor | None, row_weight: Tensor | None, validate: bool, op: str,
) -> LeanArguments | None:  # fmt: skip
    """The arguments as tiles take them, after the checks of `objective`; None where torch does not run eagerly."""
    casting = _is_autocast(x)
    check.tensors(op, x, w1, b1, w2, b2, one_dtype=not casting)
    if _path(x, w1, b1, w2, b2, y if isinstance(y, Tensor) else None) != "eager":
        return None
    dtype = w1.dtype
    if casting and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    like = x if x.dtype == dtype else x.new_empty(0, dtype=dtype)
    look = _labels_are_at_hand(y, validate)
    q = w2.shape[0]
    check.loss_arguments(op, loss, y, class_weight, row_weight, x.shape[:-1], q, like, look)
    if dtype == torch.float16 and x.is_cpu:
        _warn_of_float16()
        dtype = torch.float32
        y = y.float() if y.dtype == torch.float16 else y
    y, class_weight, row_weight = pure.loss_rows(loss, y, class_weight, row_weight, w1.dtype)
    return LeanArguments(pure.matrix(x), y, class_weight, row_weight, dtype)


@cache
def _warn_of_float16() -> None:
    """Once a process."""
    warnings.warn(
        "torch_manual_bp: float16 matrix products take 20 to 100 times as long as float32 ones on a CPU: "
        "this step makes them in float32, and rounds its gradients to float16; bfloat16 is fast",
        stacklevel=6,  # the call of accumulate_grad or step
    )


def check_loss(
    o: Tensor, y: Tensor, loss: Loss, class_weight: Tensor | None, row_weight: Tensor | None, validate: bool, op: str
) -> None:
    """Raise unless y and the weights fit the logits o (..., q); see `check.loss_arguments`."""
    look = _path(o, y) == "eager" and _labels_are_at_hand(y, validate)
    check.loss_arguments(op, loss, y, class_weight, row_weight, o.shape[:-1], o.shape[-1], o, look)


def _labels_are_at_hand(y: Tensor, validate: bool) -> bool:
    """Whether to look at labels: on the CPU that costs no wait; elsewhere only where the user asks for it."""
    return isinstance(y, Tensor) and (validate or y.device.type == "cpu")


def _gradient_possible(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _path(*tensors: Tensor | None) -> Path:
    if torch.compiler.is_compiling():
        plain = state.recording() or state.transforming() or state.forward_levels() > 0
        return "plain" if plain else "traced"
    if state.recording() or state.forward_levels() > 1:
        return "plain"
    if any(t is not None and _is_foreign(t) for t in tensors):
        return "plain"
    return "transformed" if state.transforming() or state.forward_levels() else "eager"


def _is_foreign(t: Tensor) -> bool:
    return type(t) not in check.OWN_TYPES or t.layout is not torch.strided


def _is_autocast(x: Any) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and state.autocasting(x.device.type)


def _autocast(*tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
    """The tensors in autocast's dtype, where autocast is on, by the rule that it has for linear layers."""
    if _is_autocast(x := tensors[0]):
        dtype = torch.get_autocast_dtype(x.device.type)
        tensors = tuple(
            t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
            for t in tensors
        )
    return tensors  # type: ignore[return-value]
