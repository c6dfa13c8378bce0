"""The losses: L, its scale, and Ĝ in place of the logits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .tiles import biased, double, tiles, wide

Maybe = Tensor | None
Sum = Tensor | float  # a running sum, which starts at 0.0


@torch.no_grad()
def scaled(g: Tensor, factor: Tensor) -> Tensor:
    """``factor · g``, multiplied in float32 at least."""
    to = torch.empty_like(g)
    for rows in tiles(g):
        to[rows] = wide(g[rows]) * factor
    return to


def _loss_and_scale(o: Tensor, total: Sum, normaliser: Sum, factor: float) -> tuple[Tensor, Tensor]:
    """(L, scale) = (total, factor) / normaliser; NaN and 0 where the normaliser, a count or a sum of weights, is 0."""
    dtype = torch.float64 if o.dtype == torch.float64 else torch.float32
    on = {"dtype": torch.float32 if o.device.type == "mps" else torch.float64, "device": o.device}
    total, normaliser = torch.as_tensor(total, **on), torch.as_tensor(normaliser, **on)  # type: ignore[arg-type]
    scale = torch.where(normaliser == 0, 0.0, factor / normaliser)
    return (total / normaliser).to(dtype), scale.to(dtype)


@torch.no_grad()
def cross_entropy_(
    o: Tensor, bias: Maybe, target: Tensor, class_weight: Maybe, row_weight: Maybe, label_smoothing: float,
    ignore_index: int, mean: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``l = (1−ε) w_y (−log p_y) + (ε/q) Σ_k w_k (−log p_k)``; Ĝ = r (a p − t), t the target's mass, a = Σ_k t."""
    q = o.shape[1]
    if o.device.type == "cpu":  # elsewhere the scatter below asserts, as torch does
        _check_labels(target, q, ignore_index)
    w = wide(o[:0]).new_ones(q) if class_weight is None else class_weight
    total: Sum = 0.0
    normaliser: Sum = 0.0
    for rows in tiles(o):
        kept = target[rows] != ignore_index
        y = target[rows].where(kept, 0)[:, None]
        r = kept.to(w.dtype) if row_weight is None else row_weight[rows].where(kept, 0)
        logits = biased(o[rows], bias)
        p, log_p = F.softmax(logits, 1), F.log_softmax(logits, 1)  # exp(log p) would have the error of a logit
        w_y = w[y]
        a = (1 - label_smoothing) * w_y  # the target's mass t is this at the label, and (ε/q) w everywhere
        loss = a * -log_p.gather(1, y)
        t = torch.zeros_like(log_p).scatter_(1, y, a)
        if label_smoothing > 0:  # not for 0: 0 · ∞ of an impossible class is NaN
            loss = loss - (label_smoothing / q) * (w * log_p).sum(1, keepdim=True)
            t += (label_smoothing / q) * w
            a = a + (label_smoothing / q) * w.sum()
        G = r[:, None] * (a * p - t)
        o[rows] = torch.where(kept[:, None], G, 0)
        total += double(torch.where(kept, r * loss[:, 0], 0)).sum()
        normaliser += double(r * w_y[:, 0]).sum()
    return _loss_and_scale(o, total, normaliser if mean else 1.0, 1.0)


def _check_labels(target: Tensor, q: int, ignore_index: int) -> None:
    row = int(find_bad_label(target, q, ignore_index))
    if row >= 0:
        legal = f"labels in [0, {q}) or {ignore_index}"
        raise ValueError(f"cross_entropy_: target must hold {legal}; got {int(target[row])} at row {row}")


@torch.no_grad()
def mse_(o: Tensor, bias: Maybe, target: Tensor, row_weight: Maybe, mean: bool) -> tuple[Tensor, Tensor]:
    """``l = Σ_k (o − y)²``; Ĝ = r (o − y), the factor 2 in the scale."""
    total: Sum = 0.0
    for rows in tiles(o):
        residual = biased(o[rows], bias) - wide(target[rows])
        total += _close(o, rows, residual.square(), residual, row_weight)
    return _loss_and_scale(o, total, _count(o, row_weight) if mean else 1.0, 2.0)


@torch.no_grad()
def bce_with_logits_(o: Tensor, bias: Maybe, target: Tensor, row_weight: Maybe, mean: bool) -> tuple[Tensor, Tensor]:
    """``l = Σ_k max(o,0) − o y + log(1 + e^{−|o|})``; Ĝ = r (σ(o) − y)."""
    total: Sum = 0.0
    for rows in tiles(o):
        logits, y = biased(o[rows], bias), wide(target[rows])
        terms = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        total += _close(o, rows, terms, torch.sigmoid(logits) - y, row_weight)
    return _loss_and_scale(o, total, _count(o, row_weight) if mean else 1.0, 1.0)


def _close(o: Tensor, rows: slice, terms: Tensor, G: Tensor, row_weight: Maybe) -> Tensor:
    """Writes Ĝ of these rows; returns Σ_b r_b Σ_k terms."""
    if row_weight is None:
        o[rows] = G
        return double(terms).sum()
    r = row_weight[rows]
    o[rows] = r[:, None] * G
    return (double(terms).sum(1) * r).sum()


def _count(o: Tensor, row_weight: Maybe) -> Sum:
    """N q."""
    return o.shape[1] * (float(o.shape[0]) if row_weight is None else double(row_weight).sum())


@torch.no_grad()
def find_bad_label(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The first row with label ∉ [0, classes) ∪ {ignore_index}, or −1, 0-dim."""
    if target.numel() == 0:
        return target.new_full((), -1)
    bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
    row = bad.to(torch.uint8).argmax()
    return torch.where(bad[row], row, -1)
