"""Rows in tiles, and the dtype to compute in."""

from collections.abc import Iterator

import torch
from torch import Tensor

_TILE_ELEMENTS = 1 << 17  # float32 tiles of 512 KiB: a few of them, the temporaries, stay in a second-level cache


def tiles(t: Tensor) -> Iterator[slice]:
    """Slices of rows that cover t (B, columns)."""
    rows, columns = t.shape
    step = max(1, _TILE_ELEMENTS // max(columns, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def wide(t: Tensor) -> Tensor:
    """The same numbers in the dtype that is computed in: float32 for bfloat16 and float16."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def biased(z: Tensor, bias: Tensor | None) -> Tensor:
    """``z + 1 bᵀ``, not rounded to a short dtype."""
    return wide(z) if bias is None else wide(z) + wide(bias)


def double(rows: Tensor) -> Tensor:
    """Sums over rows are taken in float64, where the device has it."""
    return rows if rows.device.type == "mps" else rows.double()
