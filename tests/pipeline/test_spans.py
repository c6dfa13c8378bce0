"""What is recorded of a rank: which actions, from when to when, and that nothing of it stays behind."""

import itertools
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from autograd.processes import on_two_processes

import torch_manual_bp as tmb
from torch_manual_bp.pipeline import record, spans
from torch_manual_bp.pipeline.orders import ORDERS, order
from torch_manual_bp.pipeline.timeline import Timeline

PAUSE = 0.02


class Stage:
    """Alone on its rank; a call takes as long as a test says."""

    stage_index, group_size, group, device = 0, 1, None, "cpu"

    def forward_one_chunk(self, microbatch, seconds=0.0):
        time.sleep(seconds)
        return f"h{microbatch}"

    def backward_one_chunk(self, microbatch, loss=None, full_backward=True, seconds=0.0):
        time.sleep(seconds)

    def backward_weight_one_chunk(self, microbatch):
        pass


@pytest.fixture
def pipe():
    return SimpleNamespace(stage=Stage(), schedule=SimpleNamespace(_loss_fn=None))


def test_each_call_is_an_action(pipe):
    with record(pipe) as recorder:
        assert pipe.stage.forward_one_chunk(0, seconds=PAUSE) == "h0"
        time.sleep(2 * PAUSE)
        pipe.stage.backward_one_chunk(0, full_backward=False)
        pipe.stage.backward_weight_one_chunk(0)
        pipe.stage.forward_one_chunk(1)
        pipe.stage.backward_one_chunk(1)
    (timeline,) = recorder.timelines()
    (lane,) = timeline.lanes
    assert [(s.kind, s.microbatch) for s in lane] == [("F", 0), ("I", 0), ("W", 0), ("F", 1), ("B", 1)]
    assert lane[0].begin == 0 and lane[0].end >= PAUSE  # sleep never returns early
    assert lane[1].begin - lane[0].end >= 2 * PAUSE, "what lies between is waiting"
    assert timeline.schedule == "SimpleNamespace"


def test_the_loss_belongs_to_the_forward(pipe):
    pipe.schedule._loss_fn = lambda o: (time.sleep(PAUSE), o)[1]
    with record(pipe) as recorder:
        o = pipe.stage.forward_one_chunk(0)
        assert pipe.schedule._loss_fn(o) == "h0"
        pipe.stage.backward_one_chunk(0)
    (forward, _), = recorder.timelines()[0].lanes  # fmt: skip
    assert forward.end - forward.begin >= PAUSE


def test_a_step_begins_with_microbatch_0(pipe):
    with record(pipe) as recorder:
        for _ in range(3):
            for m in (0, 1):
                pipe.stage.forward_one_chunk(m)
            for m in (0, 1):
                pipe.stage.backward_one_chunk(m)
    timelines = recorder.timelines()
    assert len(timelines) == 3
    for timeline in timelines:
        assert timeline.spans[0].begin == 0
        assert [(s.kind, s.microbatch) for s in timeline.spans] == list(order("gpipe", 0, 1, 2))


def test_nothing_stays_behind(pipe):
    def loss(o):
        return o

    pipe.schedule._loss_fn = loss
    before = dict(vars(pipe.stage))
    with pytest.raises(ZeroDivisionError), record(pipe):
        assert vars(pipe.stage) != before
        raise ZeroDivisionError
    assert vars(pipe.stage) == before and pipe.schedule._loss_fn is loss


def test_a_shadow_of_somebody_else_comes_back(pipe):
    theirs = pipe.stage.forward_one_chunk = lambda microbatch: "theirs"
    with record(pipe) as recorder:
        assert pipe.stage.forward_one_chunk(0) == "theirs"
    assert pipe.stage.forward_one_chunk is theirs
    assert [s.kind for s in recorder.timelines()[0].spans] == ["F"]


def test_refusals(pipe, monkeypatch):
    objective = tmb.Objective(tmb.MLP(4, 3, 2))
    with pytest.raises(TypeError, match="record: pipe must have a stage and a schedule of torch's, got OneProcess"):
        record(tmb.pipeline.build(objective, 2, devices=("cpu", "cpu")))
    with record(pipe) as recorder:
        pipe.stage = Stage()
    with pytest.raises(RuntimeError, match="all batches must have the same number of rows"):
        recorder.timelines()


@pytest.mark.parametrize(
    ("other", "message"),
    [((1, "elsewhere", [[]]), "must share a clock, got ranks on 2 machines"), ((1, None, []), r"\{0: 1, 1: 0\} steps")],
    ids=["another machine", "another number of steps"],
)
def test_ranks_that_do_not_fit(pipe, monkeypatch, other, message):
    def gathered(found, own, group):
        found[:] = [own, tuple(own[1] if part is None else part for part in other)]

    pipe.stage.group_size = 2
    monkeypatch.setattr(spans.dist, "all_gather_object", gathered)
    with record(pipe) as recorder:
        pipe.stage.forward_one_chunk(0)
    with pytest.raises(RuntimeError, match=message):
        recorder.timelines()


def test_a_devices_events_are_told_in_the_hosts_time(monkeypatch):
    """An event's time is that of the first one on the host, plus what the device counts since: here 2.5 ms an event."""
    numbers = itertools.count()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "the stream"
            self.at = next(numbers)

        def synchronize(self):
            pass

        def elapsed_time(self, later):
            return 2.5 * (later.at - self.at)

    module = SimpleNamespace(Event=Event, synchronize=lambda device: None, current_stream=lambda device: "the stream")
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(spans.time, "monotonic_ns", lambda: 7_000_000_000)
    clock = spans._clock_of(torch.device("cuda", 0))
    clock.start()
    assert [clock.seconds(clock.stamp()) for _ in range(2)] == pytest.approx([7.0025, 7.005])


# ------------------------------------------------------------------------------------------------ and on two processes


def recorded(schedule):
    torch.manual_seed(0)
    pipe = tmb.pipeline.build(tmb.Objective(tmb.MLP(6, 5, 3)), 4, schedule)
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    pipe.step(x, y)
    with record(pipe) as recorder:
        for _ in range(2):
            pipe.step(x, y)
    return [timeline.as_dict() for timeline in recorder.timelines()]


@pytest.fixture(scope="module")
def on_each_rank(tmp_path_factory):
    return on_two_processes({name: partial(recorded, name) for name in ORDERS}, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("schedule", ORDERS)
def test_both_ranks_know_what_both_did(on_each_rank, schedule):
    first, second = (of_rank[schedule] for of_rank in on_each_rank)
    assert not isinstance(first, str), first
    assert first == second and len(first) == 2
    for timeline in map(Timeline.from_dict, first):
        assert timeline.schedule == schedule
        done = {(s.rank, s.kind, s.microbatch): s for s in timeline.spans}
        for rank, lane in enumerate(timeline.lanes):
            assert [(s.kind, s.microbatch) for s in lane] == list(order(schedule, rank, 2, 4))
        back = "I" if schedule == "zero_bubble" else "B"
        for m in range(4):  # one clock: what is received was sent before
            assert done[0, "F", m].end <= done[1, "F", m].begin
            assert done[1, back, m].end <= done[0, back, m].begin
