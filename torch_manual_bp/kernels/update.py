"""The updates of torch.optim's SGD, Adam and AdamW, over all parameters in one call and one pass over memory.

Each takes λ's share of the gradient and the clipping of its norm with it: with s the unpenalised gradient,
g = c (s + penalty · p), c = min(1, clip_norm / (‖s + penalty · p‖ + 1e-6)), the norm over all parameters, as
``torch.nn.utils.clip_grad_norm_`` has it; a NaN in it makes everything NaN. Then, as torch.optim has it, weight_decay.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import fallback
from ._dispatch import kernels_for

Tensors = Sequence[Tensor]
Maybe = Tensor | None

SGD_COLUMNS = ("penalty", "lr", "weight_decay", "momentum")
ADAM_COLUMNS = ("penalty", "lr", "weight_decay", "beta1", "beta2", "eps")


def sgd_(p: Tensors, g: Tensors, momentum_buffer: Tensors, hyper: Tensor, clip_norm: float, nesterov: bool) -> None:
    """``g ← g + weight_decay p;  buf ← μ buf + g;  p ← p − η buf``, with nesterov ``p ← p − η (g + μ buf)``.

    Args:
        p: the parameters, contiguous, of one dtype; updated.
        g: the gradients without penalty, each as its parameter.
        momentum_buffer: one for each parameter, fresh ones zero; updated. Or none at all: ``p ← p − η g``.
        hyper: (P,4), float64, on the CPU: a row of `SGD_COLUMNS` for each parameter.
        clip_norm: the largest norm; ∞: none, and no pass over memory for it.
        nesterov: whether momentum looks ahead.

    Raises:
        ValueError, RuntimeError: something does not fit; nothing has been written.
    """
    if p:
        _ops(p[0]).sgd_(p, g, momentum_buffer, hyper, clip_norm, nesterov)


def sgd_products_(
    w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, x: Tensor, h: Tensor, g: Tensor, dz: Tensor, db1: Maybe, db2: Maybe,
    hyper: Tensor, factor: float,
) -> None:  # fmt: skip
    """``W1 ← (1−η(λ+weight_decay)) W1 − η factor dZᵀX``, W2 with GᵀH likewise; ``b ← (1−η weight_decay) b − η db``.

    Plain SGD, in the two products that would make the weights' gradients: there is no dW1 and no dW2.

    Args:
        w1: (h,d), contiguous as all others, in one dtype; updated.
        b1: (h,), or None; updated.
        w2: (q,h); updated.
        b2: (q,), or None; updated.
        x: (B,d).
        h: (B,h).
        g: (B,q), ∂L/∂O up to the factor.
        dz: (B,h), ∂L/∂Z up to the factor.
        db1: (h,), where there is a b1; in float32 or float64.
        db2: (q,), likewise.
        hyper: (P,4), float64, on the CPU: a row of `SGD_COLUMNS` for each parameter; λ is its penalty.
        factor: of dZ and G, not of db1 and db2.

    Raises:
        ValueError, RuntimeError: something does not fit; nothing has been written.
    """
    kernels_for(w1).sgd_products_(w1, b1, w2, b2, x, h, g, dz, db1, db2, hyper, factor)


def adam_(
    p: Tensors, g: Tensors, exp_avg: Tensors, exp_avg_sq: Tensors, step: Tensors, hyper: Tensor, clip_norm: float,
    decoupled: bool,
) -> None:  # fmt: skip
    """``m ← m + (1−β₁)(g − m);  v ← β₂ v + (1−β₂) g²;  p ← p − η/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)``.

    Before it ``g ← g + weight_decay p`` (Adam), or ``p ← (1 − η weight_decay) p`` where decoupled (AdamW).

    Args:
        p: the parameters, contiguous, of one dtype; updated.
        g: the gradients without penalty, each as its parameter.
        exp_avg: m, each as its parameter; updated.
        exp_avg_sq: v, likewise.
        step: t of each parameter before this step, 0-dim float32 on the CPU; one more afterwards.
        hyper: (P,6), float64, on the CPU: a row of `ADAM_COLUMNS` for each parameter.
        clip_norm: the largest norm; ∞: none.
        decoupled: AdamW.

    Raises:
        ValueError, RuntimeError: something does not fit; nothing has been written.
    """
    if p:
        _ops(p[0]).adam_(p, g, exp_avg, exp_avg_sq, step, hyper, clip_norm, decoupled)


def _ops(p: Tensor) -> Any:
    """The compiled ops take float32 and float64."""
    return kernels_for(p) if p.dtype in (torch.float32, torch.float64) else fallback
