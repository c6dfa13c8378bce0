from torch_manual_bp.bench import Report, Timings, curvature_growth, second_order
from torch_manual_bp.bench.report import environment

from .test_growth import pixels

SHAPE = (8, 5, 7, 3)  # n = 66


def test_n_passes_take_n_times_one(quick, monkeypatch):
    monkeypatch.setattr(
        curvature_growth, "time_in_turn", lambda calls, **_: Timings({name: [0.5] for name in calls})
    )  # fmt: skip
    (row,) = curvature_growth.measure(quick, [SHAPE], [])
    assert row.seconds[second_order.DENSE] == 0.5 and row.seconds[curvature_growth.N_PASSES] == 66 * 0.5
    assert row.ratios[f"{curvature_growth.N_PASSES} / gradient"] == 66
    assert row.peak_bytes[curvature_growth.N_PASSES] >= 4 * 66 * 66


def test_growth_is_drawn_and_ends_where_the_matrix_is_too_large(quick, monkeypatch):
    monkeypatch.setattr(curvature_growth, "LARGEST_MATRIX", 100)
    batches, nets = [(2, 5, 7, 3), SHAPE], [SHAPE, (8, 5, 40, 3)]
    rows = list(curvature_growth.measure(quick, batches, nets))
    assert [row.labels["grows"] for row in rows] == ["B", "B", "n", "n"]
    assert second_order.DENSE in rows[2].seconds and second_order.DENSE not in rows[3].seconds
    assert curvature_growth.cells(rows[3])[second_order.DENSE] == ""
    width, height, image = pixels(Report(curvature_growth.QUESTION, rows, 1, "the command", environment()).png())
    assert width > 1000 < len(image) / height and len(set(image)) > 50
