"""How all eigenvalues of a symmetric matrix lie, estimated from products with random vectors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .lanczos import Product, Random, ritz_measure


class Density(NamedTuple):
    """Φ(t) = Σ_i w_i δ(t − θ_i), an estimate of 1/n Σ_j δ(t − λ_j) over all n eigenvalues λ_j.

    Its moments estimate traces: n Σ_i w_i θ_i^p ≈ tr A^p. What it says of a single eigenvalue of few is nothing: 1/n of
    the weight is below what random vectors tell.

    Attributes:
        values: θ, shape (m,), ascending, float64.
        weights: w, shape (m,), never negative; their sum is 1.
        n: how many eigenvalues there are.
    """

    values: Tensor
    weights: Tensor
    n: int

    def at(self, points: Tensor, width: float) -> Tensor:
        """Σ_i w_i exp(−(t − θ_i)² / 2σ²) / (σ √2π) at each t: the density, seen with a resolution of σ = ``width``.

        Args:
            points: t, any shape.
            width: σ, above 0.

        Returns:
            Shape of ``points``, float64; its integral over t is 1.

        Raises:
            ValueError: width is not above 0.
        """
        if not width > 0:
            raise ValueError(f"Density.at: width must be above 0, got {width}")
        away = (points.double().to(self.values.device)[..., None] - self.values) / width
        return (away.square().div(-2).exp() @ self.weights) / (width * math.sqrt(2 * math.pi))

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        """About how many of the n eigenvalues lie in [low, high): n times the weight there."""
        inside = (self.values >= low) & (self.values < high)
        return self.n * float(self.weights[inside].sum())

    def moment(self, power: int) -> float:
        """Σ_i w_i θ_i^p, which estimates tr(A^p)/n."""
        return float(self.weights @ self.values**power)


def stochastic_lanczos(product: Product, random: Random, probes: int, steps: int) -> Density:
    """Stochastic Lanczos quadrature (Lin, Saad and Yang, 2016): the mean of Gauss's quadratures of random vectors.

    For a vector v of a distribution that does not change under rotations, n E[vᵀ f(A) v] / ‖v‖² = tr f(A).

    Args:
        product: v ↦ A v for v (n,).
        random: a random vector (n,), each time another.
        probes: how many of them; the standard deviation of a moment falls with its square root.
        steps: products for each, which is the degree of the resolution.
    """
    starts = (random() for _ in range(probes))
    n, values, weights = 0, [], []
    for start in starts:
        theta, w = ritz_measure(product, start, steps)
        n = len(start)
        values.append(theta)
        weights.append(w / w.sum() / probes)
    theta, order = torch.cat(values).sort()
    return Density(theta, torch.cat(weights)[order], n)
