"""CUDA's history as torch writes it down, made by hand: what is read of it can be seen without a GPU."""

import pytest
import torch

from torch_manual_bp.memory import measure
from torch_manual_bp.memory.measurement import Event
from torch_manual_bp.memory.snapshot import History

A, B, SEGMENT = 0xA00, 0xB00, 0xF00


def entry(action, address, size, time_us):
    return {"action": action, "addr": address, "size": size, "stream": 0, "time_us": time_us, "frames": []}


TRACE = [
    entry("segment_alloc", SEGMENT, 2097152, 10),  # of the driver's, for blocks to come: no block itself
    entry("alloc", A, 1000, 11),
    entry("alloc", B, 500, 12),
    entry("free_requested", A, 1000, 13),  # a stream still uses it
    entry("alloc", SEGMENT, 60, 14),
    entry("free_completed", A, 1000, 15),
    entry("alloc", A, 30, 15),
    entry("snapshot", 0, 0, 16),
]


class Recorder:
    """Stands in for torch's recording of one device, the second."""

    def __init__(self, monkeypatch, trace):
        self.calls, self.trace = [], trace
        monkeypatch.setattr(torch._C, "_cuda_isHistoryEnabled", lambda: self.on, raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.calls.append(f"wait for {device}"))
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", self.record)
        monkeypatch.setattr(torch.cuda.memory, "_snapshot", self.snapshot)

    on = False

    def record(self, enabled, *_, **options):
        self.on = enabled is not None
        self.calls.append(enabled or "stop")

    def snapshot(self):
        self.calls.append("snapshot")
        return {"segments": [], "device_traces": [[], self.trace]}


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch, list(TRACE))


def test_blocks_have_the_bytes_that_were_asked_for(recorder):
    measured = measure(lambda: recorder.calls.append("fn"), "cuda:1")
    assert recorder.calls == ["wait for 1", "all", "fn", "wait for 1", "wait for 1", "snapshot", "stop"]
    assert [held for _, held in measured.timeline] == [0, 1000, 1500, 1560, 560, 590]
    assert (measured.peak_bytes, measured.left_bytes) == (1560, 590)
    assert {block.device for block in measured.allocations} == {"cuda:1"}


def test_the_cpus_blocks_are_left_out_where_a_gpu_is_asked_for(recorder):
    assert measure(lambda: torch.empty(1000), "cuda:1").left_bytes == 590


def test_both_at_once(recorder, monkeypatch):
    """With no device named, and CUDA in use."""
    for name, value in (("is_available", True), ("is_initialized", True), ("current_device", 1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    measured = measure(lambda: torch.empty(1000))
    assert (measured.on("cpu").left_bytes, measured.on("cuda:1").left_bytes) == (4000, 590)
    assert measured.left_bytes == 4590


@pytest.fixture
def history(recorder):
    with History(1) as recorded:
        pass
    return recorded


def profiled(*blocks):
    """Events as the profiler has them, rounded: (time, address, bytes, path)."""
    return [Event(time, "cuda:1", address, size, path) for time, address, size, path in blocks]


def test_names_come_from_the_profiler(history):
    first, second = ("aten::mm",), ("aten::add", "aten::empty")
    seen = profiled((17, A, 512, second), (11, A, 1024, first), (15, A, -1024, ()), (12, B, 512, ("aten::relu",)))
    paths = {(event.address, event.bytes): event.path for event in history.events(seen)}
    assert paths[A, 1000] == first
    assert paths[A, 30] == second
    assert paths[B, 500] == ("aten::relu",)
    assert paths[SEGMENT, 60] == ()


def test_no_name_is_better_than_anothers(history):
    """Two blocks had the address, the profiler saw one of them: which?"""
    seen = profiled((11, A, 1024, ("aten::mm",)))
    assert {event.path for event in history.events(seen)} == {()}


def test_another_devices_blocks_give_no_names(history):
    seen = [Event(12, "cuda:0", B, 512, ("aten::mm",)), Event(12, "cpu", B, 500, ("aten::mm",))]
    assert {event.path for event in history.events(seen)} == {()}


def test_somebody_elses_recording_is_left_alone(recorder):
    recorder.on = True
    with pytest.raises(RuntimeError, match="CUDA's memory history is being recorded already"):
        measure(lambda: None, "cuda:1")
    assert "stop" not in recorder.calls
    recorder.on = False
    assert measure(lambda: None, "cuda:1").peak_bytes == 1560


def test_after_an_error_nothing_is_recorded_any_more(recorder):
    def fails():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        measure(fails, "cuda:1")
    assert not recorder.on
    assert "snapshot" not in recorder.calls
