"""Bytes over the batch, planned and measured, and what is drawn and written of them."""

import json

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp import memory
from torch_manual_bp.memory.growth import EAGER, LEAN, PREDICT, TILED, WHOLE, growth, ways
from torch_manual_bp.memory.profile import profiled, write
from torch_manual_bp.memory.sample import Sample

COMPILED = not tmb.kernels.backend().startswith("python")
needs_compiled = pytest.mark.skipif(not COMPILED, reason="a plan is that of the compiled kernels, which are not here")


def setting(batch=64, activation="gelu", **options):
    return memory.plan(tmb.MLP(20, 30, 10, activation, device="meta"), batch, **options).setting


def test_what_grows_and_what_does_not():
    grown = growth(setting(), (4096, 16384, 65536))
    assert set(grown.planned) == {EAGER, WHOLE, TILED, LEAN, PREDICT}
    for way in (EAGER, WHOLE, PREDICT):
        small, _, large = grown.planned[way]
        assert 14 < large / small <= 16
    assert grown.planned[TILED][1] < grown.planned[WHOLE][1]
    assert (grown.measured, grown.rows_per_second, grown.run) == ({}, {}, ())


@needs_compiled
def test_the_smaller_batches_are_run():
    grown = growth(setting(), (16, 64, 256, 4096), run_up_to=256)
    assert grown.run == (16, 64, 256)
    assert grown.measured == {way: sizes[:3] for way, sizes in grown.planned.items()}
    assert set(grown.rows_per_second) == {EAGER, WHOLE, TILED, LEAN}
    assert all(len(speeds) == 3 and min(speeds) > 0 for speeds in grown.rows_per_second.values())


def test_eager_is_left_out_where_torch_has_no_such_net():
    assert EAGER not in ways(setting(activation="relu_squared"))
    assert EAGER in ways(setting())


@needs_compiled
@pytest.mark.parametrize("options", [
    {"path": "autograd", "optimizer": "adamw", "tile_rows": 16}, {"path": "step", "optimizer": "momentum"},
    {"path": "eager", "loss": "mse"}, {"path": "predict"}, {"path": "accumulate_grad", "x_requires_grad": True},
    {"path": "autograd", "autocast": torch.bfloat16, "weight_decay": 0.1}, {"path": "step", "clip_norm": 1.0},
], ids=str)  # fmt: skip
def test_a_sample_takes_the_path_of_its_setting(options):
    plan = memory.plan(tmb.MLP(20, 30, 10, "tanh", device="meta"), 50, **options)
    assert Sample(plan.setting).measured().peak_bytes == plan.call_bytes


def test_pictures_and_report(tmp_path):
    pytest.importorskip("matplotlib")
    rows = list(profiled(setting()))
    assert [row.way for row in rows] == [EAGER, WHOLE, TILED, "objective.accumulate_grad", LEAN, PREDICT]
    assert all(row.agrees for row in rows) or not COMPILED
    files = write(setting(), rows, tmp_path / "new" / "folder")
    assert len(files) == 10
    assert all(file.stat().st_size > 1000 for file in files)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[:-1])
    report = json.loads(files[-1].read_text())
    assert [way["planned_bytes"] for way in report["ways"]] == [row.plan.call_bytes for row in rows]
    assert sum(tensor["bytes"] for tensor in report["ways"][0]["at_peak"]) == report["ways"][0]["planned_bytes"]
