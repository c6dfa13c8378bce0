"""S_b = ∂²L/∂o_b², the curvature of the loss in the outputs of one row, in factors small enough to keep."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..equations import Loss
from ..equations.losses import cross_entropy_mass

Maybe = Tensor | None


class OutputCurvature(NamedTuple):
    """S_b = a_b (diag(s_b) − p_b p_bᵀ), one q×q matrix a row, never written out.

    cross-entropy: s = p = softmax(o); bce_with_logits: s = σ(1 − σ); mse: s = 1. What is absent is None.
    a (B,1), s (B,q) or None for ones, p (B,q) or None for zeros.
    """

    a: Tensor
    s: Maybe
    p: Maybe

    def times(self, v: Tensor) -> Tensor:
        """S_b v_b for each row b and each of k vectors; v (B,k,q)."""
        scaled = v if self.s is None else self.s[:, None] * v
        if self.p is not None:
            p = self.p[:, None]
            scaled = scaled - p * (p * v).sum(2, keepdim=True)
        return self.a[:, None] * scaled

    def diagonal(self, q: int) -> Tensor:
        """S_d,bk = S_b,kk, shape (B,q)."""
        if self.s is None:
            return self.a.expand(-1, q)
        return self.a * (self.s if self.p is None else self.s - self.p * self.p)

    def seen_from_hidden(self, w2: Tensor) -> Tensor:
        """Q_bj = (W2ᵀ S_b W2)_jj = a_b (Σ_k s_bk W2_kj² − (p_b W2)_j²), shape (B,h)."""
        squared = w2 * w2
        q = squared.sum(0) if self.s is None else self.s @ squared
        if self.p is not None:
            pw = self.p @ w2
            q = q - pw * pw
        return self.a * q


def gradient_and_curvature(
    loss: Loss, o: Tensor, y: Tensor, class_weight: Maybe, row_weight: Maybe, scale: float | Tensor
) -> tuple[Tensor, OutputCurvature]:
    """G = ∂L/∂O (B,q) and S; ``scale`` is what the terms of l are multiplied with, 1 or 1/N of a mean.

    o (B,q), y (B,) or (B,q), class_weight (q,), row_weight (B,).
    """
    if loss.takes_classes:
        t, a = cross_entropy_mass(loss, y, o.shape[1], class_weight, row_weight, o.dtype)
        p = torch.softmax(o, 1)
        return scale * (a * p - t), OutputCurvature(scale * a, p, p)  # G = (a p − t) / N
    r = o.new_ones(len(o), 1) if row_weight is None else row_weight[:, None].to(o.dtype)
    a = loss.gradient_factor * scale * r
    if loss.name == "mse":
        return a * (o - y), OutputCurvature(a, None, None)  # G = 2 r (o − y) / N
    sigma = torch.sigmoid(o)
    return a * (sigma - y), OutputCurvature(a, sigma * (1 - sigma), None)  # G = r (σ(o) − y) / N
