"""The updates of torch.optim's SGD, Adam and AdamW."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
Rows = list[list[float]]


@torch.no_grad()
def sgd_(
    p: Tensors, g: Tensors, momentum_buffer: Tensors, hyper: Tensor, clip_norm: float, nesterov: bool
) -> None:  # fmt: skip
    """``buf ← μ buf + g;  p ← p − η (buf, or g + μ buf)``; without buffers ``p ← p − η g``."""
    rows = _checked("sgd_", p, {"g": g, **({"momentum_buffer": momentum_buffer} if momentum_buffer else {})}, hyper, 4)
    for i, gradient in enumerate(_clipped(p, g, rows, clip_norm)):
        _, lr, weight_decay, momentum = rows[i]
        step = gradient.add(p[i], alpha=weight_decay)
        if momentum_buffer:
            momentum_buffer[i].mul_(momentum).add_(step)
            step = step.add(momentum_buffer[i], alpha=momentum) if nesterov else momentum_buffer[i]
        p[i].add_(step, alpha=-lr)


@torch.no_grad()
def adam_(
    p: Tensors, g: Tensors, exp_avg: Tensors, exp_avg_sq: Tensors, step: Tensors, hyper: Tensor, clip_norm: float,
    decoupled: bool,
) -> None:  # fmt: skip
    """``m ← lerp(m, g, 1−β₁);  v ← β₂ v + (1−β₂) g²;  p ← p − η m̂ / (√v̂ + ε)``."""
    rows = _checked("adam_", p, {"g": g, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}, hyper, 6)
    if len(step) != len(p) or any(t.numel() != 1 or t.dtype != torch.float32 for t in step):
        raise ValueError(f"adam_: step must hold {len(p)} float32 tensors of one number, got {list(step)}")
    for i, gradient in enumerate(_clipped(p, g, rows, clip_norm)):
        _, lr, weight_decay, beta1, beta2, eps = rows[i]
        steps = step[i].item() + 1
        if decoupled:
            p[i].mul_(1 - lr * weight_decay)
        else:
            gradient = gradient.add(p[i], alpha=weight_decay)
        exp_avg[i].lerp_(gradient, 1 - beta1)
        exp_avg_sq[i].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = exp_avg_sq[i].sqrt().div_(math.sqrt(1 - beta2**steps)).add_(eps)
        p[i].addcdiv_(exp_avg[i], root, value=-lr / (1 - beta1**steps))
        step[i].fill_(steps)


def _clipped(p: Tensors, g: Tensors, rows: Rows, clip_norm: float) -> Iterator[Tensor]:
    """G + penalty · p of one parameter after the other, clipped by the norm of all of them."""

    def gradients() -> Iterator[Tensor]:
        return (gi.add(pi, alpha=row[0]) for pi, gi, row in zip(p, g, rows, strict=True))

    if clip_norm == math.inf:
        return gradients()
    norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients()]).norm()
    return (
        gradient.mul_(min_one) for min_one in [(clip_norm / (norm + 1e-6)).clamp(max=1)] for gradient in gradients()
    )


def _checked(op: str, p: Tensors, beside: dict[str, Tensors], hyper: Tensor, columns: int) -> Rows:
    """The numbers of each parameter, once everything fits: an update that fails midway would leave half a step."""
    if hyper.shape != (len(p), columns):
        raise ValueError(f"{op}: hyper must have shape ({len(p)}, {columns}), got {tuple(hyper.shape)}")
    for name, tensors in beside.items():
        if len(tensors) != len(p):
            raise ValueError(f"{op}: {name} must have {len(p)} tensors as p, got {len(tensors)}")
        for i, (t, pi) in enumerate(zip(tensors, p, strict=True)):
            if t.shape != pi.shape or t.dtype != pi.dtype:
                raise ValueError(
                    f"{op}: {name}[{i}] must have shape {tuple(pi.shape)} and dtype {pi.dtype}, "
                    f"got {tuple(t.shape)} and {t.dtype}"
                )
    return hyper.tolist()
