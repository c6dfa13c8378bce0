"""What an op takes from the allocator beside its result: torch's on the CPU, as it is seen to do, and ours.

None of torch's is documented; the test that holds plans equal to measurements holds it to the torch that is installed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch

from .. import kernels
from ..equations.penalty import FEW
from .ledger import Ledger, Planned, Shape
from .library import product_scratch

BYTE, EXACT = torch.uint8, torch.float64


class Machine(Ledger):
    """A ledger on which ops leave their traces."""

    def mm(self, left: Shape, right: Shape, dtype: torch.dtype, transposed: bool = False, add: bool = False) -> None:
        """The product of (m,k), or of a transposed (k,m), and (k,n), into a tensor that is there, or added to it."""
        m, k, n = (self.length(size) for size in (*left, right[1]))
        taken = product_scratch(m, k, n, dtype, transposed)
        if taken and add:
            with self.held("a factor", (), torch.float32):
                self._scratch("workspace of a product", taken)
        elif taken:
            self._scratch("workspace of a product", taken)

    def _scratch(self, name: str, bytes: int) -> None:
        self.brief(name, (bytes,), BYTE, "scratch")

    @contextmanager
    def number(self, dtype: torch.dtype, given: torch.dtype = EXACT) -> Iterator[None]:
        """A Python number that an op takes: a tensor of its own, and another in the op's dtype."""
        with self.held("a number", (), given):
            if dtype is given:
                yield
                return
            with self.held("a number", (), dtype):
                yield

    def cast(self, shape: Shape, dtype: torch.dtype, to: torch.dtype) -> None:
        """An operand of another dtype than the op computes in is copied whole."""
        if dtype is not to:
            self.brief("copy in another dtype", shape, to)

    def sum_rows(self, name: str, columns: Shape, rows: Shape, dtype: torch.dtype, to: torch.dtype) -> Planned:
        """Aᵀ 1 of an A in one dtype, summed in another."""
        total = self.new(name, columns, to)
        self.cast((*rows, *columns), dtype, to)
        return total

    def squared_norms(self, weights: Mapping[str, Shape], dtype: torch.dtype, to: torch.dtype) -> Planned:
        """``‖W1‖² + ‖W2‖²``, as equations/penalty.py takes it."""
        parts = [self._squared_norm(f"‖{name}‖²", shape, dtype, to) for name, shape in weights.items()]
        total = self.new("‖w1‖² + ‖w2‖²", (), to)
        self.free(*parts)
        return total

    def _squared_norm(self, name: str, shape: Shape, dtype: torch.dtype, to: torch.dtype) -> Planned:
        if self.length(shape[0]) * self.length(shape[1]) <= FEW:
            norm = self.new(name, (), to)
            self.cast(shape, dtype, to)
            return norm
        with self.held(f"{name} of each row", shape[:1], to):
            self.cast(shape, dtype, to)
            return self.new(name, (), to)

    def dact(self, rows: str, dtype: torch.dtype, db1: str | None, identity: bool) -> Planned | None:
        """φ′ ⊙ dh in place, (rows, h); and on request its column sums, under this name."""
        sums = None if db1 is None else self.new(db1, ("h",), dtype, "gradient" if db1 == "db1" else "temporary")
        taken = scratch(self.length(rows), 1, self.length("h"), 1, "relu", dtype).dact
        if taken and not (identity and sums is None):
            self._scratch("column sums of parts", taken)
        return sums

    def loss(
        self, dtype: torch.dtype, rows: str, classes: str, takes_classes: bool, biased: bool
    ) -> tuple[Planned, Planned]:
        """L, and the scale of Ĝ, which is made in place of the logits (rows, classes)."""
        return self.new("L", (), dtype), self.new("scale of Ĝ", (), dtype)


def scratch(rows: int, inputs: int, hidden: int, outputs: int, activation: str, dtype: torch.dtype) -> kernels.Scratch:
    """What the compiled ops of a net say they take, with the threads that torch has now."""
    return _scratch_with(torch.get_num_threads(), rows, inputs, hidden, outputs, activation, dtype)


@cache
def _scratch_with(
    _: int, rows: int, inputs: int, hidden: int, outputs: int, activation: str, dtype: torch.dtype
) -> kernels.Scratch:
    x = torch.empty(1, 1, dtype=dtype, device="cpu").expand(rows, inputs)
    return kernels.scratch(x, hidden, outputs, activation)
