"""S_b = ∂²L/∂o_b², the curvature of the loss in the outputs of one row, in factors small enough to keep."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..equations import Loss

Maybe = Tensor | None


class OutputCurvature(NamedTuple):
    """S_b = a_b (diag(s_b) − s_b s_bᵀ), one q×q matrix a row, never written out; the second term only if ``coupled``.

    cross-entropy: s = softmax(o), coupled; bce_with_logits: s = σ(1 − σ); mse: s = 1, as None. a (B,1), s (B,q).
    """

    a: Tensor
    s: Maybe
    coupled: bool

    @property
    def p(self) -> Maybe:
        """The s_b of − s_b s_bᵀ, which is softmax(o); None where the outputs are not coupled."""
        return self.s if self.coupled else None

    def times(self, v: Tensor) -> Tensor:
        """S_b v_b for each row b and each of k vectors; v (B,k,q)."""
        if self.s is None:
            return self.a[:, None] * v
        s = self.s[:, None]
        scaled = s * v
        if self.coupled:
            scaled = torch.addcmul(scaled, s, scaled.sum(2, keepdim=True), value=-1)
        return scaled.mul_(self.a[:, None])  # tdo = a (s ⊙ v − s⟨s,v⟩)

    def diagonal(self, q: int) -> Tensor:
        """S_d,bk = S_b,kk, shape (B,q)."""
        if self.s is None:
            return self.a.expand(-1, q)
        return self.a * (self.s - self.s * self.s if self.coupled else self.s)  # d2o = a (s − s²)

    def seen_from_hidden(self, w2: Tensor) -> Tensor:
        """Q_bj = (W2ᵀ S_b W2)_jj = a_b (Σ_k s_bk W2_kj² − (s_b W2)_j²), shape (B,h)."""
        squared = w2 * w2
        if self.s is None:
            return self.a * squared.sum(0)
        Q = self.s @ squared
        if self.coupled:
            sw = self.s @ w2  # mu = s W2
            Q.addcmul_(sw, sw, value=-1).clamp_(min=0)  # below 0 by rounding alone: it is Σ_k s_k (W2_kj − mu_j)²
        return Q.mul_(self.a)  # d2h = a (Σ_k s_k W2_kj² − mu²)


def gradient_and_curvature(
    loss: Loss, o: Tensor, y: Tensor, class_weight: Maybe, weight: Tensor
) -> tuple[Tensor, OutputCurvature]:
    """G = ∂L/∂O (B,q) and S.

    Args:
        loss: which, and its options.
        o: logits, (B,q).
        y: classes (B,), all of them in [0, q), or targets (B,q).
        class_weight: (q,), or None.
        weight: (B,), what ∂l_b/∂o_b is multiplied with: r_b, 0 for rows that are ignored, over N where L is a mean.
    """
    r = weight[:, None]
    if loss.takes_classes:
        return _of_classes(o, y[:, None], class_weight, r, loss.label_smoothing)
    a = loss.gradient_factor * r
    if loss.name == "mse":
        return a * (o - y), OutputCurvature(a, None, False)  # G = 2 r (o − y) / N
    sigma = torch.sigmoid(o)  # p = σ(o)
    return a * (sigma - y), OutputCurvature(a, sigma * (1 - sigma), False)  # G = r (σ(o) − y) / N


def _of_classes(
    o: Tensor, y: Tensor, class_weight: Maybe, r: Tensor, smooth: float
) -> tuple[Tensor, OutputCurvature]:  # fmt: skip
    """G = a p − t with t_bk = r_b ((1−ε) w_y [k=y] + (ε/q) w_k) and a = Σ_k t; y and r (B,1)."""
    at_label = a = r if class_weight is None else r * class_weight[y]
    if smooth:
        w = o.new_ones(o.shape[1]) if class_weight is None else class_weight
        elsewhere = r * (smooth / len(w) * w)
        at_label = (1 - smooth) * at_label
        a = at_label + elsewhere.sum(1, keepdim=True)
    p = torch.softmax(o, 1)  # p = softmax(o)
    g = (a * p).scatter_add_(1, y, -at_label)
    return g - elsewhere if smooth else g, OutputCurvature(a, p, True)
