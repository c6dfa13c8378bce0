"""The two layers as Functions whose backward pass hands ∂J/∂h on and lets the weights' gradients wait.

Written in the old style and once differentiable: a schedule runs them, and runs each once. Shapes: x (m,d), h and z
(m,h), o (m,q) for a microbatch of m rows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .. import kernels
from ..autograd import fused
from ..autograd.keep import Needs, what_to_keep
from ..equations import Activation
from .gradients import WeightGradients

Maybe = Tensor | None


def hidden_layer(x: Tensor, fc1: nn.Linear, phi: Activation, gradients: WeightGradients | None) -> Tensor:
    """H = φ(X W1ᵀ + 1 b1ᵀ)."""
    if gradients is None or not gradients.active:
        return phi.phi(F.linear(x, fc1.weight, fc1.bias))  # plain torch: right under every schedule and transform
    if torch.is_grad_enabled():
        return HiddenForward.apply(x, fc1.weight, fc1.bias, phi, gradients)
    return fused.hidden(x, fc1.weight, fc1.bias, phi, "nothing")[0]


def output_layer(h: Tensor, fc2: nn.Linear, gradients: WeightGradients | None) -> Tensor:
    """O = H W2ᵀ + 1 b2ᵀ."""
    if gradients is None or not gradients.active or not torch.is_grad_enabled():
        return F.linear(h, fc2.weight, fc2.bias)
    return OutputForward.apply(h, fc2.weight, fc2.bias, gradients)


class HiddenForward(Function):
    """H of a microbatch; its backward pass makes ∂J/∂X, and defers ∂J/∂W1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Maybe, phi: Activation, gradients: WeightGradients) -> Tensor:
        """H = φ(Z), Z = X W1ᵀ + 1 b1ᵀ."""
        need_x, need_w1, need_b1 = ctx.needs_input_grad[:3]
        ctx.needs = Needs(need_x, need_w1, need_b1, w2=False, b2=False)
        # h goes over to the next device and is in memory anyway, so where φ′ follows from it a mask would be one more
        keep = ("h" if phi.from_output else "z") if ctx.needs.dz else what_to_keep(phi, "auto", ctx.needs)
        h, s = fused.hidden(x, w1, b1, phi, keep)
        ctx.phi, ctx.keep, ctx.gradients, ctx.parameters = phi, keep, gradients, (w1, b1)
        ctx.save_for_backward(x if need_w1 else None, w1 if need_x else None, s)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> Any:
        """DZ = φ′(Z) ⊙ dH, and dX = dZ W1; dW1 = dZᵀ X waits."""
        x, w1, s = ctx.saved_tensors
        to_w1, to_b1 = ctx.parameters
        # in place of dh: a buffer of upstream's that is received into anew, or the fresh product of the layer above
        dz = dh if dh.is_contiguous() else dh.contiguous()
        db1 = kernels.dact_(dz, s, ctx.phi.name, ctx.keep, ctx.needs.b1)
        if db1 is not None:
            ctx.gradients.add(to_b1, db1)  # db1 = dZᵀ 1
        if ctx.needs.w1:
            ctx.gradients.defer(to_w1, dz, x)  # dW1 = dZᵀ X
        return torch.mm(dz, w1) if ctx.needs.x else None, None, None, None, None


class OutputForward(Function):
    """O of a microbatch; its backward pass makes ∂J/∂H, and defers ∂J/∂W2 and ∂J/∂b2."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, w2: Tensor, b2: Maybe, gradients: WeightGradients) -> Tensor:
        """O = H W2ᵀ + 1 b2ᵀ."""
        need_h, need_w2, _ = ctx.needs_input_grad[:3]
        ctx.gradients, ctx.parameters = gradients, (w2, b2)
        ctx.save_for_backward(h if need_w2 else None, w2 if need_h else None)
        return torch.mm(h, w2.t()) if b2 is None else torch.addmm(b2, h, w2.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> Any:
        """DH = dO W2; dW2 = dOᵀ H and db2 = dOᵀ 1 wait."""
        h, w2 = ctx.saved_tensors
        to_w2, to_b2 = ctx.parameters
        need_h, need_w2, need_b2 = ctx.needs_input_grad[:3]
        if need_w2:
            ctx.gradients.defer(to_w2, do, h)  # dW2 = dOᵀ H
        if need_b2:
            ctx.gradients.defer(to_b2, do)  # db2 = dOᵀ 1
        return torch.mm(do, w2) if need_h else None, None, None, None
