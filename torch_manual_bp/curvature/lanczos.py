"""Extreme eigenvalues of a symmetric matrix of which only products with vectors are known."""

from collections.abc import Callable

import torch
from torch import Tensor

WHICH = ("LM", "LA", "SA")


def lanczos(
    product: Callable[[Tensor], Tensor],
    random: Callable[[], Tensor],
    k: int,
    which: str,
    tolerance: float,
    max_steps: int,
) -> tuple[Tensor, Tensor]:
    """The k eigenvalues at an end of the spectrum (k,), the first in ``which`` order, and eigenvectors (n,k).

    Lanczos with full reorthogonalisation: A Q = Q T + r eᵀ, T tridiagonal, and a Ritz pair (θ, Q s) has the residual
    ‖r‖ |s_last|. It stops when all k residuals are at most ``tolerance`` · max |θ|. Where the basis has become an
    invariant subspace, it goes on from a random vector outside, and stops when what that vector leads to changes none
    of the k. (An eigenvalue that is there several times may be found fewer times where no subspace becomes invariant.)

    Args:
        product: v ↦ A v for v (n,).
        random: a random vector (n,), each time another.
        k: how many.
        which: "LM" (largest magnitude), "LA" (largest), "SA" (smallest).
        tolerance: of the residuals.
        max_steps: the most products.

    Raises:
        RuntimeError: not converged within max_steps; the message says how far it came.
    """
    start = random()
    n = len(start)
    Q = start.new_empty(min(n, max_steps) + 1, n)
    Q[0] = start / start.norm()
    diagonal: list[float] = []
    off: list[float] = []
    eps = torch.finfo(start.dtype).eps
    largest = 0.0
    residual = torch.inf
    before: Tensor | None = None  # the k values when a subspace was last found invariant
    for step in range(min(n, max_steps)):
        r = product(Q[step])
        diagonal.append(float(Q[step] @ r))
        r = _orthogonal(r, Q[: step + 1])
        beta = float(r.norm())
        largest = max(largest, abs(diagonal[-1]), beta)
        exhausted = beta <= 10 * eps * largest
        last = step + 1 == min(n, max_steps)
        if step + 1 >= k and (last or exhausted or step % 4 == 3):  # T's eigenvectors cost (steps)³
            T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            if off:
                beside = torch.tensor(off, dtype=torch.float64)
                T = T + beside.diag(1) + beside.diag(-1)
            theta, s = torch.linalg.eigh(T)
            chosen = _order(theta, which)[:k]
            residual = float((0.0 if exhausted else beta) * s[-1, chosen].abs().max())
            small = tolerance * float(theta.abs().max())
            if exhausted:
                settled = before is not None and float((theta[chosen] - before).abs().max()) <= small
                before = theta[chosen]
            else:
                settled = residual <= small
            if settled or step + 1 == n:
                vectors = Q[: step + 1].t() @ s[:, chosen].to(Q)
                return theta[chosen].to(Q), vectors / vectors.norm(dim=0)
        if exhausted:
            r, beta = _orthogonal(random(), Q[: step + 1]), 0.0
        off.append(beta)
        Q[step + 1] = r / r.norm()
    raise RuntimeError(
        f"eigsh: the residuals of {k} eigenvalues must fall to {tolerance:g} of the largest in {max_steps} products, "
        f"got {residual / max(largest, eps):g}; give more max_steps, fewer k or a larger tolerance"
    )


def _orthogonal(r: Tensor, basis: Tensor) -> Tensor:
    """R without its part in the basis; twice is enough for what rounding leaves."""
    for _ in range(2):
        r = r - (basis @ r) @ basis
    return r


def _order(theta: Tensor, which: str) -> Tensor:
    return {"LM": -theta.abs(), "LA": -theta, "SA": theta}[which].argsort()
