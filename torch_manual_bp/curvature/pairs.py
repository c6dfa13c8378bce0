"""Symmetric pairs: what is symmetric in two indices is computed for j ≤ l only, which makes products half as large."""

import torch
from torch import Tensor


class Pairs:
    """The pairs (j,l) with 0 ≤ j ≤ l < n, of which there are n(n+1)/2.

    Attributes:
        first: j of each pair.
        second: l of each pair.
        table: (n,n), the number of the pair (j,l) or (l,j).
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self.first, self.second = torch.triu_indices(n, n, device=device)
        # of the pairs before row j there are jn − j(j−1)/2, and (j,l) is the (l−j)-th of its row
        j, l = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)  # noqa: E741
        low, high = torch.minimum(j, l), torch.maximum(j, l)
        self.table = low * n - low * (low - 1) // 2 + high - low

    def products(self, a: Tensor) -> Tensor:
        """A_j A_l for the columns of A (B,n), shape (B, pairs)."""
        return a.index_select(1, self.first) * a.index_select(1, self.second)

    def add_to_diagonal(self, a: Tensor, diagonal: Tensor) -> Tensor:
        """A (B, pairs) with ``diagonal`` (B,n) added to its pairs (j,j), in place."""
        return a.index_add_(1, self.table.diagonal(), diagonal)
