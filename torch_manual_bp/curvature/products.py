"""Hessian and Gauss–Newton products: the tangent routine of the equations, for k directions in one pass.

Pearlmutter's R-operator on the cached pass. With Ẋ = 0 and Ġ_b = S_b Ȯ_b, for a direction (Ẇ1, ḃ1, Ẇ2, ḃ2):

    Ż = X Ẇ1ᵀ + 1 ḃ1ᵀ,  Ḣ = φ′ ⊙ Ż,  Ȯ = Ḣ W2ᵀ + H Ẇ2ᵀ + 1 ḃ2ᵀ,  Ḋ = Ġ W2 + G Ẇ2,  E = φ″ ⊙ Ż ⊙ dH + φ′ ⊙ Ḋ,
    dẆ1 = Eᵀ X,  dḃ1 = Eᵀ 1,  dẆ2 = Ġᵀ H + Gᵀ Ḣ,  dḃ2 = Ġᵀ 1.

The k directions lie side by side in the columns of each product: (B,kh) = (B,d) (d,kh) and so on. The FLOPs of one
product are those of a retained autograd graph; what is gained is launches, memory, and that there is no graph.
"""

from torch import Tensor

from .rows import Rows
from .vectors import Blocks


def hessian_product(rows: Rows, t: Blocks) -> Blocks:
    """∂²L/∂θ² times each of k vectors, without the penalty; blocks (k,h,d), (k,h), (k,q,h), (k,q)."""
    tz, th, tg = _through_the_loss(rows, t)
    k, q, h = t.w2.shape
    e = _linear(tg, rows.w2)  # Ḋ = Ġ W2
    e += (rows.g @ t.w2.transpose(0, 1).reshape(q, k * h)).view(e.shape)  # + G Ẇ2
    e *= rows.dphi[:, None]
    if rows.d2phi is not None:
        e += tz.mul_((rows.d2phi * rows.dh)[:, None])  # E = φ″ ⊙ Ż ⊙ dH + φ′ ⊙ Ḋ
    product = _pulled_back(rows, t, e, tg)
    mixed = rows.g.t() @ th.flatten(1)  # Gᵀ Ḣ, shape (q,kh)
    return product._replace(w2=product.w2 + mixed.view(q, k, h).transpose(0, 1))


def ggn_product(rows: Rows, t: Blocks) -> Blocks:
    """The generalised Gauss–Newton matrix Σ_b (∂o_b/∂θ)ᵀ S_b (∂o_b/∂θ) times each of k vectors: E = φ′ ⊙ (Ġ W2)."""
    _, _, tg = _through_the_loss(rows, t)
    return _pulled_back(rows, t, _linear(tg, rows.w2).mul_(rows.dphi[:, None]), tg)


def _through_the_loss(rows: Rows, t: Blocks) -> tuple[Tensor, Tensor, Tensor]:
    """Ż (B,k,h), Ḣ (B,k,h) and Ġ = S Ȯ (B,k,q)."""
    k, h, _ = t.w1.shape
    tz = (rows.x @ t.w1.flatten(0, 1).t()).view(-1, k, h)  # Ż = X Ẇ1ᵀ
    if t.b1 is not None:
        tz += t.b1  # + 1 ḃ1ᵀ
    th = rows.dphi[:, None] * tz
    to = _linear(th, rows.w2.t())  # Ȯ = Ḣ W2ᵀ
    to += (rows.h @ t.w2.flatten(0, 1).t()).view(to.shape)  # + H Ẇ2ᵀ
    if t.b2 is not None:
        to += t.b2  # + 1 ḃ2ᵀ
    return tz, th, rows.S.times(to)


def _pulled_back(rows: Rows, t: Blocks, e: Tensor, tg: Tensor) -> Blocks:
    return Blocks(
        (e.flatten(1).t() @ rows.x).view(t.w1.shape),  # dẆ1 = Eᵀ X
        None if t.b1 is None else e.sum(0),  # dḃ1 = Eᵀ 1
        (tg.flatten(1).t() @ rows.h).view(t.w2.shape),  # dẆ2 = Ġᵀ H
        None if t.b2 is None else tg.sum(0),  # dḃ2 = Ġᵀ 1
    )


def _linear(a: Tensor, b: Tensor) -> Tensor:
    """A B for A (B,k,m) and B (m,n), as one matrix product."""
    return (a.flatten(0, 1) @ b).view(*a.shape[:2], b.shape[1])
