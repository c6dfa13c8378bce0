import doctest
import importlib
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_manual_bp.memory import measure


def held(measurement):
    """The bytes of the timeline, without its times."""
    return [size for _, size in measurement.timeline]


def test_a_known_pattern_is_exact_to_the_byte(device):
    def pattern():
        a = torch.empty(1000, device=device)
        b = torch.empty(500, device=device)  # 6000 bytes
        del a
        c = torch.empty(1001, device=device)  # 2000 + 4004 bytes, the most that is there at one time
        del b
        d = torch.empty(400, device=device)
        return c, d

    measured = measure(pattern, device)
    assert held(measured) == [0, 4000, 6000, 2000, 6004, 4004, 5604]
    assert (measured.peak_bytes, measured.left_bytes) == (6004, 5604)
    assert [block.bytes for block in measured.at_peak] == [2000, 4004]
    assert [block.bytes for block in measured.allocations if block.died_ns is None] == [4004, 1600]
    assert {block.op for block in measured.allocations} == {"aten::empty"}
    times = [time for time, _ in measured.timeline]
    assert times == sorted(set(times))
    assert times[-1] <= measured.duration_ns


def test_temporaries_inside_of_an_operator_are_seen(device):
    """mul_ by a mask makes a float copy of the mask: a tool that looks at operators' results misses it."""
    d, mask = torch.ones(1000, device=device), torch.ones(1000, dtype=torch.bool, device=device)
    measured = measure(lambda: d.mul_(mask), device)
    if device == "cpu":  # CUDA's kernels convert as they read
        assert held(measured) == [0, 4000, 0]
        assert measured.allocations[0].path[:3] == ("aten::mul_", "aten::to", "aten::_to_copy")
    assert measured.left_bytes == 0


def test_a_mask_and_its_copy():
    a, d, zeros = torch.ones(1000), torch.ones(1000), torch.zeros(())
    assert held(measure(lambda: d.mul_(a > zeros))) == [0, 1000, 5000, 1000, 0]


def test_in_place_and_views_take_nothing(device):
    a, d = torch.ones(1000, device=device), torch.ones(1000, device=device)

    def nothing():
        d.add_(a).clamp_(0, 1).zero_()
        d.view(10, 100).t()[3:].copy_(a.view(10, 100).t()[3:])
        return d[2:], d.view(20, 50), d.expand(3, -1), d.detach()

    assert measure(nothing, device).allocations == ()


def test_a_result_is_left_and_the_measurement_keeps_it_not_alive(device):
    seen = []

    def hand_over():
        scrap = torch.empty(300, device=device)
        result = torch.empty(200, device=device)
        seen.append(weakref.ref(result))
        del scrap
        return result

    measured = measure(hand_over, device)
    assert (measured.peak_bytes, measured.left_bytes) == (2000, 800)
    assert seen[0]() is None


def test_what_the_call_stores_elsewhere_is_left(device):
    kept = []
    assert measure(lambda: kept.append(torch.empty(200, device=device)), device).left_bytes == 800


def test_what_stood_before_stands_to_the_end(device):
    stood_before = [torch.empty(1000, device=device)]

    def give_back_and_take():
        stood_before.clear()
        return torch.empty(900, device=device)

    assert measure(give_back_and_take, device).peak_bytes == 3600


def test_growing_in_place_is_a_new_block_beside_the_old_one():
    x = torch.empty(0)
    assert held(measure(lambda: x.resize_(100).resize_(200))) == [0, 400, 1200, 800]


def test_backward_is_watched_to_the_byte():
    """(128, 64) and (64, 64) floats take 32768 and 16384 bytes; J and ∂J/∂J are scalars of 4."""
    w = torch.ones(64, 64, requires_grad=True)
    x = torch.ones(128, 64)
    measured = measure(lambda: (x @ w).relu().sum().backward())
    z, h, J, dJ, dz, dw = 32768, 32768, 4, 4, 32768, 16384
    assert held(measured) == [
        0,
        z,
        z + h,
        h,  # the graph keeps relu's output alone
        h + J,
        h + J + dJ,
        h + J + dJ + dz,
        J + dJ + dz,
        J + dJ + dz + dw,
        J + dJ + dw,
        J + dw,
        dw,
    ]
    assert measured.left_bytes == w.grad.nbytes
    (dz_block,) = (block for block in measured.at_peak if "ReluBackward0" in block.path)
    assert (dz_block.op, dz_block.bytes) == ("aten::threshold_backward", dz)


class Nested(torch.autograd.Function):
    """Calls backward() in its backward, `depth` times, and allocates at the bottom."""

    @staticmethod
    def forward(ctx, x, depth, bottom):
        ctx.depth, ctx.bottom = depth, bottom
        return x.clone()

    @staticmethod
    def backward(ctx, dx):
        if ctx.depth:
            with torch.enable_grad():
                x = torch.ones(1, requires_grad=True)
                Nested.apply(x, ctx.depth - 1, ctx.bottom).backward()
        else:
            ctx.bottom.append((threading.get_ident(), torch.empty(1000)))
        return dx, None, None


def test_a_backward_pass_on_a_thread_of_the_engine_is_watched():
    """So deep in each other that the engine takes a thread of its own (from 60 on)."""
    x, bottom = torch.ones(1, requires_grad=True), []
    measured = measure(lambda: Nested.apply(x, 70, bottom).backward())
    assert bottom[0][0] != threading.get_ident()
    assert measured.left_bytes == 4000 + x.grad.nbytes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=30))
def test_any_order_of_births_and_deaths(plan):
    """Take n bytes, or give back the n-th of those that are held (round and round)."""

    def follow():
        blocks = []
        for take, n in plan:
            if take:
                blocks.append(torch.empty(n, dtype=torch.uint8))
            elif blocks:
                del blocks[n % len(blocks)]
        return blocks

    expected, blocks = [0], []
    for take, n in plan:
        if take:
            blocks.append(n)
        elif blocks:
            del blocks[n % len(blocks)]
        else:
            continue
        expected.append(sum(blocks))
    measured = measure(follow)
    assert held(measured) == expected
    assert sorted(block.bytes for block in measured.allocations if block.died_ns is None) == sorted(blocks)
    assert sum(block.bytes for block in measured.at_peak) == measured.peak_bytes == max(expected)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="measure: fn must be callable, got Tensor"):
        measure(torch.ones(3))


@pytest.mark.parametrize(
    ("device", "message"),
    [("meta", "must be a CPU or a CUDA device, got 'meta'"), ("cuda:99", "device 'cuda:99' is not there: ")],
)
def test_a_device_that_cannot_be_measured_is_refused(device, message):
    with pytest.raises(ValueError, match=message):
        measure(lambda: None, device)


def test_measuring_within_measuring_is_refused_and_the_next_one_works():
    with pytest.raises(RuntimeError, match="a profiler is running already"):
        measure(lambda: measure(lambda: None))
    assert measure(lambda: torch.empty(10)).left_bytes == 40


def test_under_torchs_profiler_it_is_refused_and_the_profiler_goes_on():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as running:
        with pytest.raises(RuntimeError, match="a profiler is running already"):
            measure(lambda: None)
        torch.ones(3).neg()
    assert "aten::neg" in {event.name for event in running.events()}


def test_an_error_of_the_call_is_its_own_and_the_next_measurement_works():
    def fails():
        torch.empty(10)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        measure(fails)
    assert measure(lambda: torch.empty(10)).left_bytes == 40


def test_the_docstrings_example_runs():
    module = importlib.import_module("torch_manual_bp.memory.measure")
    finished = doctest.testmod(module)
    assert finished.attempted and not finished.failed
