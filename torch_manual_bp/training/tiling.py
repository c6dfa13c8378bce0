"""How large a tile is.

A tile has rows enough for the matrix products to run at full speed, and few enough for what stands between them to be
still in the cache when it is needed again. Where even that many rows have too many logits, classes are tiled as well.

Measured, as a step's time over its bare matrix products (float32, two cores, 32 MiB of last-level cache): at B, d, h, q
= 8192, 784, 256, 10 tiles of 256, 512, 1024, 2048, 4096 and 8192 rows take 1.08, 1.01, 1.00, 1.02, 1.03 and 1.05; at
2048, 256, 1024, 8192 tiles of 256, 512, 1024 and 2048 rows take 1.01 to 1.05, 0.97 to 1.01, 0.96 and 0.98.
"""

from typing import NamedTuple

import torch


class Tiling(NamedTuple):
    """At most ``rows`` rows and ``classes`` classes at a time."""

    rows: int
    classes: int


class Limits(NamedTuple):
    """What a tile may take.

    Attributes:
        bytes: of a tile's buffers; a batch that is no more than twice a tile is not cut.
        rows: the least and the most that a tile takes by itself.
        logits: bytes of a tile's logits, above which it takes fewer rows and, at the least rows, fewer classes.
        classes: of a tile with fewer classes, at least.
    """

    bytes: int
    rows: tuple[int, int]
    logits: int
    classes: int


LIMITS = {
    "cpu": Limits(24 * 2**20, (256, 1024), 64 * 2**20, 4096),
    # Here products need thousands of rows, and every tile reads and writes the sums of the weights' gradients anew.
    # Reasoned, not measured.
    "accelerator": Limits(512 * 2**20, (512, 8192), 256 * 2**20, 16384),
}


def tiling(
    rows: int, sizes: tuple[int, int, int], itemsize: int, tile_rows: int | None, device: torch.device
) -> Tiling:  # fmt: skip
    """The tile for a batch.

    Args:
        rows: B.
        sizes: d, h, q.
        itemsize: bytes of a number in the matrix products.
        tile_rows: the rows of a tile, or None to choose.
        device: where they are made.
    """
    _, h, q = sizes
    limits = LIMITS["cpu" if device.type == "cpu" else "accelerator"]
    least, most = limits.rows
    if tile_rows is None:
        row_bytes, of_logits = max(1, itemsize * (2 * h + q)), max(1, itemsize * q)
        fitting = min(limits.bytes // row_bytes, limits.logits // of_logits)
        tile_rows = min(max(least, fitting // least * least), most)
        if rows * row_bytes <= 2 * limits.bytes and rows <= 2 * most and rows * of_logits <= limits.logits:
            tile_rows = rows
    tile_rows = max(1, min(tile_rows, rows))
    logits = tile_rows * q * itemsize
    classes = q if logits <= limits.logits else max(limits.classes, limits.logits // (tile_rows * itemsize))
    return Tiling(tile_rows, max(1, min(classes, q)))
