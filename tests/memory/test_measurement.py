"""Events by hand, and what follows from them."""

import pytest

from torch_manual_bp.memory.measurement import Allocation, Event, Measurement, blocks_of

#  ns    10   20   30   40   50
#  a     ├─────────┤               100 bytes
#  b          ├──────────────      30 bytes, still there at the end
#  c                    ├────┤     80 bytes
A = Allocation(100, 10, 30, ("aten::linear", "aten::addmm"))
B = Allocation(30, 20, None, ("aten::zeros", "aten::empty"), "cuda:0")
C = Allocation(80, 40, 50)
DRAWN = Measurement((A, B, C), duration_ns=2_000_000)


def test_the_timeline_is_the_drawing():
    assert DRAWN.timeline == ((0, 0), (10, 100), (20, 130), (30, 30), (40, 110), (50, 30))
    assert (DRAWN.peak_bytes, DRAWN.left_bytes, DRAWN.at_peak) == (130, 30, (A, B))


def test_a_device_by_itself():
    assert DRAWN.on("cuda:0").allocations == (B,)
    assert (DRAWN.on("cpu").peak_bytes, DRAWN.on("cpu").left_bytes) == (100, 0)
    assert DRAWN.on("cuda:1").peak_bytes == 0


def test_of_two_equal_peaks_the_first_is_shown():
    twice = Measurement((Allocation(5, 1, 2), Allocation(5, 3, 4)), 10)
    assert twice.at_peak == twice.allocations[:1]


def test_nothing_at_all():
    nothing = Measurement((), 3000)
    assert (nothing.timeline, nothing.peak_bytes, nothing.left_bytes, nothing.at_peak) == (((0, 0),), 0, 0, ())
    assert str(nothing) == "peak 0 bytes, left 0 bytes, 0 blocks in 0.003 ms"


def test_what_is_printed():
    more = (Allocation(1_000_000, 15, None, ("aten::addmm",)), Allocation(7, 16, None))
    printed = """\
peak 1,000,137 bytes, left 1,000,037 bytes, 5 blocks in 2 ms

at the peak      bytes  blocks
aten::addmm  1,000,100       2
aten::zeros         30       1
(no op)              7       1"""
    assert str(Measurement((A, B, C, *more), 2_000_000)) == repr(Measurement((A, B, C, *more), 2_000_000)) == printed


def test_the_smallest_of_many_ops_share_a_line():
    blocks = tuple(Allocation(10**size, size, None, (f"op {size}",)) for size in range(10))
    lines = str(Measurement(blocks, 10)).splitlines()
    assert len(lines) == 2 + 1 + 8
    assert lines[3].split() == ["op", "9", "1,000,000,000", "1"]
    assert lines[-1].split() == ["3", "other", "ops", "111", "3"]


@pytest.mark.parametrize(
    ("path", "op"),
    {
        (): "",
        ("aten::empty",): "aten::empty",
        ("aten::zeros", "aten::empty"): "aten::zeros",
        ("aten::to", "aten::_to_copy", "aten::empty_strided"): "aten::_to_copy",
        ("aten::linear", "aten::addmm"): "aten::addmm",
        ("aten::empty_like", "aten::empty"): "aten::empty",
    }.items(),
)
def test_a_block_is_of_the_op_for_whose_sake_it_is(path, op):
    assert Allocation(1, 0, None, path).op == op


START = 1_000_000
AT, ELSEWHERE = 0xA, 0xB


def paired(*events):
    """Blocks as (bytes, born, died), of events (time since the start, address, bytes)."""
    of_cpu = [Event(START + time, "cpu", address, size) for time, address, size in events]
    return [(block.bytes, block.born_ns, block.died_ns) for block in blocks_of(of_cpu, START)]


def test_a_block_dies_where_its_address_is_given_back():
    assert paired((1, AT, 8), (2, ELSEWHERE, 4), (3, AT, -8), (4, AT, 2)) == [(8, 1, 3), (4, 2, None), (2, 4, None)]


def test_events_of_several_threads_are_put_in_order():
    assert paired((5, AT, 3500), (4, AT, -3600), (2, AT, 3600)) == [(3600, 2, 4), (3500, 5, None)]


def test_what_stood_before_does_not_count_even_if_the_profiler_knows_its_size():
    """As it does if an earlier measurement saw the address allocated: 4000 bytes below nothing would hide the rest."""
    assert paired((1, AT, -4000), (2, ELSEWHERE, 3600)) == [(3600, 2, None)]


def test_an_address_handed_out_twice_was_given_back_unseen():
    assert paired((1, AT, 100), (7, AT, 60), (9, AT, -60)) == [(100, 1, 7), (60, 8, 9)]


def test_where_the_clock_is_coarse_the_order_is_kept():
    """CUDA's history counts microseconds: of three events in one, each has a time of its own."""
    assert paired((5, AT, 8), (5, AT, -8), (5, ELSEWHERE, 4)) == [(8, 5, 6), (4, 7, None)]


def test_an_event_before_the_start_is_put_at_the_start():
    assert paired((-50, AT, 8)) == [(8, 1, None)]


def test_devices_have_addresses_of_their_own():
    events = [Event(1, "cpu", AT, 5), Event(2, "cuda:0", AT, 6), Event(3, "cpu", AT, -5)]
    assert [(block.device, block.died_ns) for block in blocks_of(events, 0)] == [("cpu", 3), ("cuda:0", None)]
