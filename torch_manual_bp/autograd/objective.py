"""The objective J = L + λ/2 (‖W1‖² + ‖W2‖²) as one Function: the MLP, its loss and the penalty.

The logits' buffer ends as Ĝ, the unnormalised ∂L/∂o, which is all that the backward passes of every order need of the
loss. Like the kept tensor, Ĝ is an output with a cotangent of its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import kernels
from ..equations import Activation, Loss
from ..equations.penalty import squared_norms
from . import fused, pure, state
from .functions import gradients, save_for_gradients
from .keep import Needs, what_to_keep
from .pure import Maybe


def objective_value(
    x: Tensor, y: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe, row_weight: Maybe,
    phi: Activation, save: str, loss: Loss, weight_decay: float,
) -> Tensor:  # fmt: skip
    """J alone, on the fused kernels."""
    h, _ = fused.hidden(x, w1, b1, phi, "nothing")
    L, _ = kernels.loss_(torch.mm(h, w2.t()), _dense(b2), y, class_weight, row_weight, loss, loss.reduction)
    return _with_penalty(L, w1, w2, weight_decay)


def _dense(b2: Maybe) -> Maybe:
    return None if b2 is None else b2.contiguous()


def _with_penalty(L: Tensor, w1: Tensor, w2: Tensor, weight_decay: float) -> Tensor:
    if weight_decay == 0:
        return L
    return L.add(squared_norms(w1, w2, L.dtype), alpha=0.5 * weight_decay)  # J = L + s, s = λ/2 (‖W1‖² + ‖W2‖²)


class ObjectiveForward(Function):
    """(J, s, Ĝ): the objective, the kept tensor and the unnormalised gradient by the logits."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe,
        row_weight: Maybe, phi: Activation, save: str, loss: Loss, weight_decay: float,
    ) -> Any:  # fmt: skip
        """J = L + λ/2 (‖W1‖² + ‖W2‖²)."""
        need_x, _, *rest = ctx.needs_input_grad[:6]
        needs = Needs(need_x, *rest)
        keep = what_to_keep(phi, save, needs)
        h, s = fused.hidden(x, w1, b1, phi, keep)
        G = torch.mm(h, w2.t())  # O, without b2; Ĝ in the end
        del h
        L, scale = kernels.loss_(G, _dense(b2), y, class_weight, row_weight, loss, loss.reduction)  # L = Σ r l / N
        penalised = weight_decay != 0
        more = (G, scale, y, class_weight, row_weight, w1 if penalised else None, w2 if penalised else None)
        save_for_gradients(ctx, x, w1, b1, w2, s, phi, keep, needs, *more)
        ctx.loss, ctx.weight_decay = loss, weight_decay
        return _with_penalty(L, w1, w2, weight_decay), s, G

    @staticmethod
    def backward(ctx: Any, dJ: Maybe, ds: Maybe, dG: Maybe) -> Any:
        """∂J/∂O = dJ · scale · Ĝ, then the MLP's backward pass, and λW."""
        x, w1, b1, w2, s, G, scale, y, class_weight, row_weight, w1_penalty, w2_penalty = ctx.saved_tensors
        with state.without_autocast(G.device.type):
            do = None if dJ is None else scaled(G, dJ * scale)  # dO = dJ · scale · Ĝ
            if dG is not None:  # only from a pass of second order
                curved = ctx.loss.curvature(pure.accurate(G), pure.accurate(dG), y, class_weight, row_weight)
                do = pure.add(do, curved.to(G.dtype))
            dx, dw1, db1, dw2, db2 = gradients(do, ds, x, w1, b1, w2, s, ctx.phi, ctx.keep, ctx.needs)
            dw1 = _add_penalty(dw1, w1_penalty, dJ, ctx.weight_decay)  # dW1 = dZᵀ X + λ W1
            dw2 = _add_penalty(dw2, w2_penalty, dJ, ctx.weight_decay)  # dW2 = dOᵀ H + λ W2
        return dx, None, dw1, db1, dw2, db2, *(None,) * 6


def scaled(G: Tensor, factor: Tensor) -> Tensor:
    """Factor · Ĝ, multiplied in float32 where Ĝ has a shorter dtype: the factor is not rounded to it first."""
    if torch.is_grad_enabled() or state.is_wrapped(factor) or G.dtype.itemsize > 2:
        return (pure.accurate(G) * factor).to(G.dtype)
    return kernels.scaled(G, factor)  # without a float32 copy of the logits


def _add_penalty(dw: Maybe, w: Maybe, dJ: Maybe, weight_decay: float) -> Maybe:
    if dw is None or w is None or dJ is None:
        return dw
    if torch.is_grad_enabled() or state.is_wrapped(dw):
        return dw + (weight_decay * dJ * w).to(dw.dtype)
    return dw.addcmul_(w, dJ.to(dw.dtype), value=weight_decay)  # dw is a fresh product: nobody else holds it
