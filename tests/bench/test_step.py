from dataclasses import replace

import pytest
import torch

from torch_manual_bp.bench import step
from torch_manual_bp.bench.report import Timings, timed_row


def made_up(update="SGD", shape="1024, 784, 256, 10", **seconds):
    labels = {"update": update, "B, d, h, q": shape, "φ": "relu", "dtype": "float32"}
    return timed_row(labels, Timings({name.replace("_", " "): [s, s] for name, s in seconds.items()}), to="step")


def test_goals_of_made_up_timings():
    row = made_up(matrix_products=4.0, eager=8.0, compiled=5.0, step=4.1)
    assert step.best_opponent(row) == "compiled"
    floor, opponent = step.goals(row)
    assert (floor.value, floor.goal.bound) == (pytest.approx(4.1 / 4.0), 1.05)
    assert (opponent.value, opponent.goal.bound) == (pytest.approx(5.0 / 4.1), 1.10)
    assert floor.goal.met(floor.value) and opponent.goal.met(opponent.value)
    slow = made_up(matrix_products=4.0, eager=8.0, compiled=5.0, step=6.0)
    assert [judged.goal.verdict(judged.value, 1) for judged in step.goals(slow)] == ["not met", "not met"]


def test_goals_of_the_other_updates():
    (adamw,) = step.goals(made_up("AdamW, clipping", "32, 20, 64, 10", matrix_products=1e-5, eager=3e-4, step=3e-5))
    assert adamw.value == pytest.approx(30) and adamw.goal.bound == 40
    row = made_up("SGD, bfloat16 autocast", **{"matrix products": 1.0, "eager": 3.0, "step": 2.0, "step, float32": 3.6})
    assert step.best_opponent(row) == "eager"  # our own float32 step is none
    (halved,) = step.goals(row)
    assert halved.value == pytest.approx(1.8) and halved.goal.at_least


def test_a_shape_without_goals_has_none():
    for update in (step.SGD, step.GRAPHS, step.ADAMW, step.BFLOAT16):
        row = made_up(update, "8, 5, 7, 3", matrix_products=1.0, eager=2.0, step=1.0)
        assert step.goals(row) == []


def described(row):
    return [judged.describe(runs=3) for judged in step.goals(row)]


def test_goals_on_a_gpu():
    block = made_up(shape="8192, 4096, 16384, 4096", matrix_products=0.93, eager=1.2, compiled=1.1, step=1.0)
    assert described(replace(block, peak_bytes={"eager": 10, "compiled": 1, "step": 8})) == [
        "step / matrix products ≤ 1.09: 1.08, met",
        "best opponent / step ≥ 1: 1.1, met",
        "eager's bytes / step's ≥ 1.43: 1.25, not met",
    ]
    head = made_up(shape="8192, 4096, 4096, 128256", matrix_products=0.5, eager=0.9, step=1.0)
    assert described(replace(head, peak_bytes={"eager": 101, "step": 10})) == [
        "eager / step ≥ 1: 0.9, not met",
        "eager's bytes / step's ≥ 10: 10.1, met",
    ]
    small = {"shape": "256, 64, 64, 10", "matrix_products": 1.0, "eager": 6.0, "step": 1.0}
    assert described(made_up(**small)) == ["eager / step ≥ 5: 6, met"]
    assert described(made_up(step.GRAPHS, **small)) == []  # replays are compared, not judged


def test_a_gpu_is_asked_for_steps_of_its_own_size():
    assert {case.shape for case in step.GPU_CASES}.isdisjoint(case.shape for case in step.CPU_CASES)
    judged = set(step.FASTER_THAN_EAGER) | set(step.LESS_THAN_EAGER)
    assert judged <= {case.shape for case in step.GPU_CASES if case.update == step.SGD}
    assert {case.shape for case in step.GPU_CASES if case.peaks} == set(step.LESS_THAN_EAGER)


def test_peaks_are_measured_where_a_case_asks(quick):
    (row,) = step.measure(quick, [step.Case(step.SGD, (4096, 5, 7, 3), torch.bfloat16, peaks=True)])
    assert row.labels["dtype"] == "bfloat16"
    assert set(row.peak_bytes) == {"eager", "eager, fused SGD", "step"}
    assert row.peak_bytes["step"] < row.peak_bytes["eager"]
    assert "; eager" in step.cells(row)["all, fastest first"]


def test_rows_are_measured(quick, shape):
    rows = list(step.measure(quick, [step.Case(update, shape) for update in (step.SGD, step.ADAMW, step.BFLOAT16)]))
    assert [row.labels["update"] for row in rows] == ["SGD", "AdamW, clipping", "SGD, bfloat16 autocast"]
    sgd, adamw, halved = rows
    assert list(sgd.seconds) == ["matrix products", "eager", "eager, fused SGD", "step"]
    assert {"matrix products", "eager", "NumPy by hand", "step"} <= set(adamw.seconds)
    assert set(halved.seconds) == {*sgd.seconds, "step, float32"}
    for row in rows:
        assert row.shape == shape
        assert set(row.ratios) == {f"{name} / step" for name in row.seconds} - {"step / step"}
        assert list(step.cells(row)) == list(step.cells(sgd))
