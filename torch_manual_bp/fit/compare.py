"""The same net by autograd: the opponent, the witness, and the difference between the two.

Two questions, kept apart. *Is a gradient right?* Both gradients are taken at the same parameters, on the same batch,
and both are held against float64. *Do the runs agree?* Each net follows its own gradients from the same start; their
curves drift apart as rounding does, at a rate that training itself sets.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import MLP
from .paths import usual_gradients
from .settings import Settings

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


class AutogradObjective(nn.Module):
    """J = L + λ/2 (‖W1‖² + ‖W2‖²) written as everyone writes it, for autograd to differentiate.

    Args:
        fc1, phi, fc2: the layers; their parameters are used, not copied.
        loss: by name.
        weight_decay: λ.
    """

    def __init__(self, fc1: nn.Linear, phi: nn.Module, fc2: nn.Linear, loss: str, weight_decay: float) -> None:
        super().__init__()
        self.net = nn.Sequential(fc1, phi, fc2)
        self.weights = (fc1.weight, fc2.weight)
        self.loss, self.weight_decay = loss, weight_decay

    @classmethod
    def beside(cls, mlp: MLP, settings: Settings, loss: str) -> "AutogradObjective":
        """J of the very parameters of ``mlp``."""
        return cls(mlp.fc1, settings.phi_module(), mlp.fc2, loss, settings.weight_decay)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """J for a batch x (B, d) with y (B,) or (B, q)."""
        L = _LOSSES[self.loss](self.net(x), y)
        s = self.weight_decay / 2 * (self.weights[0].pow(2).sum() + self.weights[1].pow(2).sum())
        return L + s


class GradientCheck(NamedTuple):
    """How far gradients lie apart at one step, by symbol (dw1, db1, dw2, db2): max |a − b| / max |b|.

    Attributes:
        step: the step before whose update the gradients were taken.
        difference: by hand against autograd, both in the dtype of training.
        error: by hand, against autograd in float64.
        autograd_error: autograd, against autograd in float64.
        float64: by hand in float64, against autograd in float64.
    """

    step: int
    difference: dict[str, float]
    error: dict[str, float]
    autograd_error: dict[str, float]
    float64: dict[str, float]


def check_gradients(step: int, mlp: MLP, settings: Settings, loss: str, x: Tensor, y: Tensor) -> GradientCheck:
    """Every gradient of J at the parameters of ``mlp`` on one batch, by hand and by autograd, also in float64.

    By hand means: as the settings' path computes gradients.

    Args:
        step: recorded as it is.
        mlp: the net; its parameters and their ``.grad`` stay as they are.
        settings: λ, φ and the path.
        loss: by name.
        x: the batch, (B, d).
        y: its class indices (B,) or targets (B, q).
    """
    by_hand, by_autograd = _gradients(mlp, settings, loss, x, y)
    mlp64 = copy.deepcopy(mlp).to("cpu", torch.float64)  # some accelerators have no float64
    x, y = x.to("cpu", torch.float64), (y.double() if y.is_floating_point() else y).cpu()
    by_hand64, by_autograd64 = _gradients(mlp64, settings, loss, x, y)
    return GradientCheck(
        step,
        difference=_differences(by_hand, by_autograd),
        error=_differences(by_hand, by_autograd64),
        autograd_error=_differences(by_autograd, by_autograd64),
        float64=_differences(by_hand64, by_autograd64),
    )


def parameters_by_symbol(mlp: MLP) -> dict[str, Tensor]:
    """The parameters w1, b1, w2 and b2, as far as the net has them."""
    every = {"w1": mlp.fc1.weight, "b1": mlp.fc1.bias, "w2": mlp.fc2.weight, "b2": mlp.fc2.bias}
    return {symbol: parameter for symbol, parameter in every.items() if parameter is not None}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The relative difference max |a − b| / max |b|, in float64; 0 where both are zero."""
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    difference, size = (a - b).abs().max().item(), b.abs().max().item()
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf


def _gradients(mlp: MLP, settings: Settings, loss: str, x: Tensor, y: Tensor) -> Iterator[dict[str, Tensor]]:
    """By hand, and by autograd."""
    mlp = copy.deepcopy(mlp)  # a path may leave its gradients in .grad, and expects nothing there
    mlp.zero_grad()
    by_hand = settings.training_path.gradients(settings.make_objective(mlp, loss), x, y)
    by_autograd = usual_gradients(AutogradObjective.beside(mlp, settings, loss), x, y)
    for gradients in (by_hand, by_autograd):
        yield {f"d{symbol}": gradient for symbol, gradient in zip(parameters_by_symbol(mlp), gradients, strict=True)}


def _differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    return {symbol: relative_difference(a[symbol], b[symbol]) for symbol in a}
