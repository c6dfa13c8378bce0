"""Second derivatives by the inputs: of the loss, and of the outputs (what a PINN asks for)."""

import torch
from torch import Tensor

from .rows import Rows


def input_hessian(rows: Rows) -> Tensor:
    """∂²L/∂x_b² = W1ᵀ (diag(φ″ ⊙ dH) + diag(φ′) W2ᵀ S_b W2 diag(φ′)) W1 of each row, shape (B,d,d)."""
    a, s, p = rows.S.a, rows.S.s, rows.S.p
    J = (rows.dphi[:, None] * rows.w2) @ rows.w1  # ∂o_b/∂x_b = W2 diag(φ′) W1, shape (B,q,d)
    weighted = a[:, :, None] * (J if s is None else s[:, :, None] * J)
    H = J.transpose(1, 2) @ weighted
    if p is not None:
        pJ = (p[:, None] @ J)[:, 0]
        H -= (a * pJ)[:, :, None] * pJ[:, None]
    if rows.bend is None:
        return H
    return H.add_(rows.w1.t() @ (rows.bend[:, :, None] * rows.w1))  # dxdx = W1ᵀ (diag(φ″ ⊙ dH) + φ′ dhdh φ′) W1


def laplacian(rows: Rows) -> Tensor:
    """Σ_i ∂²o_bk/∂x_bi² = ((φ″ ⊙ rowsum(W1 ⊙ W1)ᵀ) W2ᵀ)_bk, shape (B,q): one product of that size."""
    d2phi = rows.d2phi
    if d2phi is None:
        return torch.zeros_like(rows.g)
    return (d2phi * rows.w1.square().sum(1)) @ rows.w2.t()  # laplacian = (φ″ ⊙ rowsum(W1⊙W1)ᵀ) W2ᵀ
