"""A net's forward pass, the gradient of its objective, or a whole training step, in one call.

On the CPU, for nets so small that calls would cost more than arithmetic, one thread does it all (csrc/cpu/small_net.h,
which says up to what size); for larger ones torch's matrix products do, over the whole batch, with the kernels of
`bias_act_`, `dact_` and the losses between them. What can fail (a label that is no class, a shape) fails before
anything is written.

On CUDA a net is taken whose weights fit in a block's shared memory, in two launches, three with clipping: its rows in
chunks, whose sums are added up in a fixed order by the launch that updates (csrc/cuda/small_net.cuh). Nothing waits for
the device, and a stream that is being captured takes it all. That this beats a CUDA graph of the single steps was
reasoned, not measured: it needs no static inputs, no warm-up and no replay. Labels that are no class end in a device
assert.

These ops are compiled, for float32 and float64; `has_one_call` and `has_forward` ask. They have no other backend.
Parameters come in the order w1, b1, w2, b2, absent biases left out. J is that of the parameters as they were.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..equations import Loss
from ._dispatch import compiled_kernels, cpu_kernels
from .codes import CODES, LOSS_CODES

Maybe = Tensor | None
Tensors = Sequence[Tensor]


_TYPES = (torch.float32, torch.float64)


def has_one_call(x: Tensor, hidden: int, outputs: int) -> bool:
    """Whether a net of x's columns, with layers so wide, has its gradient and its steps in one call."""
    ops = compiled_kernels(x)
    return ops is not None and x.dtype in _TYPES and ops.fits_one_call(x, hidden, outputs)  # on the CPU every net fits


def has_forward(x: Tensor) -> bool:
    """Whether `mlp_forward` takes tensors like x."""
    return x.is_cpu and getattr(cpu_kernels(), "mlp_forward", None) is not None and x.dtype in _TYPES


def mlp_forward(x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, activation: str) -> Tensor:
    """``o = φ(x w1ᵀ + 1 b1ᵀ) w2ᵀ + 1 b2ᵀ`` (B,q)."""
    return cpu_kernels().mlp_forward(x, w1, b1, w2, b2, CODES[activation])


def objective_gradient_(
    x: Tensor, y: Tensor, row_weight: Maybe, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe,
    activation: str, loss: Loss, weight_decay: float, grad_scale: float, normalizer: float, add: bool,
    dw1: Maybe, db1: Maybe, dw2: Maybe, db2: Maybe,
) -> Tensor:  # fmt: skip
    """``dX ← [add] dX + grad_scale · (∂L/∂X + λX)``, λ for weights only; returns J = L + λ/2 (‖w1‖² + ‖w2‖²).

    L is as in `cross_entropy_`, `mse_` and `bce_with_logits_`. For N = 0 a mean is NaN and its gradient 0.

    Args:
        x: (B,d), contiguous as all others.
        y: labels (B,), int64, or targets (B,q).
        row_weight: (B,), or None.
        w1: (h,d).
        b1: (h,), or None.
        w2: (q,h).
        b2: (q,), or None.
        class_weight: (q,), or None; of cross-entropy.
        activation: name of φ.
        loss: its name and options.
        weight_decay: λ.
        grad_scale: factor of what is written, not of J.
        normalizer: of a mean: stands in N's place, so that L = Σ r l / normalizer (mse, bce_with_logits: q normalizer),
            and the penalty counts with the share N / normalizer: J and gradients over the parts of a batch then add up
            to the whole's. 0: N itself.
        add: whether dX is added to.
        dw1: as w1, to be written; None: not wanted, and not computed.
        db1: as b1, likewise.
        dw2: as w2, likewise.
        db2: as b2, likewise.

    Returns:
        J, 0-dim, in x's dtype.
    """
    return compiled_kernels(x).objective_gradient_(
        x, y, row_weight, w1, b1, w2, b2, class_weight, CODES[activation], LOSS_CODES[loss.name], loss.label_smoothing,
        loss.ignore_index, loss.reduction == "mean", weight_decay, grad_scale, normalizer, add, dw1, db1, dw2, db2,
    )  # fmt: skip


def objective_sgd_(
    x: Tensor, y: Tensor, row_weight: Maybe, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe,
    activation: str, loss: Loss, weight_decay: float, momentum_buffer: Tensors, hyper: Tensor, clip_norm: float,
    nesterov: bool,
) -> Tensor:  # fmt: skip
    """The gradient of `objective_gradient_`, then `sgd_` of it; returns J of the parameters as they were.

    λ in J is weight_decay; in a parameter's gradient it is the penalty in its row of hyper, which the caller sets to λ
    for weights and 0 for biases. The other arguments are those of `objective_gradient_` and `sgd_`.
    """
    return compiled_kernels(x).objective_sgd_(
        x, y, row_weight, w1, b1, w2, b2, class_weight, CODES[activation], LOSS_CODES[loss.name], loss.label_smoothing,
        loss.ignore_index, loss.reduction == "mean", weight_decay, momentum_buffer, hyper, clip_norm, nesterov,
    )  # fmt: skip


def objective_adam_(
    x: Tensor, y: Tensor, row_weight: Maybe, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe,
    activation: str, loss: Loss, weight_decay: float, exp_avg: Tensors, exp_avg_sq: Tensors, step: Tensors,
    hyper: Tensor, clip_norm: float, decoupled: bool,
) -> Tensor:  # fmt: skip
    """The gradient of `objective_gradient_`, then `adam_` of it; returns J of the parameters as they were.

    λ as in `objective_sgd_`; the other arguments are those of `objective_gradient_` and `adam_`.
    """
    return compiled_kernels(x).objective_adam_(
        x, y, row_weight, w1, b1, w2, b2, class_weight, CODES[activation], LOSS_CODES[loss.name], loss.label_smoothing,
        loss.ignore_index, loss.reduction == "mean", weight_decay, exp_avg, exp_avg_sq, step, hyper, clip_norm,
        decoupled,
    )  # fmt: skip


class BoundStep:
    """`objective_sgd_` or `objective_adam_` without row weights, all of its arguments but x and y given once.

    To pass twenty arguments takes as long as the arithmetic of a small net. The tensors are held; they must stay what
    the op takes.
    """

    def __init__(self, ops: Any, number: int) -> None:
        self._number, self._op = number, ops.step_bound_
        weakref.finalize(self, _unbind, ops.unbind, number).atexit = False

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """J of the parameters as they were."""
        return self._op(x, y, self._number)


def _unbind(unbind: Callable[[int], None], number: int) -> None:
    """Whenever the garbage collector comes by, so no mode that watches the ops of somebody else's code sees it."""
    with torch._C._DisableTorchDispatch():
        unbind(number)


def bind_sgd(
    w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe, activation: str, loss: Loss,
    weight_decay: float, momentum_buffer: Tensors, hyper: Tensor, clip_norm: float, nesterov: bool,
) -> BoundStep:  # fmt: skip
    """`objective_sgd_` of these."""
    ops = compiled_kernels(w1)
    number = ops.bind_sgd(
        w1, b1, w2, b2, class_weight, CODES[activation], LOSS_CODES[loss.name], loss.label_smoothing, loss.ignore_index,
        loss.reduction == "mean", weight_decay, momentum_buffer, hyper, clip_norm, nesterov,
    )  # fmt: skip
    return BoundStep(ops, number)


def bind_adam(
    w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, class_weight: Maybe, activation: str, loss: Loss,
    weight_decay: float, exp_avg: Tensors, exp_avg_sq: Tensors, step: Tensors, hyper: Tensor, clip_norm: float,
    decoupled: bool,
) -> BoundStep:  # fmt: skip
    """`objective_adam_` of these."""
    ops = compiled_kernels(w1)
    number = ops.bind_adam(
        w1, b1, w2, b2, class_weight, CODES[activation], LOSS_CODES[loss.name], loss.label_smoothing, loss.ignore_index,
        loss.reduction == "mean", weight_decay, exp_avg, exp_avg_sq, step, hyper, clip_norm, decoupled,
    )  # fmt: skip
    return BoundStep(ops, number)
