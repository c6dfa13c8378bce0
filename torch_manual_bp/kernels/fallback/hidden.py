"""Bias and φ; φ′ ⊙ dh and the bias gradient."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...equations.activations import ACTIVATIONS, Activation
from ..codes import ACTIVATION_NAMES, KIND_NAMES
from .tiles import biased, tiles, wide


def _phi(code: int) -> Activation:
    return ACTIVATIONS[ACTIVATION_NAMES[code]]


@torch.no_grad()
def bias_act_(z: Tensor, bias: Tensor | None, activation: int) -> None:
    """``z ← φ(z + 1 bᵀ)``."""
    phi = _phi(activation).phi
    for rows in tiles(z):
        z[rows] = phi(biased(z[rows], bias))


@torch.no_grad()
def bias_act_keep_(z: Tensor, h: Tensor, bias: Tensor | None, activation: int) -> None:
    """``z ← z + 1 bᵀ``, and ``h ← φ(z)``, of z as it is kept (rounded)."""
    if bias is not None:
        z.add_(bias)
    h.copy_(z)
    bias_act_(h, None, activation)


def _bits(like: Tensor) -> Tensor:
    return 1 << torch.arange(8, dtype=torch.uint8, device=like.device)


@torch.no_grad()
def bias_act_mask_(z: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    """``z ← φ(z + 1 bᵀ)``; returns [z > 0], eight units a byte."""
    phi = _phi(activation).phi
    mask = torch.empty(z.shape[0], (z.shape[1] + 7) // 8, dtype=torch.uint8, device=z.device)
    bits = _bits(z)
    for rows in tiles(z):
        tile = biased(z[rows], bias)
        positive = F.pad((tile > 0).to(torch.uint8), (0, -z.shape[1] % 8))
        mask[rows] = (positive.view(tile.shape[0], mask.shape[1], 8) * bits).sum(2, dtype=torch.uint8)
        z[rows] = phi(tile)
    return mask


@torch.no_grad()
def act(z: Tensor, activation: int) -> Tensor:
    """``h = φ(z)``."""
    phi = _phi(activation).phi
    h = torch.empty_like(z)
    for rows in tiles(z):
        h[rows] = phi(wide(z[rows]))
    return h


def _dphi(phi: Activation, kind: str, saved: Tensor, dh: Tensor) -> Tensor:
    """φ′ from what was kept, in the dtype of dh."""
    if kind == "z":
        return phi.dphi(wide(saved))
    if kind == "h":
        assert phi.from_output is not None
        return phi.from_output.dphi(wide(saved))
    assert phi.binary_slope is not None
    units = saved[:, :, None].bitwise_and(_bits(saved)).view(saved.shape[0], 8 * saved.shape[1])
    return torch.where(units[:, : dh.shape[1]] != 0, dh.new_ones(()), dh.new_full((), phi.binary_slope))


@torch.no_grad()
def dact_(dh: Tensor, saved: Tensor, activation: int, kind: int) -> None:
    """``dz = φ′ ⊙ dh``, in place of dh."""
    phi, kind_name = _phi(activation), KIND_NAMES[kind]
    for rows in tiles(dh):
        tile = wide(dh[rows])
        dh[rows] = _dphi(phi, kind_name, saved[rows], tile) * tile


@torch.no_grad()
def dact_bias_grad_(dh: Tensor, saved: Tensor, activation: int, kind: int) -> Tensor:
    """``dz = φ′ ⊙ dh``, in place of dh; returns db1 = dzᵀ 1."""
    dact_(dh, saved, activation, kind)
    return dh.sum(0)
