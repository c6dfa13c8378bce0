"""What the ranks of a pipeline do: gradients of one process, memory as planned, time as simulated."""

import json
from functools import partial

import pytest
import torch
from autograd.processes import on_two_processes

import torch_manual_bp as tmb
from torch_manual_bp.bench import pipeline as bench
from torch_manual_bp.bench.crowd import QUIET, Crowd

SCHEDULES = ("gpipe", "1f1b", "zero_bubble")
SMALL, LARGE = (64, 20, 30, 10), (2048, 784, 1024, 1024)  # an action of the large one takes 5 ms and more
WITHIN = 0.1  # of the makespan
TRIES = 3


def objective_of(sizes):
    torch.manual_seed(0)
    return tmb.Objective(tmb.MLP(*sizes[1:]), weight_decay=1e-4)


def batch_of(sizes):
    B, d, _, q = sizes
    torch.manual_seed(1)
    return torch.randn(B, d), torch.randint(q, (B,))


def watched(schedule, sizes, steps, microbatches=8):
    """Errors, and what was watched, of the first quiet one of some tries."""
    pipe = tmb.pipeline.build(objective_of(sizes), microbatches, schedule)
    x, y = batch_of(sizes)
    errors = bench.errors_beside_one_process(pipe, objective_of(sizes), x, y)
    for _ in range(TRIES):
        found = bench.watch(pipe, objective_of(sizes), schedule, x, y, steps)
        if found.quiet:
            break
    return errors, json.dumps(found.as_dict())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    checks = {schedule: partial(watched, schedule, SMALL, 3) for schedule in SCHEDULES}
    return on_two_processes(checks, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradients_memory_and_spans(small, schedule):
    for errors, found in (of_rank[schedule] for of_rank in small):
        assert list(errors) == ["J", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
        assert max(errors.values()) <= bench.TOLERANCE[torch.float32]
        found = json.loads(found)
        assert len(found["makespans"]) in range(3, 6)
        assert 0 < found["send"] < 1
        spans = found["measured"]["spans"]
        assert {(span["rank"], span["microbatch"]) for span in spans} == {
            (rank, i) for rank in (0, 1) for i in range(8)
        }
        if tmb.kernels.backend().startswith("cpu") and torch.__version__.startswith("2.13"):
            differences = [p - plan for p, plan in zip(found["peak_bytes"], found["planned_bytes"], strict=True)]
            assert all(0 <= difference <= 256 for difference in differences)


@pytest.mark.alone
def test_the_simulator_is_within_a_tenth_of_the_makespan(tmp_path):
    checks = {schedule: partial(watched, schedule, LARGE, 12) for schedule in SCHEDULES}
    results = on_two_processes(checks, tmp_path)[0]
    ratios = {}
    for schedule in SCHEDULES:
        assert isinstance(results[schedule], tuple), results[schedule]
        found = json.loads(results[schedule][1])
        if not found["quiet"]:
            pytest.skip(f"{schedule}: other processes had the ranks' cores in most steps: {max(found['crowd']):.0%}")
        ratios[schedule] = found["simulated / measured"]
    assert all(abs(ratio - 1) <= WITHIN for ratio in ratios.values()), ratios


def test_a_crowd_is_noticed(monkeypatch):
    waits = iter([0.0, 0.25])
    times = iter([10.0, 11.0])
    monkeypatch.setattr("torch_manual_bp.bench.crowd._waited", lambda: next(waits))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    assert Crowd().share() == 0.25 > QUIET
