"""Symmetric pairs: what is symmetric in two indices is computed for j ≤ l only, which makes products half as large."""

from collections.abc import Iterator

import torch
from torch import Tensor


class Pairs:
    """The pairs (j,l) with j ≤ l < n, of which there are n(n+1)/2; or those of them with start ≤ j < stop.

    Args:
        n: of how many things.
        device: where the indices are.
        start: the first j.
        stop: behind the last j; None for n.

    Attributes:
        first: j of each pair.
        second: l of each pair.
        numbers: which of all pairs these are.
    """

    def __init__(self, n: int, device: torch.device, start: int = 0, stop: int | None = None) -> None:
        self._n, self._device, self.start, self.stop = n, device, start, n if stop is None else stop
        self.first, self.second = torch.triu_indices(self.stop - start, n - start, device=device) + start
        self.numbers = slice(self._number(start), self._number(self.stop))

    def _number(self, j: int) -> int:
        """Which pair (j,j) is: before it there are n + (n−1) + … of lower j."""
        return j * self._n - j * (j - 1) // 2

    def chunks(self, most: int) -> Iterator["Pairs"]:
        """Consecutive parts of at most so many pairs, with at least all pairs of one j."""
        start = 0
        while start < self._n:
            stop = start + 1
            while stop < self._n and self._number(stop + 1) - self._number(start) <= most:
                stop += 1
            yield Pairs(self._n, self._device, start, stop)
            start = stop

    def __len__(self) -> int:
        return self.numbers.stop - self.numbers.start

    @property
    def lengths(self) -> list[int]:
        """How many pairs each j has."""
        return [self._n - j for j in range(self.start, self.stop)]

    @property
    def table(self) -> Tensor:
        """The number of the pair (j,l) or (l,j), shape (n,n)."""
        l = torch.arange(self._n, device=self._device)  # noqa: E741
        low, high = torch.minimum(l[:, None], l), torch.maximum(l[:, None], l)
        return low * self._n - low * (low - 1) // 2 + high - low

    def products(self, a: Tensor) -> Tensor:
        """A_j A_l for the columns of A (B,n), shape (B, pairs)."""
        return a.index_select(1, self.first) * a.index_select(1, self.second)

    def add_to_diagonal(self, a: Tensor, diagonal: Tensor) -> Tensor:
        """A (B, pairs) with ``diagonal`` (B,n) added to its pairs (j,j), in place."""
        j = torch.arange(self.start, self.stop, device=a.device)
        places = j * self._n - j * (j - 1) // 2 - self.numbers.start
        return a.index_add_(1, places, diagonal[:, self.start : self.stop])
