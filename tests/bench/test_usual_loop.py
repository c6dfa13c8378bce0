import pytest
import torch

from torch_manual_bp.bench import Report, usual_loop
from torch_manual_bp.bench.problem import Problem
from torch_manual_bp.bench.report import environment


@pytest.fixture
def rows(quick, shape):
    return list(usual_loop.measure(quick, (shape,)))


def test_a_row_holds_every_opponent(rows):
    assert [row.labels["φ"] for row in rows] == ["relu", "gelu"]
    for row in rows:
        assert set(row.seconds) == {"matrix products", "eager", "MLP", "Objective"}
        assert row.ratios["matrix products / Objective"] < 1


def test_the_table_turns_the_ratios_round(rows):
    row = rows[0]
    cells = usual_loop.cells(row)
    assert cells["Objective / eager"] == f"**{1 / row.ratios['eager / Objective']:.2f}**"
    assert cells["/ torch.compile"] == "–"
    assert cells["MLP + torch's loss / eager"] == f"{row.ratios['MLP / eager']:.2f}"
    table = Report(usual_loop.QUESTION, rows, 1, "the command", environment()).markdown()
    assert table.count("| 8, 5, 7, 3 |") == 2


def test_all_have_the_same_gradients(shape):
    candidates = list(usual_loop.gradient_candidates(Problem(shape, "gelu", torch.float64), compiled=False))
    gradients = []
    for candidate in candidates:
        candidate.call()
        gradients.append([p.grad for p in candidate.parameters])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-12, atol=1e-15)
