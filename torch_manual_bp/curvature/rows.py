"""What every quantity of second order reads: the forward pass and the backward pass down to ∂L/∂H, made once."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..training.problem import Batch, Goal, Net
from .output import OutputCurvature, gradient_and_curvature

Maybe = Tensor | None


class Rows(NamedTuple):
    """One pass over rows: x (B,d), h = φ(Z), φ′ and φ″ (B,h), G = ∂L/∂O (B,q), S, dh = G W2 (B,h), w1 (h,d), w2 (q,h).

    d2phi is None where φ″ is 0 almost everywhere (relu, leaky_relu, identity): H and GGN differ all the same, by the
    terms in which W1 and W2 meet.
    """

    x: Tensor
    h: Tensor
    dphi: Tensor
    d2phi: Maybe
    g: Tensor
    S: OutputCurvature
    dh: Tensor
    w1: Tensor
    w2: Tensor

    @property
    def dz(self) -> Tensor:
        """The gradient dZ = φ′(Z) ⊙ dH, shape (B,h)."""
        return self.dphi * self.dh


def pass_over(net: Net, goal: Goal, batch: Batch, scale: float | Tensor) -> Rows:
    """The forward pass, and the backward pass down to dH; ``scale`` as of `gradient_and_curvature`."""
    x, phi = batch.x, net.phi
    z = F.linear(x, net.w1, net.b1)  # Z = X W1ᵀ + 1 b1ᵀ
    h = phi.phi(z)  # H = φ(Z)
    o = F.linear(h, net.w2, net.b2)  # O = H W2ᵀ + 1 b2ᵀ
    g, S = gradient_and_curvature(goal.loss, o, batch.y, goal.class_weight, batch.row_weight, scale)
    dphi, d2phi, seen = (
        (phi.dphi, phi.d2phi, z) if phi.from_output is None else (phi.from_output.dphi, phi.from_output.d2phi, h)
    )
    curve = None if phi.is_piecewise_linear else d2phi(seen)
    return Rows(x, h, dphi(seen), curve, g, S, g @ net.w2, net.w1, net.w2)  # dH = G W2
