"""The simulator: makespans worked by hand, and laws that hold for any durations."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_manual_bp.pipeline.orders import ORDERS, order
from torch_manual_bp.pipeline.simulate import simulate
from torch_manual_bp.pipeline.timeline import Timeline, typical_durations

ONE = (1, 1, 1)


@pytest.mark.parametrize("M", [2, 4, 8])
@pytest.mark.parametrize(("schedule", "extra"), [("gpipe", 3), ("1f1b", 3), ("zero_bubble", 1)])
def test_two_equal_ranks(schedule, extra, M):
    """3M of work, and what a rank waits: for F, then for B = 2, of the other; or for F alone."""
    timeline = simulate(schedule, M, [ONE, ONE])
    assert timeline.makespan == 3 * M + extra
    assert timeline.idle == pytest.approx([extra / (3 * M + extra)] * 2)


@pytest.mark.parametrize("R", [1, 2, 3, 4])
@pytest.mark.parametrize(("schedule", "bubble"), [("gpipe", 3), ("1f1b", 3), ("zero_bubble", 1)])
def test_more_equal_ranks(schedule, bubble, R):
    """The bubbles are (R − 1)(F + I + W), and (R − 1)(F + I − W) with zero bubble."""
    M = 2 * R
    assert simulate(schedule, M, [ONE] * R).makespan == 3 * M + bubble * (R - 1)


def test_by_hand_with_messages():
    """F = 4, I = 2, W = 3 and messages of 1, step by step on paper; GPipe: rank 1 asks for F1 when F0 has ended."""

    def written(schedule, M):
        return [
            " ".join(f"{s.kind}{s.microbatch}:{s.begin:g}-{s.end:g}" for s in lane)
            for lane in simulate(schedule, M, [(4, 2, 3)] * 2, send=1).lanes
        ]

    assert written("gpipe", 2) == ["F0:0-4 F1:4-8 B0:20-25 B1:26-31", "F0:5-9 F1:10-14 B0:14-19 B1:19-24"]
    # rank 1 hands dh over and takes h in one exchange at 14; rank 0 has nothing to send but h
    assert written("1f1b", 2) == ["F0:0-4 F1:4-8 B0:15-20 B1:25-30", "F0:5-9 B0:9-14 F1:15-19 B1:19-24"]
    # h of F1 has come while F0 was computed
    assert written("zero_bubble", 2) == [
        "F0:0-4 F1:4-8 I0:12-14 W0:14-17 I1:18-20 W1:20-23",
        "F0:5-9 I0:9-11 F1:11-15 I1:15-17 W0:17-20 W1:20-23",
    ]


def test_an_exchange_waits_for_the_own_message_too():
    """Rank 1 of 1F1B has F1's input long before, but goes on only when rank 0 has taken dh, after its F1."""
    slow_first = simulate("1f1b", 2, [(10, 1, 0), (1, 1, 0)])
    first, last = slow_first.lanes
    assert [f"{s.kind}{s.microbatch}:{s.begin:g}" for s in last] == ["F0:10", "B0:11", "F1:20", "B1:21"]
    assert [s.begin for s in first] == [0, 10, 20, 22]


def durations(ranks):
    number = st.floats(0, 10, allow_subnormal=False)
    return st.lists(st.tuples(number, number, number), min_size=ranks, max_size=ranks)


@st.composite
def runs(draw):
    schedule, R = draw(st.sampled_from(list(ORDERS))), draw(st.integers(1, 4))
    M = R * draw(st.integers(1, 4))
    return schedule, M, draw(durations(R)), draw(st.floats(0, 3, allow_subnormal=False))


@given(runs())
def test_laws(run):
    schedule, M, given, send = run
    timeline = simulate(schedule, M, given, send)
    R = len(given)
    ends = {(s.rank, "W" if s.kind == "W" else "F" if s.kind == "F" else "B", s.microbatch): s for s in timeline.spans}
    tolerance = 1e-9 * (1 + timeline.makespan)
    for rank, lane in enumerate(timeline.lanes):
        assert [(s.kind, s.microbatch) for s in lane] == list(order(schedule, rank, R, M))
        assert all(a.end <= b.begin for a, b in pairwise(lane)), "one action at a time"
    for (rank, direction, m), span in ends.items():
        source = {"F": (rank - 1, "F", m), "B": (rank + 1, "B", m)}.get(direction)
        if source in ends:
            assert span.begin >= ends[source].end + send - tolerance, "nothing begins before its input has come"
        if direction == "B":
            assert span.begin >= ends[rank, "F", m].end
        if direction == "W":
            assert span.begin >= ends[rank, "B", m].end
    work = [M * sum(parts) for parts in given]
    assert timeline.makespan >= max(work) - tolerance
    through = sum(forward + back for forward, back, _ in given) + 2 * (R - 1) * send  # a microbatch goes forth and back
    assert timeline.makespan >= through - tolerance
    assert timeline.makespan <= sum(work) + 2 * M * (R - 1) * send + tolerance, "somebody computes or sends at any time"
    assert timeline.busy == pytest.approx(work)
    assert all(-1e-9 <= share <= 1 for share in timeline.idle)


@given(runs(), st.floats(0.1, 10))
def test_time_has_no_unit(run, factor):
    schedule, M, given, send = run
    scaled = [tuple(factor * part for part in parts) for parts in given]
    expected = factor * simulate(schedule, M, given, send).makespan
    assert simulate(schedule, M, scaled, factor * send).makespan == pytest.approx(expected)


@given(runs(), st.integers(0, 3), st.integers(0, 2))
def test_what_takes_longer_never_ends_earlier(run, rank, part):
    schedule, M, given, send = run
    longer = [list(parts) for parts in given]
    longer[rank % len(given)][part] += 1
    assert simulate(schedule, M, longer, send).makespan >= simulate(schedule, M, given, send).makespan - 1e-9
    assert simulate(schedule, M, given, send + 1).makespan >= simulate(schedule, M, given, send).makespan - 1e-9


def test_the_chart():
    assert str(simulate("1f1b", 2, [ONE, ONE])).splitlines()[0] == "1f1b, 2 ranks, 2 microbatches: makespan 9"
    assert simulate("1f1b", 2, [ONE, ONE]).chart(18).splitlines() == [
        "rank 0  F0F1....B0--..B1--  idle  33%",
        "rank 1  ..F0B0--F1B1--....  idle  33%",
    ]


def test_spans_too_short_for_the_chart_are_left_out():
    lines = simulate("gpipe", 40, [ONE] * 2).chart(9).splitlines()
    assert all(re.fullmatch(r"rank \d  [FIWB.\d-]{9}  idle +\d+%", line) for line in lines)


@pytest.mark.parametrize("schedule", ORDERS)
def test_durations_come_back(schedule):
    given = [(3.0, 1.0, 2.0), (4.0, 2.5, 0.5)]
    found = simulate(schedule, 4, given, 0.25).durations
    cut = schedule == "zero_bubble"
    assert list(found) == [parts if cut else (parts[0], parts[1] + parts[2], 0) for parts in given]


def test_a_timeline_survives_json():
    timeline = simulate("zero_bubble", 4, [(3, 1, 2), (4, 2, 1)], 0.25)
    assert Timeline.from_dict(timeline.as_dict()) == timeline
    assert timeline.as_dict()["idle"] == list(timeline.idle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1f1b", 4, [ONE, (1, -1, 1)]), r"three finite .* \(F, I, W\) ≥ 0 for each rank, got \(1, -1, 1\) for rank 1"),
        (("1f1b", 4, [(1, 2), ONE]), r"got \(1, 2\) for rank 0"),
        (("1f1b", 4, [(1, float("nan"), 1), ONE]), "for rank 0"),
        (("1f1b", 4, []), "at least one rank, got none"),
        (("1f1b", 4, [ONE, ONE], -1.0), "send must be finite and not negative, got -1.0"),
        (("2f2b", 4, [ONE, ONE]), "schedule must be one of"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(*arguments)


def test_durations_of_nothing():
    with pytest.raises(ValueError, match="at least one span, got none"):
        typical_durations([])
    forward_only = Timeline("gpipe", tuple(s for s in simulate("gpipe", 2, [ONE, ONE]).spans if s.kind == "F"))
    with pytest.raises(ValueError, match="rank 0 must have a forward and a backward, got forward"):
        typical_durations([forward_only])
