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
def sgd_products_(
    w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, x: Tensor, h: Tensor, g: Tensor, dz: Tensor,
    db1: Tensor | None, db2: Tensor | None, hyper: Tensor, factor: float,
) -> None:  # fmt: skip
    """``W ← (1−η(λ+weight_decay)) W − η factor leftᵀ right``;  ``b ← (1−η weight_decay) b − η db``."""
    op, given = "sgd_products_", [p for p in (w1, b1, w2, b2) if p is not None]
    rows = iter(_checked(op, given, {}, hyper, 4))
    if (b1 is None) is not (db1 is None) or (b2 is None) is not (db2 is None):
        raise ValueError(f"{op}: db1 and db2 must be there where b1 and b2 are")
    width, q = w1.shape[0], w2.shape[0]
    shapes = {"x": (x, w1.shape[1]), "h": (h, width), "g": (g, q), "dz": (dz, width)}
    for name, (tensor, columns) in shapes.items():
        if tensor.shape != (len(x), columns):
            raise ValueError(f"{op}: {name} must have shape ({len(x)}, {columns}), got {tuple(tensor.shape)}")
    if w2.shape[1] != width:
        raise ValueError(f"{op}: w2 must have shape ({q}, {width}), got {tuple(w2.shape)}")
    updated = []
    for w, left, right, b, db in ((w1, dz, x, b1, db1), (w2, g, h, b2, db2)):
        penalty, lr, weight_decay, _ = next(rows)
        updated.append((w, w.addmm(left.t(), right, beta=1 - lr * (penalty + weight_decay), alpha=-lr * factor)))
        if b is not None and db is not None:
            _, lr, weight_decay, _ = next(rows)
            updated.append((b, b.to(db.dtype).mul(1 - lr * weight_decay).sub_(db, alpha=lr)))
    for p, new in updated:
        p.copy_(new)


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
        # a counter on an accelerator is not waited for: with it, what follows are tensors
        steps = step[i].item() + 1 if step[i].device.type == "cpu" else step[i] + 1
        if decoupled:
            p[i].mul_(1 - lr * weight_decay)
        else:
            gradient = gradient.add(p[i], alpha=weight_decay)
        exp_avg[i].lerp_(gradient, 1 - beta1)
        exp_avg_sq[i].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = exp_avg_sq[i].sqrt().div_((1 - beta2**steps) ** 0.5).add_(eps)
        p[i].sub_(exp_avg[i].div(root).mul_(lr / (1 - beta1**steps)))
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
