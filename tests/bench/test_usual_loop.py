import json

import pytest

from torch_manual_bp.bench import bench_usual_loop, usual_loop
from torch_manual_bp.bench.timing import Timings

SHAPE = (8, 5, 7, 3)


@pytest.fixture
def rows(monkeypatch):
    """Two rows of a bench so small that it is quick; how noisy the machine is does not matter here."""
    monkeypatch.setattr(Timings, "require_quiet", lambda *_: None)
    return list(bench_usual_loop((SHAPE,), ("relu", "gelu"), compiled=False, budget=0.1))


def test_a_row_holds_every_opponent(rows):
    assert [row.activation for row in rows] == ["relu", "gelu"]
    for row in rows:
        assert set(row.seconds) == {"matrix products", "eager", "MLP", "Objective"}
        assert row.over_compiled is None
        assert row.over_floor > 1 > 0 < row.over_eager


def test_table_and_json_carry_command_and_hardware(rows):
    where = usual_loop.environment()
    table = usual_loop.markdown(rows, "the command", where)
    assert table.startswith("`the command`") and str(where["cpu"]) in table
    assert table.count("8, 5, 7, 3") == 2
    data = json.loads(json.dumps(usual_loop.as_json(rows, "the command", where)))
    assert data["rows"][0]["shape"] == list(SHAPE) and data["environment"]["torch"] == where["torch"]


def test_an_activation_without_a_module_has_no_opponent():
    with pytest.raises(ValueError, match="got 'relu_squared'"):
        next(bench_usual_loop((SHAPE,), ("relu_squared",)))
