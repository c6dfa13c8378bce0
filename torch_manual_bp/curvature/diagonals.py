"""Gradient, diagonals and trace: what costs about a gradient, or less.

All in W = φ″ ⊙ dH + φ′² ⊙ Q, which is the curvature of L in each hidden unit of each row (Q of `seen_from_hidden`).
"""

import torch
from torch import Tensor

from .rows import Rows
from .vectors import Blocks


def gradient(rows: Rows, hidden_bias: bool, output_bias: bool) -> Blocks:
    """The gradient: dW1 = dZᵀ X, db1 = dZᵀ 1, dW2 = Gᵀ H, db2 = Gᵀ 1, without the penalty."""
    dz = rows.dz
    return Blocks(
        dz.t() @ rows.x,
        dz.sum(0) if hidden_bias else None,
        rows.g.t() @ rows.h,
        rows.g.sum(0) if output_bias else None,
    )


def hidden_curvature(rows: Rows, ggn: bool) -> Tensor:
    """W = φ″ ⊙ dH + φ′² ⊙ Q, shape (B,h); the first term is not the GGN's."""
    w = rows.S.seen_from_hidden(rows.w2).mul_(rows.dphi)
    if ggn or rows.bend is None:
        return w.mul_(rows.dphi)  # gd2z = φ′² ⊙ d2h
    return torch.addcmul(rows.bend, w, rows.dphi)  # d2z = φ′² ⊙ d2h + φ″ ⊙ dH


def diagonal(rows: Rows, ggn: bool, hidden_bias: bool, output_bias: bool) -> Blocks:
    """The diagonal: diag W1 = Wᵀ (X⊙X), diag b1 = Wᵀ 1, diag W2 = S_dᵀ (H⊙H), diag b2 = S_dᵀ 1, without the penalty."""
    w, s = hidden_curvature(rows, ggn), rows.S.diagonal(rows.g.shape[1])
    return Blocks(
        w.t() @ rows.x.square(),  # d2w1 = d2zᵀ (X⊙X)
        w.sum(0) if hidden_bias else None,  # d2b1 = d2zᵀ 1
        s.t() @ rows.h.square(),  # d2w2 = d2oᵀ (H⊙H)
        s.sum(0) if output_bias else None,  # d2b2 = d2oᵀ 1
    )


def trace(rows: Rows, ggn: bool, hidden_bias: bool, output_bias: bool) -> Tensor:
    """Σ_b ‖x̃_b‖² Σ_j W_bj + Σ_b ‖h̃_b‖² Σ_k S_d,bk with x̃ = [x; 1], h̃ = [h; 1]; 0-dim, without the penalty."""
    w, s = hidden_curvature(rows, ggn).sum(1), rows.S.diagonal(rows.g.shape[1]).sum(1)
    of_first = w @ _squared_norms(rows.x, hidden_bias)  # Σ_b ‖x̃_b‖² Σ_j d2z_bj
    return of_first + s @ _squared_norms(rows.h, output_bias)  # trace = … + Σ_b ‖h̃_b‖² Σ_k d2o_bk


def _squared_norms(a: Tensor, bias: bool) -> Tensor:
    """‖ã_b‖² of each row, shape (B,)."""
    return torch.linalg.vector_norm(a, dim=1).square() + float(bias)
