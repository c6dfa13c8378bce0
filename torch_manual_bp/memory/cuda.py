"""What an op takes beside its result on CUDA: our kernels' own sums, as csrc/cuda sizes them, and no copies.

Not planned are the workspaces of torch's own ops: cuBLAS keeps some MiB from its first product on, and reductions take
a few KiB while they run. The allocator hands all of it out in multiples of 512 bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .ledger import Planned, Shape
from .machine import EXACT, Machine

_THREADS, _WARP = 256, 32  # of a block, csrc/cuda
_LEAST_WALK = 8  # rows of a thread
_CHUNKS, _CHUNK_ROWS = 512, 1024  # at most, of dact
_BLOCKS = 4096  # of an elementwise loss
_SIDE, _SMALL_CHUNKS = 16, 128  # of a small net: rows of a tile, chunks at most


class Cuda(Machine):
    """A ledger on which ops leave the traces that they leave on a GPU."""

    def mm(self, left: Shape, right: Shape, dtype: torch.dtype, transposed: bool = False, add: bool = False) -> None:
        """Into a tensor that is there: cuBLAS's workspace stands."""

    @contextmanager
    def number(self, dtype: torch.dtype, given: torch.dtype = EXACT) -> Iterator[None]:
        """A Python number stays with the CPU."""
        yield

    def cast(self, shape: Shape, dtype: torch.dtype, to: torch.dtype) -> None:
        """Operands are converted as they are read."""

    def dact(self, rows: str, dtype: torch.dtype, db1: str | None, identity: bool) -> Planned | None:
        """φ′ ⊙ dh in place, and the column sums, two-stage."""
        if db1 is None:
            return None
        sums = self.new(db1, ("h",), dtype, "gradient" if db1 == "db1" else "temporary")
        chunks = dact_chunks(self.length(rows), self.length("h"))
        self.brief("column sums of parts", (chunks, "h"), _wide(dtype), "scratch")
        return sums

    def loss(
        self, dtype: torch.dtype, rows: str, classes: str, takes_classes: bool, biased: bool
    ) -> tuple[Planned, Planned]:
        """L and the scale of Ĝ, after the sums of rows or blocks."""
        if takes_classes:
            scratch = [self.new(name, (rows,), EXACT, "scratch") for name in ("loss of each row", "weight of each row")]
        else:
            blocks = loss_blocks(self.length(rows), self.length(classes), biased)
            scratch = [self.new("loss of each block", (blocks,), EXACT, "scratch")]
        value = super().loss(dtype, rows, classes, takes_classes, biased)
        self.free(*scratch)
        return value


def small_net_sums(batch: int, d: int, h: int, q: int) -> tuple[int, int]:
    """The chunks of rows of a small net's one call, and the numbers that each has sums of: csrc/cuda/one_call.cu."""
    chunks = max(1, min(_SMALL_CHUNKS, _ceil(batch, _SIDE)))
    return chunks, sum(_ceil(n, 16) * 16 for n in (h * d, h, q * h, q))


def dact_chunks(rows: int, columns: int) -> int:
    """The parts of the rows whose column sums `dact_bias_grad_` writes first."""
    chunk_rows, _ = _walk(rows, columns, _CHUNKS, _CHUNK_ROWS)
    return _ceil(rows, chunk_rows)


def loss_blocks(rows: int, columns: int, biased: bool) -> int:
    """The blocks of `mse_` and `bce_with_logits_`, each with a sum of its own."""
    row = 8 * _WARP
    most = _ceil(_BLOCKS, _ceil(columns, row))
    if not biased:  # elements need not know their column
        rows, columns, most = _ceil(rows * columns, row), row, _BLOCKS
    chunk_rows, strips = _walk(rows, columns, most)
    return _ceil(rows, chunk_rows) * strips


def _walk(rows: int, columns: int, most_chunks: int, most_rows: int = 1 << 40) -> tuple[int, int]:
    """The rows of a chunk and the blocks beside each other: `Octets` in csrc/cuda/octets.cuh."""
    octets = _ceil(columns, 8)
    strips = _ceil(octets, _WARP)
    lanes, block_rows = _ceil(octets, strips), _THREADS
    while block_rows * lanes > _THREADS:
        block_rows //= 2
    least = block_rows * _LEAST_WALK
    return max(least, min(_ceil(_ceil(rows, most_chunks), least) * least, most_rows)), strips


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32
