"""Symmetric pairs: what is symmetric in two indices is computed for j ≤ l only, which makes products half as large."""

from collections.abc import Iterator

import torch
from torch import Tensor


class Pairs:
    """The pairs (j,l) with j ≤ l < n, of which there are n(n+1)/2; or those of them with start ≤ j < stop.

    Args:
        n: of how many things.
        device: where the indices are.

    Attributes:
        first: j of each pair.
        second: l of each pair.
        start, stop: between which j lies.
        numbers: which of all pairs these are.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self._n = n
        self.first, self.second = torch.triu_indices(n, n, device=device)
        self.start, self.stop, self.numbers = 0, n, slice(0, len(self.first))

    def chunks(self, most: int) -> Iterator["Pairs"]:
        """Consecutive parts of at most so many pairs, with at least all pairs of one j."""
        start = number = 0
        while start < self._n:
            stop, size = start + 1, self._n - start
            while stop < self._n and size + self._n - stop <= most:
                stop, size = stop + 1, size + self._n - stop
            part = object.__new__(Pairs)
            part._n, part.start, part.stop, part.numbers = self._n, start, stop, slice(number, number + size)
            part.first, part.second = self.first[part.numbers], self.second[part.numbers]
            yield part
            start, number = stop, number + size

    def __len__(self) -> int:
        return self.numbers.stop - self.numbers.start

    @property
    def lengths(self) -> list[int]:
        """How many pairs each j has."""
        return [self._n - j for j in range(self.start, self.stop)]

    @property
    def table(self) -> Tensor:
        """The number of the pair (j,l) or (l,j), shape (n,n)."""
        # of the pairs before row j there are jn − j(j−1)/2, and (j,l) is the (l−j)-th of its row
        l = torch.arange(self._n, device=self.first.device)  # noqa: E741
        low, high = torch.minimum(l[:, None], l), torch.maximum(l[:, None], l)
        return low * self._n - low * (low - 1) // 2 + high - low

    def products(self, a: Tensor) -> Tensor:
        """A_j A_l for the columns of A (B,n), shape (B, pairs)."""
        return a.index_select(1, self.first) * a.index_select(1, self.second)

    def add_to_diagonal(self, a: Tensor, diagonal: Tensor) -> Tensor:
        """A (B, pairs) with ``diagonal`` (B,n) added to its pairs (j,j), in place."""
        places = torch.tensor([0, *self.lengths[:-1]], device=a.device).cumsum(0)
        return a.index_add_(1, places, diagonal[:, self.start : self.stop])
