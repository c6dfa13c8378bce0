"""A symmetric matrix as its leading eigenpairs, and a diagonal that makes the diagonal exact."""

from typing import NamedTuple

from torch import Tensor


class LowRank(NamedTuple):
    """U diag(λ) Uᵀ + diag(δ), with δ = diag(H) − diag(U diag(λ) Uᵀ).

    Attributes:
        values: λ, shape (k,).
        vectors: U, shape (n,k), orthonormal columns.
        diagonal: δ, shape (n,).
    """

    values: Tensor
    vectors: Tensor
    diagonal: Tensor

    def times(self, v: Tensor) -> Tensor:
        """The approximation times v, of shape (n,) or (n,k)."""
        spread = self.diagonal * v if v.dim() == 1 else self.diagonal[:, None] * v
        return spread + (self.vectors * self.values) @ (self.vectors.t() @ v)

    def dense(self) -> Tensor:
        """The approximation as a matrix (n,n)."""
        return (self.vectors * self.values) @ self.vectors.t() + self.diagonal.diag()
