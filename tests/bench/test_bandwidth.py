import pytest
import torch

from torch_manual_bp.bench import BusyMachineError, Settings, Timings, bandwidth
from torch_manual_bp.bench.report import Row

SMALL = {"size": 2**14, "columns": 64}


@pytest.fixture
def rows(quick):
    return list(bandwidth.measure(quick, **SMALL))


def test_every_op_is_measured_in_every_dtype(rows):
    names = {dtype: [row.labels["op"] for row in rows if row.labels["dtype"] == dtype] for dtype in DTYPES}
    assert len(set(names["bfloat16"])) == len(names["bfloat16"]) == 18
    assert names["float16"] == names["bfloat16"]
    updates = ["sgd_", "sgd_ with momentum", "adam_", "adam_, clipping"]
    assert names["float32"] == names["bfloat16"] + updates
    assert [row.labels["GiB"] for row in rows if row.labels["op"] == "bias_act_keep_, relu"] == ["4.578e-05"] * 3


DTYPES = ("bfloat16", "float32", "float16")


def test_the_share_is_of_bytes_over_seconds(quick, monkeypatch):
    """A copy moves two matrices in 2 seconds; an op of three in 4 has 3/4 of its rate."""
    monkeypatch.setattr(
        bandwidth, "time_in_turn", lambda calls, **_: Timings({c: [4.0] for c in calls} | {"copy": [2.0]})
    )
    rows = {row.labels["op"]: row for row in bandwidth.measure(quick, **SMALL, dtypes=(torch.float32,))}
    shares = {name: row.ratios[bandwidth.SHARE] for name, row in rows.items()}
    assert shares["bias_act_, gelu"] == 0.5 and shares["bias_act_keep_, gelu"] == 0.75
    assert shares["class_statistics_"] == 0.25 and shares["adam_"] == 1.75
    assert shares["bias_act_mask_, relu"] == pytest.approx(0.5 + 1 / 128)  # a bit for every 32


def test_cells_and_goal_by_hand():
    row = Row({"op": "mse_", "dtype": "bfloat16", "GiB": "3"}, {"copy": 1e-3, "op": 2e-3}, {bandwidth.SHARE: 0.75})
    assert bandwidth.cells(row) == {"time": "2.00 ms", "GB/s": "1611", "of the copy's rate": "**0.75**"}
    (goal,) = bandwidth.goals(row)
    assert goal.describe(runs=3) == "the op's rate / the copy's ≥ 0.85: 0.75, not met"


def test_a_copy_that_scatters_is_refused_unless_it_is_kept(monkeypatch):
    monkeypatch.setattr(bandwidth, "time_in_turn", lambda calls, **_: Timings({c: [1.0, 2.0, 2.0] for c in calls}))
    with pytest.raises(BusyMachineError, match=r"copy: the median is 2\.00 times the minimum"):
        next(bandwidth.measure(Settings(), **SMALL))
    assert next(bandwidth.measure(Settings(keep_noisy=True), **SMALL)).noise == 2.0
