from torch_manual_bp.bench import QUESTIONS, curvature, second_order
from torch_manual_bp.bench.report import Row


def test_a_row_for_each_quantity(quick, shape):
    rows = list(curvature.measure(quick, shape))
    assert [(row.labels["φ"], row.labels["quantity"]) for row in rows] == [
        (phi, quantity.ours) for phi in ("tanh", "relu") for quantity in curvature.QUANTITIES
    ]
    first = curvature.cells(rows[0])
    assert first["beside"] == second_order.BACKPACK and first["its peak bytes"].endswith("MB")
    assert curvature.cells(rows[1])["beside"] == ""
    assert all(row.peak_bytes[row.labels["quantity"]] > 0 for row in rows)


def test_goals_by_hand():
    ours, theirs, unit = second_order.PRODUCT, second_order.DOUBLE, second_order.GRADIENT
    labels = {"quantity": ours, "B, d, h, q": ", ".join(map(str, curvature.SHAPE)), "φ": "tanh"}
    ratios = {f"{ours} / {unit}": 1.5, f"{theirs} / {ours}": 1.2}
    row = Row(labels, {ours: 3.0, theirs: 3.6, unit: 2.0}, ratios, {})
    assert [goal.describe(3) for goal in curvature.goals(row)] == [
        "gradients ≤ 1.6: 1.5, met", "double backward / H v ≥ 1.3: 1.2, not met",
    ]  # fmt: skip
    assert curvature.goals(Row(labels | {"B, d, h, q": "8, 5, 7, 3"}, row.seconds, ratios, {})) == []


def test_the_questions_can_be_asked_by_name():
    assert {"curvature", "hessian", "curvature_growth"} <= set(QUESTIONS)
