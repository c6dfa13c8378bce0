"""How large a tile is.

A tile has rows enough for the matrix products to run at full speed, and few enough for what stands between them to be
still in the cache when it is needed again. Where even that many rows have too many logits, classes are tiled as well.

Measured, as a step's time over its bare matrix products (float32, two cores, 32 MiB of last-level cache): at B, d, h, q
= 8192, 784, 256, 10 tiles of 256, 512, 1024, 2048, 4096 and 8192 rows take 1.08, 1.01, 1.00, 1.02, 1.03 and 1.05; at
2048, 256, 1024, 8192 tiles of 256, 512, 1024 and 2048 rows take 1.01 to 1.05, 0.97 to 1.01, 0.96 and 0.98.
"""

from typing import NamedTuple


class Tiling(NamedTuple):
    """At most ``rows`` rows and ``classes`` classes at a time."""

    rows: int
    classes: int


TILE_BYTES = 24 * 2**20  # of a tile's buffers; a batch that is no more than twice a tile is not cut
ROWS = (256, 1024)  # the least and the most that a tile takes by itself
LOGITS_BYTES = 64 * 2**20  # of a tile, above which classes are tiled too
CLASSES = 4096  # of such a tile, at least


def tiling(rows: int, sizes: tuple[int, int, int], itemsize: int, tile_rows: int | None) -> Tiling:
    """The tile for a batch.

    Args:
        rows: B.
        sizes: d, h, q.
        itemsize: bytes of a number in the matrix products.
        tile_rows: the rows of a tile, or None to choose.
    """
    _, h, q = sizes
    if tile_rows is None:
        row_bytes = max(1, itemsize * (2 * h + q))
        tile_rows = min(max(ROWS[0], TILE_BYTES // row_bytes // ROWS[0] * ROWS[0]), ROWS[1])
        if rows * row_bytes <= 2 * TILE_BYTES and rows <= 2 * ROWS[1]:
            tile_rows = rows
    tile_rows = max(1, min(tile_rows, rows))
    logits = tile_rows * q * itemsize
    classes = q if logits <= LOGITS_BYTES else max(CLASSES, LOGITS_BYTES // (tile_rows * itemsize))
    return Tiling(tile_rows, max(1, min(classes, q)))
