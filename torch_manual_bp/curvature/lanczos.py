"""What products with vectors say about a symmetric matrix's eigenvalues: those at an end, and how all of them lie."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

WHICH = ("LM", "LA", "SA")
_ROOM = 32  # vectors by which the basis grows

Product = Callable[[Tensor], Tensor]
Random = Callable[[], Tensor]


class Krylov:
    """A Q = Q T + r eᵀ: an orthonormal basis Q of span{v, A v, A² v, …}, and T = Qᵀ A Q, tridiagonal.

    Lanczos with full reorthogonalisation, a product and a vector of n numbers a step.

    Args:
        product: v ↦ A v for v (n,).
        start: v, shape (n,), not 0.
        max_steps: the most products; more than n are never made.

    Attributes:
        residual: ‖r‖ after the last step; 0 where the basis has become an invariant subspace.
        largest: the largest entry of T and ‖r‖ so far, a measure of ‖A‖.
    """

    def __init__(self, product: Product, start: Tensor, max_steps: int) -> None:
        self._product, self._count = product, min(len(start), max_steps)
        self._Q = start.new_empty(0, len(start))
        self._keep(0, start / start.norm())
        self._diagonal: list[float] = []
        self._off: list[float] = []
        self.residual, self.largest = torch.inf, 0.0

    def steps(self, random: Random | None = None) -> Iterator[int]:
        """Take the steps, each once it is asked for; gives how many have been taken.

        Args:
            random: makes a vector to go on from, outside of an invariant subspace (T falls into blocks then); without
                it that is where the steps end.
        """
        eps = torch.finfo(self._Q.dtype).eps
        for step in range(self._count):
            r = self._product(self._Q[step])
            self._diagonal.append(float(self._Q[step] @ r))
            r = self._orthogonal(r, step + 1)
            beta = float(r.norm())
            self.largest = max(self.largest, abs(self._diagonal[-1]), beta)
            exhausted = beta <= 10 * eps * self.largest
            self.residual = 0.0 if exhausted else beta
            yield step + 1
            if step + 1 == self._count or (exhausted and random is None):
                return
            if exhausted:
                assert random is not None
                r, beta = self._orthogonal(random(), step + 1), 0.0
            self._off.append(beta)
            self._keep(step + 1, r / r.norm())

    def eigh(self) -> tuple[Tensor, Tensor]:
        """T's eigenvalues θ (m,), which are A's Ritz values, ascending, and eigenvectors s (m,m), float64, on the CPU.

        (θ, Q s) has the residual ‖A Q s − θ Q s‖ = ‖r‖ |s_last|.
        """
        T = torch.diag(torch.tensor(self._diagonal, dtype=torch.float64))
        if self._off:
            beside = torch.tensor(self._off, dtype=torch.float64)
            T = T + beside.diag(1) + beside.diag(-1)
        theta, s = torch.linalg.eigh(T)
        return theta, s

    def vectors(self, s: Tensor) -> Tensor:
        """Q s for columns s (m,k) in T's space, each of norm 1; shape (n,k)."""
        vectors = self._Q[: len(s)].t() @ s.to(self._Q)
        return vectors / vectors.norm(dim=0)

    def _keep(self, at: int, q: Tensor) -> None:
        if at == len(self._Q):  # room for some more, and not for max_steps: few are taken as a rule
            self._Q = torch.cat([self._Q, self._Q.new_empty(_ROOM, len(q))])
        self._Q[at] = q

    def _orthogonal(self, r: Tensor, count: int) -> Tensor:
        """R without its part in the first ``count`` of the basis; twice is enough for what rounding leaves."""
        basis = self._Q[:count]
        for _ in range(2):
            r = r - (basis @ r) @ basis
        return r


def lanczos(
    product: Product, random: Random, k: int, which: str, tolerance: float, max_steps: int
) -> tuple[Tensor, Tensor]:
    """The k eigenvalues at an end of the spectrum (k,), the first in ``which`` order, and eigenvectors (n,k).

    It stops when the residuals of all k Ritz pairs are at most ``tolerance`` · max |θ|. Where the basis has become an
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
    krylov = Krylov(product, start, max_steps)
    residual = torch.inf
    before: Tensor | None = None  # the k values when a subspace was last found invariant
    for step in krylov.steps(random):
        exhausted = krylov.residual == 0
        # T's eigenvectors cost (steps)³
        if step < k or not (step == min(n, max_steps) or exhausted or step % 4 == 0):
            continue
        theta, s = krylov.eigh()
        chosen = _order(theta, which)[:k]
        residual = float(krylov.residual * s[-1, chosen].abs().max())
        small = tolerance * float(theta.abs().max())
        if exhausted:
            settled = before is not None and float((theta[chosen] - before).abs().max()) <= small
            before = theta[chosen]
        else:
            settled = residual <= small
        if settled or step == n:
            return theta[chosen].to(start), krylov.vectors(s[:, chosen])
    raise RuntimeError(
        f"eigsh: the residuals of {k} eigenvalues must fall to {tolerance:g} of the largest in {max_steps} products, "
        f"got {residual / max(krylov.largest, torch.finfo(start.dtype).eps):g}; "
        "give more max_steps, fewer k or a larger tolerance"
    )


def ritz_measure(product: Product, start: Tensor, max_steps: int) -> tuple[Tensor, Tensor]:
    """θ (m,) and τ² (m,), Gauss's quadrature: vᵀ f(A) v = Σ_i τ_i² f(θ_i) for v = start/‖start‖ and f of degree < 2m.

    m is ``max_steps``, or less where the Krylov space of v ends before: then it is so for every f. float64, on the CPU.
    """
    krylov = Krylov(product, start, max_steps)
    for _ in krylov.steps():
        pass
    theta, s = krylov.eigh()
    return theta, s[0].square()


def _order(theta: Tensor, which: str) -> Tensor:
    return {"LM": -theta.abs(), "LA": -theta, "SA": theta}[which].argsort()
