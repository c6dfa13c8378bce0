"""What every quantity of second order reads: the forward pass and the backward pass down to ∂L/∂H, made once."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..equations import Activation
from ..training.problem import Goal, Net
from .output import OutputCurvature, gradient_and_curvature

Maybe = Tensor | None


class Rows(NamedTuple):
    """One pass over rows: x (B,d), h = φ(Z) and φ′ (B,h), G = ∂L/∂O (B,q), S, weight (B,), w1 (h,d), w2 (q,h), φ.

    ``seen`` is what φ′ and φ″ are made from, h or z. dH = G W2 and ``bend`` = φ″ ⊙ dH (B,h) are kept where φ bends, and
    None where φ″ is 0 almost everywhere (relu, leaky_relu, identity): there the gradient alone needs dH. H and GGN
    differ there all the same, by the terms in which W1 and W2 meet.
    """

    x: Tensor
    seen: Tensor
    h: Tensor
    dphi: Tensor
    g: Tensor
    S: OutputCurvature
    weight: Tensor
    dh: Maybe
    bend: Maybe
    w1: Tensor
    w2: Tensor
    phi: Activation

    @property
    def dz(self) -> Tensor:
        """The gradient dZ = φ′(Z) ⊙ dH, shape (B,h)."""
        return self.dphi * (self.g @ self.w2 if self.dh is None else self.dh)

    @property
    def d2phi(self) -> Maybe:
        """The second derivative φ″, shape (B,h); None where it is 0 almost everywhere."""
        if self.phi.is_piecewise_linear:
            return None
        if self.phi.from_output is None:
            return self.phi.d2phi(self.seen)
        return self.phi.from_output.dphi_dh(self.seen) * self.dphi  # φ″ = ∂φ′/∂h φ′

    def parts(self, most: int) -> Iterator["Rows"]:
        """The same rows, at most so many at a time."""
        for at in range(0, max(1, len(self.x)), most):
            some = slice(at, at + most)
            S = self.S._replace(a=self.S.a[some], s=None if self.S.s is None else self.S.s[some])
            x, seen, h, dphi, g, weight = (t[some] for t in (self.x, self.seen, self.h, self.dphi, self.g, self.weight))
            dh, bend = (None if t is None else t[some] for t in (self.dh, self.bend))
            yield Rows(x, seen, h, dphi, g, S, weight, dh, bend, self.w1, self.w2, self.phi)


class Weighted(NamedTuple):
    """Rows x (B,d), y (B,) or (B,q), and ``weight`` (B,), y and weight as of `gradient_and_curvature`."""

    x: Tensor
    y: Tensor
    weight: Tensor


def pass_over(net: Net, goal: Goal, batch: Weighted) -> Rows:
    """The forward pass, and the backward pass down to dH."""
    (x, y, weight), phi = batch, net.phi
    z = F.linear(x, net.w1, net.b1)  # Z = X W1ᵀ + 1 b1ᵀ
    h = phi.phi(z)  # H = φ(Z)
    seen = z if phi.from_output is None else h
    del z
    o = F.linear(h, net.w2, net.b2)  # O = H W2ᵀ + 1 b2ᵀ
    g, S = gradient_and_curvature(goal.loss, o, y, goal.class_weight, weight)
    dphi = (phi.from_output or phi).dphi(seen)
    rows = Rows(x, seen, h, dphi, g, S, weight, None, None, net.w1, net.w2, phi)
    bend = rows.d2phi
    if bend is None:
        return rows
    dh = g @ net.w2  # dH = G W2
    return rows._replace(dh=dh, bend=bend.mul_(dh))
