"""What the library behind torch's matrix products takes from the allocator.

In float32 and float64 nothing. In 16 bits a CPU's products are oneDNN's, whose workspace depends on the processor, the
threads and the shapes by rules of its own. So one product is made and looked at. From some number of rows on its
workspace no longer grows, but for the remainder that the last block has: a long batch is asked about by a shorter one.
"""

from functools import cache

import torch

from .measure import measure

_ENOUGH, _BLOCK = 4096, 1024


def product_scratch(m: int, k: int, n: int, dtype: torch.dtype, transposed: bool) -> int:
    """Bytes beside the result of (m,k) times (k,n); ``transposed``: the left factor is stored as (k,m)."""
    if dtype.itemsize > 2 or 0 in (m, k, n):
        return 0
    return _asked(_shorter(m), _shorter(k), n, dtype, transposed, torch.get_num_threads())


def _shorter(length: int) -> int:
    return length if length <= _ENOUGH + _BLOCK else _ENOUGH + length % _BLOCK


@cache
def _asked(m: int, k: int, n: int, dtype: torch.dtype, transposed: bool, threads: int) -> int:
    def zeros(rows: int, columns: int) -> torch.Tensor:
        return torch.zeros(rows, columns, dtype=dtype, device="cpu")

    left = zeros(k, m).t() if transposed else zeros(m, k)
    right, out = zeros(k, n), zeros(m, n)
    with torch.no_grad():
        return measure(lambda: torch.mm(left, right, out=out)).peak_bytes
