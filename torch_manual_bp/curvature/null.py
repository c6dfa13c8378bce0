"""Directions in which the Gauss–Newton matrix is known to be 0, whatever the data, and what it is along others."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..nn import Objective


class Null:
    """The null directions of the GGN that its diagonal and the loss tell of.

    A positive semidefinite matrix with a 0 on its diagonal is 0 in that row: a hidden unit that no row of the batch
    reaches, or an input that is 0 everywhere, where λ is 0. Cross-entropy does not change when the same is added to
    all outputs: adding the same to all of b2, or to all rows of W2, is a null direction of L (and so of H), and
    of the GGN; the penalty makes λ of those of W2.

    Args:
        diagonal: the GGN's, by parameter name.
        objective: whose it is.

    Attributes:
        count: how many there are, linearly independent.
        quotients: vᵀ A v / vᵀ v of some directions v that are orthogonal to all of them.
    """

    def __init__(self, diagonal: Mapping[str, Tensor], objective: Objective) -> None:
        self._kept = {name: (part != 0).to(part.dtype) for name, part in diagonal.items()}
        decay, classes = objective.weight_decay, objective.loss.takes_classes
        self._shifted = [name for name in diagonal if classes and name in ("fc2.bias", *["fc2.weight"][: decay == 0])]
        zeros = sum(int((kept == 0).sum()) for kept in self._kept.values())
        self.count = zeros + sum(int((self._kept[name].sum(0) > 0).sum()) for name in self._shifted)
        inside = {name: part for name, part in diagonal.items() if name not in self._shifted}
        self.quotients = [float(part[part > 0].min()) for part in inside.values() if (part > 0).any()]
        if classes and decay:
            self.quotients.append(float(decay))

    def without(self, v: Tensor) -> Tensor:
        """V (n,) without its part in them."""
        parts = v.split([kept.numel() for kept in self._kept.values()])
        return torch.cat([
            self._orthogonal(name, kept, part) for (name, kept), part in zip(self._kept.items(), parts, strict=True)
        ])  # fmt: skip

    def _orthogonal(self, name: str, kept: Tensor, part: Tensor) -> Tensor:
        part = part.view(kept.shape) * kept
        if name in self._shifted:  # the same to all outputs k: what is left of it has the mean 0 over them
            part = part - kept * (part.sum(0) / kept.sum(0).clamp(min=1))
        return part.flatten()
