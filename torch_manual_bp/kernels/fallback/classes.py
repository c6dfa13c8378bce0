"""The cross-entropy over tiles of classes: statistics of the rows, and Ĝ from them.

The columns of the statistics: top = max_k x_k; mass = Σ_k e^{x_k − top}; x_y; w_y; Σ_k w_k; Σ_k w_k (top − x_k).
"""

import torch
from torch import Tensor

from .tiles import biased, double, tiles, wide

Maybe = Tensor | None


def _label(target: Tensor, first_class: int, classes: int) -> tuple[Tensor, Tensor]:
    """Whether a row's label is among these classes, and at which of them (any, where it is not)."""
    y = target - first_class
    inside = (y >= 0) & (y < classes)
    return inside, y.where(inside, 0)


@torch.no_grad()
def class_statistics_(
    o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, first_class: int, statistics: Tensor
) -> None:
    """Adds classes to the statistics; a sum that is counted from the top moves with it: no term is negative."""
    if o.numel() == 0:
        return
    w = wide(o[:1]).new_ones(o.shape[1]) if class_weight is None else class_weight
    for rows in tiles(o):
        top, mass, x_y, w_y, weight, below = statistics[rows].unbind(1)
        x = biased(o[rows], bias)
        highest = x.amax(1).clamp_(min=torch.finfo(x.dtype).min)  # finite, so that −∞ − top is no NaN
        new_top = torch.maximum(top, highest)
        raised = torch.where(top > -torch.inf, new_top - top, 0)  # no class before: nothing to move
        mass.mul_((-raised).exp())
        below.addcmul_(weight, raised)
        x_below = new_top.to(x.dtype)[:, None] - x
        inside, y = _label(target[rows], first_class, o.shape[1])
        x_y.copy_(torch.where(inside, x.gather(1, y[:, None])[:, 0], x_y))
        w_y.copy_(torch.where(inside, w[y], w_y))
        mass.add_((-x_below).exp().sum(1))
        below.add_((w * x_below).sum(1))
        weight.add_(double(w).sum())
        top.copy_(new_top)


def _target_mass(statistics: Tensor, classes: int, label_smoothing: float) -> tuple[Tensor, float, Tensor]:
    """(1−ε) w_y, ε/q and a = (1−ε) w_y + (ε/q) Σ_k w_k, the mass of the target."""
    hard, soft = (1 - label_smoothing) * statistics[:, 3], label_smoothing / classes
    return hard, soft, hard + soft * statistics[:, 4]


@torch.no_grad()
def class_loss(
    statistics: Tensor, target: Tensor, row_weight: Maybe, classes: int, label_smoothing: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Σ r l and Σ r w_y."""
    top, mass, x_y, w_y, weight, below = statistics.unbind(1)
    hard, soft, _ = _target_mass(statistics, classes, label_smoothing)
    log_mass = mass.log()
    loss = hard * (log_mass + (top - x_y))
    if label_smoothing > 0:  # not for 0: 0 · ∞ of an impossible class is NaN
        loss = loss + soft * (weight * log_mass + below)
    r = 1.0 if row_weight is None else row_weight
    kept = target != ignore_index
    return torch.where(kept, r * loss, 0).sum(), torch.where(kept, r * w_y, 0).sum()


@torch.no_grad()
def cross_entropy_classes_(
    o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, row_weight: Maybe, first_class: int, classes: int,
    label_smoothing: float, ignore_index: int, statistics: Tensor,
) -> None:  # fmt: skip
    """Ĝ = r (a p − t) of these classes."""
    if o.numel() == 0:
        return
    for rows in tiles(o):
        x = biased(o[rows], bias)
        hard, soft, a = _target_mass(statistics[rows], classes, label_smoothing)
        top, per_mass = statistics[rows, 0].to(x.dtype), (a / statistics[rows, 1]).to(x.dtype)
        kept = target[rows] != ignore_index
        inside, y = _label(target[rows], first_class, o.shape[1])
        G = (x - top[:, None]).exp() * per_mass[:, None]
        G.scatter_add_(1, y[:, None], torch.where(inside, -hard, 0).to(x.dtype)[:, None])
        if label_smoothing > 0:
            G.sub_(soft if class_weight is None else soft * class_weight)
        if row_weight is not None:
            G.mul_(row_weight[rows, None])
        o[rows] = torch.where(kept[:, None], G, 0)
