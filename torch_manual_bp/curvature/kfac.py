"""Kronecker factors of the GGN (KFAC, type 2: the loss's own curvature, not a sampled one).

Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", 2015.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .dense import extended
from .rows import Rows


class Kronecker(NamedTuple):
    """A layer's GGN as G ⊗ A: entry ((j,i),(l,m)) is G_jl A_im, with [W b] read row by row; λ is not in it.

    Attributes:
        A: Ãᵀ Ã / B of the layer's inputs, or Ãᵀ diag(r) Ã / Σ r where rows have weights r, 0 for ignored ones;
            (d+1,d+1) or (h+1,h+1), smaller by one without a bias.
        G: Σ_b of the curvature of L in the layer's outputs, (h,h) or (q,q).
    """

    A: Tensor
    G: Tensor


class Sums(NamedTuple):
    """What rows add up to: X̃ᵀ diag(r) X̃, G1, H̃ᵀ diag(r) H̃ and G2, and Σ_b r_b of the rows' weights r."""

    xx: Tensor
    G1: Tensor
    hh: Tensor
    G2: Tensor
    weight: Tensor


def sums(rows: Rows, hidden_bias: bool, output_bias: bool) -> Sums:
    """G1 = Σ_b diag(φ′) W2ᵀ S_b W2 diag(φ′), G2 = Σ_b S_b."""
    x, h, (a, s, _), r = extended(rows.x, hidden_bias), extended(rows.h, output_bias), rows.S, rows.weight[:, None]
    q = rows.w2.shape[0]
    if s is None:  # S_b = a_b I: G1 = (φ′ᵀ diag(a) φ′) ⊙ (W2ᵀ W2), one product
        G1 = ((a * rows.dphi).t() @ rows.dphi) * (rows.w2.t() @ rows.w2)
        G2 = a.sum() * torch.eye(q, dtype=a.dtype, device=a.device)
    else:
        G1 = rows.dphi.new_zeros(rows.w2.shape[1], rows.w2.shape[1])
        for w, weight in zip(rows.w2, (a * s).t(), strict=True):  # an output at a time: all of them are (B,q,h)
            seen = rows.dphi * w  # ∂o_bk/∂z_bj
            G1.addmm_((weight[:, None] * seen).t(), seen)
        G2 = (a * s).sum(0).diag()
        if rows.S.coupled:
            N = rows.dphi * (s @ rows.w2)
            G1 = G1 - (a * N).t() @ N  # G1 = Σ_b φ′_j φ′_l Σ_k a (s_k W2_kj W2_kl) − a N_j N_l, N = φ′ ⊙ (s W2)
            G2 = G2 - (a * s).t() @ s  # G2 = Σ_b a (δ_kn s_k − s_k s_n)
    xx, hh = (r * x).t() @ x, (r * h).t() @ h  # A0 = X̃ᵀ X̃ / B, A1 = H̃ᵀ H̃ / B
    return Sums(xx, G1, hh, G2, rows.weight.sum())
