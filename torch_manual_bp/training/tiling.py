"""How large a tile is.

A tile has rows enough for the matrix products to run at full speed, and few enough for what stands between them to be
still in the cache when it is needed again. Where even that many rows have too many logits, classes are tiled as well.
"""

from typing import NamedTuple


class Tiling(NamedTuple):
    """At most ``rows`` rows and ``classes`` classes at a time."""

    rows: int
    classes: int


TILE_BYTES = 24 * 2**20  # of a tile's buffers; a batch that is no more than twice a tile is not cut
ROWS = (256, 2048)  # the least and the most that a tile takes by itself
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
        if rows * row_bytes <= 2 * TILE_BYTES and rows <= ROWS[1]:
            tile_rows = rows
    tile_rows = max(1, min(tile_rows, rows))
    logits = tile_rows * q * itemsize
    classes = q if logits <= LOGITS_BYTES else max(CLASSES, LOGITS_BYTES // (tile_rows * itemsize))
    return Tiling(tile_rows, max(1, min(classes, q)))
