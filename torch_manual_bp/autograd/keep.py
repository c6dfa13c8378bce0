"""What the forward pass keeps for the backward pass, and what can be read off it.

Kept        is              and gives
``"h"``     h (B,h)         h; φ′ as a function of h
``"z"``     z (B,h)         h = φ(z) and φ′(z), elementwise
``"mask"``  bits (B,⌈h/8⌉)  φ′, where it takes two values; not h
``"input"`` nothing         z = x w1ᵀ + b1 with one more matrix product, then as ``"z"``
``"nothing"`` nothing       neither, and neither is needed
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..equations import Activation, FromOutput

SAVE_POLICIES = ("auto", "input")


@dataclass(frozen=True)
class Needs:
    """For which of the MLP's tensors a gradient is asked; no tuple, since functorch would take it apart."""

    x: bool
    w1: bool
    b1: bool
    w2: bool
    b2: bool

    @property
    def dz(self) -> bool:
        """Whether the backward pass goes through the hidden layer."""
        return self.x or self.w1 or self.b1


def what_to_keep(phi: Activation, save: str, needs: Needs) -> str:
    """The least that needs no extra matrix product (``save="auto"``), or only the input (``save="input"``)."""
    if not (needs.dz or needs.w2):
        return "nothing"
    if save == "input":
        return "input"
    if not needs.w2 and phi.binary_slope is not None:
        return "mask"
    if not needs.dz:
        return "h"
    return "h" if phi.from_output else "z"


class Hidden:
    """h, φ′, φ″ of the hidden layer at the kept tensor, in plain differentiable torch, each computed when asked for.

    ``kind`` is how the kept tensor enters: "h", "z" or "mask". With ``keep="input"``, z is computed anew here and
    is a function of x, w1 and b1.
    """

    def __init__(
        self, phi: Activation, keep: str, s: Tensor | None, x: Tensor | None, w1: Tensor | None, b1: Tensor | None
    ):
        self.phi = phi
        self.kind = "z" if keep == "input" else keep
        self.s = F.linear(x, w1, b1) if keep == "input" else s  # type: ignore[arg-type]

    @property
    def kept(self) -> Tensor:
        """The kept tensor."""
        assert self.s is not None
        return self.s

    @property
    def h(self) -> Tensor:
        """H = φ(Z)."""
        return self.kept if self.kind == "h" else self.phi.phi(self.kept)

    def dphi(self, like: Tensor) -> Tensor:
        """φ′(Z), in the shape and dtype of ``like``."""
        if self.kind == "mask":
            assert self.phi.binary_slope is not None
            one, slope = like.new_ones(()), like.new_full((), self.phi.binary_slope)
            return torch.where(unpacked(self.kept, like.shape[1]), one, slope)
        return self.phi.dphi(self.kept) if self.kind == "z" else self._from_output.dphi(self.kept)

    def dphi_ds(self) -> Tensor | None:
        """∂φ′/∂s by the kept tensor s: φ″(Z) where that is z; None for a mask, on which φ′ does not depend smoothly."""
        if self.kind == "mask":
            return None
        return self.phi.d2phi(self.kept) if self.kind == "z" else self._from_output.dphi_dh(self.kept)

    @property
    def _from_output(self) -> FromOutput:
        assert self.phi.from_output is not None
        return self.phi.from_output


def unpacked(mask: Tensor, width: int) -> Tensor:
    """The mask's bits as booleans, (B,width): bit j mod 8 of byte ⌊j/8⌋ belongs to column j."""
    bits = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask[:, :, None] >> bits & 1).flatten(1)[:, :width].bool()
