"""What stands between two matrix products, in one pass over memory each.

A tensor on a device that the compiled extension serves (CPU, or CUDA where it was built in) takes the C++ or CUDA
kernel; every other tensor takes the same op in plain torch (``fallback``), with the same in-place semantics. No op here
is recorded by autograd: ``autograd.Function``s call them. Every 2-d argument must be contiguous; the compiled ops check
that, and shapes, dtypes and devices, before they write.

``TMB_DISABLE_EXTENSION=1`` in the environment, set before the import, keeps the compiled extension out: for comparing
with plain torch, and for telling a fault of the extension from one elsewhere.
"""

from torch import Tensor

from ..equations import Loss
from ._dispatch import backend, kernels_for
from .classes import class_loss, class_statistics_, cross_entropy_classes_, new_statistics
from .codes import CODES, KIND_CODES, MASKED_CODES
from .one_call import (
    BoundStep,
    bind_adam,
    bind_sgd,
    has_forward,
    has_one_call,
    mlp_forward,
    objective_adam_,
    objective_gradient_,
    objective_sgd_,
)
from .scratch import Scratch, scratch
from .update import adam_, sgd_, sgd_products_

__all__ = [
    "BoundStep",
    "Scratch",
    "act",
    "adam_",
    "backend",
    "bce_with_logits_",
    "bias_act_",
    "bias_act_keep_",
    "bias_act_mask_",
    "bind_adam",
    "bind_sgd",
    "class_loss",
    "class_statistics_",
    "cross_entropy_",
    "cross_entropy_classes_",
    "dact_",
    "find_bad_label",
    "has_forward",
    "has_one_call",
    "loss_",
    "mlp_forward",
    "mse_",
    "new_statistics",
    "objective_adam_",
    "objective_gradient_",
    "objective_sgd_",
    "scaled",
    "scratch",
    "sgd_",
    "sgd_products_",
]


def bias_act_(z: Tensor, bias: Tensor | None, activation: str) -> None:
    """``z ← φ(z + 1 bᵀ)``, in place.

    Args:
        z: (B,h), contiguous; overwritten.
        bias: (h,) in z's dtype, or None.
        activation: name of φ.
    """
    kernels_for(z).bias_act_(z, bias, CODES[activation])


def bias_act_keep_(z: Tensor, h: Tensor, bias: Tensor | None, activation: str) -> None:
    """``z ← z + 1 bᵀ``, in place, and ``h ← φ(z)``.

    Args:
        z: (B,h), contiguous; overwritten.
        h: (B,h), contiguous, in z's dtype; overwritten.
        bias: (h,) in z's dtype, or None.
        activation: name of φ.
    """
    kernels_for(z).bias_act_keep_(z, h, bias, CODES[activation])


def bias_act_mask_(z: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """``z ← φ(z + 1 bᵀ)``, in place, and one bit a unit: [z > 0], all that φ′ of a piecewise linear φ needs.

    Args:
        z: (B,h), contiguous; overwritten.
        bias: (h,) in z's dtype, or None.
        activation: "relu" or "leaky_relu".

    Returns:
        mask (B, ⌈h/8⌉), uint8: bit j mod 8 of byte ⌊j/8⌋ belongs to unit j; bits beyond h are 0.

    Raises:
        ValueError: φ′ of this activation takes more than two values.
    """
    return kernels_for(z).bias_act_mask_(z, bias, MASKED_CODES[activation])


def act(z: Tensor, activation: str) -> Tensor:
    """``h = φ(z)``; z (B,h) is left alone."""
    return kernels_for(z).act(z, CODES[activation])


def dact_(dh: Tensor, saved: Tensor, activation: str, kind: str, bias_grad: bool) -> Tensor | None:
    """``dz = φ′ ⊙ dh``, in place of dh, and on request ``db1 = dzᵀ 1`` in the same pass.

    The column sums are taken over fixed blocks of rows in a fixed order: they do not depend on the number of threads.

    Args:
        dh: (B,h), contiguous; dz afterwards.
        saved: what φ′ follows from: h or z (B,h) in dh's dtype, or the mask (B, ⌈h/8⌉) of ``bias_act_mask_``.
        activation: name of φ.
        kind: which of them ``saved`` is: "h" (identity, relu, leaky_relu, tanh, sigmoid), "z" (any), or "mask" (relu,
            leaky_relu).
        bias_grad: whether db1 is wanted.

    Returns:
        db1 (h,) in dh's dtype, or None.

    Raises:
        ValueError: φ′ of this activation does not follow from this kind of tensor.
    """
    code, kind_code = KIND_CODES[activation, kind]
    if bias_grad:
        return kernels_for(dh).dact_bias_grad_(dh, saved, code, kind_code)
    kernels_for(dh).dact_(dh, saved, code, kind_code)
    return None


def scaled(g: Tensor, factor: Tensor) -> Tensor:
    """``factor · g`` in a new tensor, multiplied in float32 at least.

    Args:
        g: (B,q), contiguous.
        factor: 0-dim, on g's device, in float32 (float64 for g in float64): it is not rounded to g's dtype.
    """
    return kernels_for(g).scaled(g, factor)


def cross_entropy_(
    o: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    label_smoothing: float, ignore_index: int, reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """L of the logits o + 1 bᵀ, and o ← Ĝ, the unnormalised gradient: ∂L/∂o = scale · Ĝ.

    With p = softmax(o_b + bias), ε the label smoothing, w the class weights, r the row weights (1 where not given):
    l_b = (1−ε) w_y (−log p_y) + (ε/q) Σ_k w_k (−log p_k), and Ĝ_bk = r_b (a_b p_k − (1−ε) w_y [k=y] − (ε/q) w_k) with
    a_b = (1−ε) w_y + (ε/q) Σ_k w_k. In rows whose label is ``ignore_index`` both are 0. For a mean
    L = Σ_b r_b l_b / N, N = Σ r_b w_{y_b} over the rows not ignored, scale = 1/N; for N = 0, L is NaN, as in torch,
    and scale is 0. For a sum scale = 1. Sums over rows are taken in float64, in a fixed order.

    Args:
        o: (B,q), contiguous: the logits before the bias is added; Ĝ afterwards.
        bias: (q,) in o's dtype, or None.
        target: (B,), int64: labels in [0,q), or ``ignore_index``. On the CPU they are checked before o is written.
        class_weight: (q,), float32 (float64 where o is), or None.
        row_weight: (B,), as class_weight, or None.
        label_smoothing: ε in [0,1].
        ignore_index: the label of rows that are left out.
        reduction: "mean" or "sum".

    Returns:
        (L, scale), both 0-dim: float64 where o is, float32 elsewhere.
    """
    return kernels_for(o).cross_entropy_(
        o, bias, target, class_weight, row_weight, label_smoothing, ignore_index, reduction == "mean"
    )


def mse_(
    o: Tensor, bias: Tensor | None, target: Tensor, row_weight: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """L = Σ_b r_b Σ_k (o − y)² (over N q for a mean), and o ← Ĝ = r (o − y) with ∂L/∂o = scale · Ĝ.

    o stands for o + 1 bᵀ; N = Σ_b r_b (B without row weights); scale = 2/(N q), or 0 where N q = 0; 2 for a sum.

    Args:
        o: (B,q), contiguous; Ĝ afterwards.
        bias: (q,) in o's dtype, or None.
        target: y (B,q) in o's dtype; float32 as well where o is bfloat16 or float16.
        row_weight: (B,), float32 (float64 where o is), or None.
        reduction: "mean" or "sum".

    Returns:
        (L, scale), both 0-dim: float64 where o is, float32 elsewhere.
    """
    return kernels_for(o).mse_(o, bias, target, row_weight, reduction == "mean")


def bce_with_logits_(
    o: Tensor, bias: Tensor | None, target: Tensor, row_weight: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """L = Σ_b r_b Σ_k (max(o,0) − o y + log(1 + e^{−|o|})), over N q for a mean, and o ← Ĝ = r (σ(o) − y).

    As ``mse_``, but scale = 1/(N q) for a mean and 1 for a sum.

    Args:
        o: (B,q), contiguous; Ĝ afterwards.
        bias: (q,) in o's dtype, or None.
        target: y (B,q), usually in [0,1], in o's dtype; float32 as well where o is bfloat16 or float16.
        row_weight: (B,), float32 (float64 where o is), or None.
        reduction: "mean" or "sum".

    Returns:
        (L, scale), both 0-dim: float64 where o is, float32 elsewhere.
    """
    return kernels_for(o).bce_with_logits_(o, bias, target, row_weight, reduction == "mean")


def loss_(
    o: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    loss: Loss, reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """L and the scale of ∂L/∂o = scale · Ĝ for logits o + 1 bᵀ, and o ← Ĝ, by the op of the loss.

    Args:
        o: (B,q), contiguous; Ĝ afterwards.
        bias: (q,) in o's dtype, contiguous, or None.
        target: as the loss takes it.
        class_weight: (q,), for cross-entropy, or None.
        row_weight: (B,), or None.
        loss: which, and its options; its own reduction is not looked at.
        reduction: "mean" or "sum".
    """
    if loss.name == "cross_entropy":
        return cross_entropy_(
            o, bias, target, class_weight, row_weight, loss.label_smoothing, loss.ignore_index, reduction
        )
    return (mse_ if loss.name == "mse" else bce_with_logits_)(o, bias, target, row_weight, reduction)


def find_bad_label(target: Tensor, classes: int, ignore_index: int) -> int:
    """The first row whose label is neither in [0, classes) nor ``ignore_index``, or −1; waits for an accelerator.

    Args:
        target: (B,), int64, contiguous. A meta tensor has no labels, hence no bad one.
        classes: q.
        ignore_index: the label that is always accepted.
    """
    if target.is_meta:
        return -1
    return int(kernels_for(target).find_bad_label(target, classes, ignore_index))
