"""How large a tile is, by literals and by the laws of a tile."""

import pytest
import torch

from torch_manual_bp.training.tiling import LIMITS, Tiling
from torch_manual_bp.training.tiling import tiling as tiling_on

DEVICES = {"cpu": torch.device("cpu"), "accelerator": torch.device("cuda")}
CPU = LIMITS["cpu"]


def tiling(*arguments):
    return tiling_on(*arguments, torch.device("cpu"))


SIZES = [(784, 256, 10), (20, 64, 10), (784, 2048, 10), (256, 1024, 8192), (512, 2048, 128_000), (1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("kind", LIMITS)
def test_laws(sizes, itemsize, kind):
    *_, q = sizes
    limits = LIMITS[kind]
    least, most = limits.rows
    for rows in (0, 1, 255, 256, 1000, 10**6):
        for tile_rows in (None, 1, 300, 10**7):
            tile = tiling_on(rows, sizes, itemsize, tile_rows, DEVICES[kind])
            assert 1 <= tile.rows <= max(1, rows) and 1 <= tile.classes <= max(1, q)
            if tile_rows is None:
                assert tile.rows <= 2 * most and (tile.rows >= least or tile.rows == max(1, rows))
            else:
                assert tile.rows == min(tile_rows, max(1, rows))
            logits = tile.rows * tile.classes * itemsize
            assert logits <= limits.logits or tile.classes == min(q, limits.classes)


def test_a_tile_has_so_many_bytes_unless_it_would_be_too_few_rows():
    assert tiling(10**6, (784, 256, 10), 4, None).rows == CPU.rows[1]
    _, h, q = sizes = (256, 1024, 8192)
    rows = tiling(10**6, sizes, 4, None).rows
    assert rows * (2 * h + q) * 4 <= CPU.bytes < (rows + CPU.rows[0]) * (2 * h + q) * 4
    assert tiling(10**6, (256, 1024, 30_000), 4, None).rows == CPU.rows[0]


def test_a_batch_of_up_to_two_tiles_is_not_cut():
    assert tiling(1024, (256, 1024, 8192), 4, None) == Tiling(1024, 8192)
    assert tiling(1300, (256, 1024, 8192), 4, None) == Tiling(512, 8192)
    assert tiling(2048, (784, 256, 10), 4, None) == Tiling(2048, 10)
    assert tiling(2049, (784, 256, 10), 4, None) == Tiling(1024, 10)


def test_many_classes_are_tiled_and_few_are_not():
    assert tiling(65536, (256, 1024, 8192), 4, None) == Tiling(512, 8192)
    assert tiling(65536, (512, 2048, 128_000), 4, None) == Tiling(256, CPU.logits // (256 * 4))


def test_accelerators_cut_where_they_must():
    """bfloat16: products that fill the chip in one tile; a head of 128,256 classes by rows, not by classes."""
    device = DEVICES["accelerator"]
    assert tiling_on(8192, (4096, 16384, 4096), 2, None, device) == Tiling(8192, 4096)
    assert tiling_on(8192, (4096, 4096, 128_256), 2, None, device) == Tiling(1024, 128_256)
    assert tiling_on(8192, (4096, 4096, 10**6), 2, None, device) == Tiling(512, 256 * 2**20 // 1024)
