import struct
import zlib

from torch_manual_bp.bench import Report, growth, step
from torch_manual_bp.bench.report import environment


def pixels(png):
    """Width, height and the decompressed image data of a PNG file."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    at, data = 8, b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return width, height, zlib.decompress(data)


def test_rows_grow_and_are_drawn(quick):
    rows = list(growth.measure(quick, batches=(1, 4, 4096), net=(5, 7, 3)))
    assert [row.shape[0] for row in rows] == [1, 4, 4096]
    names = ["eager", 'Objective, tile_rows="auto"', "step"]
    assert all(list(row.seconds) == ["matrix products", *names] and list(row.peak_bytes) == names for row in rows)
    assert rows[2].peak_bytes["eager"] > 100 * rows[0].peak_bytes["eager"]
    cells = growth.cells(rows[2])
    assert cells["eager, a row"] == growth.as_time(rows[2].seconds["eager"] / 4096)
    width, height, image = pixels(Report(growth.QUESTION, rows, 1, "the command", environment()).png())
    assert width > 1000 < len(image) / height and len(set(image)) > 50


def test_each_step_is_drawn(quick, shape):
    rows = list(step.measure(quick, [step.Case(update, shape) for update in (step.SGD, step.ADAMW, step.BFLOAT16)]))
    one, three = (Report(step.QUESTION, r, 1, "the command", environment()).png() for r in (rows[:1], rows))
    assert pixels(three)[1] > pixels(one)[1]
    assert len(set(pixels(three)[2])) > 50
