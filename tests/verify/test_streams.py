"""What only CUDA has, with stand-ins for it: the comparisons hold on a CPU, and find what is wrong."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from torch_manual_bp.verify import streams

# without AdamW(capturable=True), which torch refuses on a CPU
WAYS = tuple(way for way in streams.UNWATCHED if way != "step, AdamW, capturable")


def warmed_up(call):
    """Stands in for a capture, whose replay is the call."""
    for _ in range(streams.WARM_UP):
        call()
    return call


def wrong(findings):
    return [f for f in findings if not f.ok]


def test_replays_are_compared_with_calls(setting):
    findings = list(streams.replays_equal_calls(setting, warmed_up, WAYS))
    assert wrong(findings) == []
    assert len(findings) == 2 * 3 * (9 + 9 + 5 + 5 + 5)  # J, parameters, and where there are some, gradients


def test_a_replay_of_nothing_is_found(setting):
    findings = streams.replays_equal_calls(setting, lambda call: warmed_up(call) and (lambda: None), ("step, SGD",))
    assert {f.check.rsplit(": ")[-1] for f in wrong(findings)} == {"J", "w1", "b1", "w2", "b2"}


def test_a_capture_that_fails_is_told_and_the_others_go_on(setting):
    captures = []

    def first_fails(call):
        captures.append(call)
        if len(captures) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return warmed_up(call)

    (failed,) = wrong(streams.replays_equal_calls(setting, first_fails, ("backward",)))
    assert failed.note == "RuntimeError: operation not permitted when stream is capturing" and len(captures) == 6


def test_calls_are_made_under_watch(setting):
    entered = []

    @contextmanager
    def watch():
        entered.append(1)
        yield
        if len(entered) == 2:
            raise RuntimeError("called a synchronizing CUDA operation")

    findings = list(streams.calls_under(setting, watch, WAYS))
    assert len(findings) == len(entered) == 2 * len(WAYS)
    (found,) = wrong(findings)
    assert found.check == "accumulate_grad does not wait, small net"
    assert found.note == "RuntimeError: called a synchronizing CUDA operation"


def test_results_within_a_context_are_compared(setting):
    findings = list(streams.results_within(setting, nullcontext))
    assert wrong(findings) == [] and len(findings) == 6 + 9 + 5 + 5


def test_what_is_read_too_early_is_found(setting, monkeypatch):
    """x is NaN until it is written; a write that comes too late leaves NaN in every result."""
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: self)
    assert len(wrong(streams.results_within(setting, nullcontext))) > 15


def test_elsewhere_says_where(setting):
    findings = list(streams.elsewhere(setting))
    assert wrong(findings) == [] and all(f.check.startswith("on cpu: ") for f in findings)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("net", streams.NETS)
def test_a_loop_trains(way, net):
    loop = streams.Loop(way, net, torch.float64, torch.device("cpu"))
    before = {name: value.detach().clone() for name, value in loop.results().items()}
    loop.call()
    after = loop.results()
    assert after["J"].isfinite()
    if way.startswith("step"):
        assert all(not torch.equal(after[name], before[name]) for name in before)
    else:
        assert all(after[f"d{name}"].any() for name in before if name != "J")
