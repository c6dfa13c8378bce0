"""Hessian and Gauss–Newton products: the tangent routine of the equations, for k directions in one pass.

Pearlmutter's R-operator on the cached pass. With Ẋ = 0 and Ġ_b = S_b Ȯ_b, for a direction (Ẇ1, ḃ1, Ẇ2, ḃ2):

    Ż = X Ẇ1ᵀ + 1 ḃ1ᵀ,  Ḣ = φ′ ⊙ Ż,  Ȯ = Ḣ W2ᵀ + H Ẇ2ᵀ + 1 ḃ2ᵀ,  Ḋ = Ġ W2 + G Ẇ2,  E = φ″ ⊙ Ż ⊙ dH + φ′ ⊙ Ḋ,
    dẆ1 = Eᵀ X,  dḃ1 = Eᵀ 1,  dẆ2 = Ġᵀ H + Gᵀ Ḣ,  dḃ2 = Ġᵀ 1.

The k directions lie side by side in the columns of each product: (B,kh) = (B,d) (d,kh) and so on. The FLOPs of one
product are those of a retained autograd graph; what is gained is launches, memory, and that there is no graph.
"""

from torch import Tensor
from torch.nn import functional as F

from .rows import Rows
from .vectors import Blocks, Maybe


def hessian_product(rows: Rows, t: Blocks) -> Blocks:
    """∂²L/∂θ² times each of k vectors, without the penalty; blocks (k,h,d), (k,h), (k,q,h), (k,q)."""
    k, q, h = t.w2.shape
    tz = _into_hidden(rows, t)
    th = rows.dphi[:, None] * tz  # Ḣ = φ′ ⊙ Ż
    tg = _through_the_loss(rows, t, th)
    mixed = rows.g.t() @ th.flatten(1)  # Gᵀ Ḣ, shape (q,kh)
    del th  # what comes next takes its memory
    e = rows.g @ t.w2.transpose(0, 1).reshape(q, k * h)  # Ḋ = G Ẇ2
    e = e.view(-1, h).addmm_(tg.flatten(0, 1), rows.w2).view(tz.shape)  # Ḋ = G Ẇ2 + Ġ W2
    e *= rows.dphi[:, None]
    if rows.bend is not None:
        e.addcmul_(tz, rows.bend[:, None])  # E = φ″ ⊙ Ż ⊙ dH + φ′ ⊙ Ḋ
    del tz
    product = _pulled_back(rows, t, e, tg)
    product.w2.add_(mixed.view(q, k, h).transpose(0, 1))  # dẆ2 = Ġᵀ H + Gᵀ Ḣ
    return product


def ggn_product(rows: Rows, t: Blocks) -> Blocks:
    """The generalised Gauss–Newton matrix Σ_b (∂o_b/∂θ)ᵀ S_b (∂o_b/∂θ) times each of k vectors: E = φ′ ⊙ (Ġ W2)."""
    th = _into_hidden(rows, t).mul_(rows.dphi[:, None])  # Ḣ = φ′ ⊙ Ż
    tg = _through_the_loss(rows, t, th)
    e = (tg.flatten(0, 1) @ rows.w2).view(th.shape).mul_(rows.dphi[:, None])  # gtdz = φ′ ⊙ (Ġ W2)
    return _pulled_back(rows, t, e, tg)


def _into_hidden(rows: Rows, t: Blocks) -> Tensor:
    """Ż (B,k,h)."""
    k, h, _ = t.w1.shape
    return F.linear(rows.x, t.w1.flatten(0, 1), _flat(t.b1)).view(len(rows.x), k, h)  # Ż = X Ẇ1ᵀ + 1 ḃ1ᵀ


def _through_the_loss(rows: Rows, t: Blocks, th: Tensor) -> Tensor:
    """Ġ = S Ȯ (B,k,q)."""
    k, q, _ = t.w2.shape
    to = F.linear(rows.h, t.w2.flatten(0, 1), _flat(t.b2))  # Ȯ = H Ẇ2ᵀ + 1 ḃ2ᵀ
    to = to.view(-1, q).addmm_(th.flatten(0, 1), rows.w2.t()).view(len(rows.x), k, q)  # Ȯ = Ḣ W2ᵀ + H Ẇ2ᵀ + 1 ḃ2ᵀ
    return rows.S.times(to)  # Ġ = S Ȯ


def _pulled_back(rows: Rows, t: Blocks, e: Tensor, tg: Tensor) -> Blocks:
    return Blocks(
        (e.flatten(1).t() @ rows.x).view(t.w1.shape),  # dẆ1 = Eᵀ X
        None if t.b1 is None else e.sum(0),  # dḃ1 = Eᵀ 1
        (tg.flatten(1).t() @ rows.h).view(t.w2.shape),  # dẆ2 = Ġᵀ H
        None if t.b2 is None else tg.sum(0),  # dḃ2 = Ġᵀ 1
    )


def _flat(bias: Maybe) -> Maybe:
    return None if bias is None else bias.flatten()
