"""The same drawing as numbers, as a file, and with more blocks than can be told apart."""

import re

import numpy as np
import pytest

from torch_manual_bp.memory.timeline import _BANDS, Span, _bands, _times, picture

from .test_measurement import DRAWN

matplotlib = pytest.importorskip("matplotlib")

SPANS = [
    Span("z", "kept", 40, 0, 3),
    Span("dz", "temporary", 50, 2, 4),
    Span("dw", "gradient", 10, 3, None),
    Span("h", "kept", 30, 1, 2),
]


def test_bands_are_stacked_by_kind_the_largest_below():
    times = _times(SPANS, end=5)
    assert times.tolist() == [0, 1, 2, 3, 4, 5]
    edges = {band.name: (band.bottom.tolist(), band.top.tolist()) for band in _bands(SPANS, times)}
    assert edges == {
        "z": ([0] * 6, [40, 40, 40, 0, 0, 0]),
        "h": ([40, 40, 40, 0, 0, 0], [40, 70, 40, 0, 0, 0]),
        "dz": ([40, 70, 40, 0, 0, 0], [40, 70, 90, 50, 0, 0]),
        "dw": ([40, 70, 90, 50, 0, 0], [40, 70, 90, 60, 10, 10]),
    }


def test_many_blocks_share_bands_and_no_byte_is_lost():
    spans = [Span(f"{i}", f"kind {i % 3}", 1 + i % 7, i, i + 1 + i * 7 % 90) for i in range(1000)]
    times = _times(spans, None)
    bands = list(_bands(spans, times))
    assert sum(band.name != "" for band in bands) == _BANDS
    assert {band.kind for band in bands if band.name == ""} == {"kind 0", "kind 1", "kind 2"}
    held = [sum(span.bytes for span in spans if span.born <= time < span.died) for time in times]
    assert np.array_equal(bands[-1].top, held)


def words(path):
    """What is written in an SVG file: matplotlib puts each text into a comment, beside its outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_the_picture_says_what_is_what(tmp_path):
    path = tmp_path / "plan.svg"
    picture([*SPANS, Span("tiny", "kept", 1, 0, 5)], path, "step", end=5)
    written = words(path)
    assert {"z", "h", "dz", "dw"} <= set(written)
    assert "tiny" not in written  # there is no room
    assert {"peak 91 bytes", "step", "bytes at the peak", "kept: 41", "temporary: 50", "gradient: 0"} <= set(written)


def test_a_name_without_room_is_shortened(tmp_path):
    path = tmp_path / "plan.svg"
    picture([Span("a" * 80 + " › mm", "kind", 10, 0, 1), Span("other", "kind", 10, 1, 2)], path, "step")
    assert {"mm", "other"} <= set(words(path))


def test_kinds_without_a_colour_share_a_line(tmp_path):
    path = tmp_path / "plan.svg"
    picture([Span("", f"kind {i}", 100 - i, 0, 1) for i in range(10)], path, "step", title="a plan")
    assert {"a plan", "kind 0: 100", "kind 6: 94", "3 others: 276"} <= set(words(path))


def test_a_measurement_as_a_picture(tmp_path):
    path = tmp_path / "measured.svg"
    DRAWN.save_picture(path)
    assert {"peak 130 bytes", "aten::addmm: 100", "aten::zeros: 30", "(no op): 0"} <= set(words(path))
    png = tmp_path / "measured.png"
    DRAWN.save_picture(png)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_nothing_at_all_can_be_drawn(tmp_path):
    picture([], tmp_path / "nothing.svg", "step")
    assert "peak 0 bytes" in words(tmp_path / "nothing.svg")
