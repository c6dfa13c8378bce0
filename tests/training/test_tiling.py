"""How large a tile is, by literals and by the laws of a tile."""

import pytest

from torch_manual_bp.training.tiling import CLASSES, LOGITS_BYTES, ROWS, TILE_BYTES, Tiling, tiling

SIZES = [(784, 256, 10), (20, 64, 10), (784, 2048, 10), (256, 1024, 8192), (512, 2048, 128_000), (1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_laws(sizes, itemsize):
    *_, q = sizes
    for rows in (0, 1, 255, 256, 1000, 10**6):
        for tile_rows in (None, 1, 300, 10**7):
            tile = tiling(rows, sizes, itemsize, tile_rows)
            assert 1 <= tile.rows <= max(1, rows) and 1 <= tile.classes <= max(1, q)
            if tile_rows is None:
                assert tile.rows <= 2 * ROWS[1] and (tile.rows >= ROWS[0] or tile.rows == max(1, rows))
            else:
                assert tile.rows == min(tile_rows, max(1, rows))
            logits = tile.rows * tile.classes * itemsize
            assert logits <= LOGITS_BYTES or tile.classes == min(q, CLASSES)


def test_a_tile_has_so_many_bytes_unless_it_would_be_too_few_rows():
    assert tiling(10**6, (784, 256, 10), 4, None).rows == ROWS[1]
    _, h, q = sizes = (256, 1024, 8192)
    rows = tiling(10**6, sizes, 4, None).rows
    assert rows * (2 * h + q) * 4 <= TILE_BYTES < (rows + ROWS[0]) * (2 * h + q) * 4
    assert tiling(10**6, (256, 1024, 30_000), 4, None).rows == ROWS[0]


def test_a_batch_of_up_to_two_tiles_is_not_cut():
    assert tiling(1024, (256, 1024, 8192), 4, None) == Tiling(1024, 8192)
    assert tiling(1300, (256, 1024, 8192), 4, None) == Tiling(512, 8192)
    assert tiling(2048, (784, 256, 10), 4, None) == Tiling(2048, 10)
    assert tiling(2049, (784, 256, 10), 4, None) == Tiling(1024, 10)


def test_many_classes_are_tiled_and_few_are_not():
    assert tiling(65536, (256, 1024, 8192), 4, None) == Tiling(512, 8192)
    assert tiling(65536, (512, 2048, 128_000), 4, None) == Tiling(256, LOGITS_BYTES // (256 * 4))
