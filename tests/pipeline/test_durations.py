"""FLOPs of the stages, from the table and by hand."""

import pytest

from torch_manual_bp.equations import table
from torch_manual_bp.pipeline.durations import planned_durations
from torch_manual_bp.pipeline.simulate import simulate

m, d, h, q = 3, 5, 7, 2


def test_products_by_hand():
    first, last = planned_durations(table(activation="tanh", loss="mse"), m, d, h, q, rate=2.0)
    assert tuple(first) == (m * d * h, 0, m * d * h)
    assert tuple(last) == (m * h * q,) * 3


def test_everything_is_some_stages_work():
    """The parts of both stages make up the table, but for ∂J/∂x and the penalty, of which there is one a step."""
    equations = table(activation="gelu", loss="cross_entropy")
    planned = planned_durations(equations, m, d, h, q, 1.0, 1.0)
    sizes = {"B": m, "d": d, "h": h, "q": q}
    total = sum(
        e.gemm_flops(**sizes) + e.elementwise_flops(**sizes) for e in equations if e.symbol not in ("dx", "s", "J")
    )
    assert sum(map(sum, planned)) == total


def test_each_device_has_its_rate():
    (F0, I0, W0), (F1, I1, W1) = planned_durations(table(), m, d, h, q, (1.0, 10.0))
    assert (2 * m * d * h, 0, 2 * m * d * h) == (F0, I0, W0)
    assert pytest.approx((2 * m * h * q / 10,) * 3) == (F1, I1, W1)


def test_a_plan_before_anything_runs():
    """d = 3, q = 2: both ranks have 12 FLOPs a microbatch; GPipe waits for the longer F, then for the longer B."""
    planned = planned_durations(table(), 1, 3, 1, 2, 1.0)
    assert planned == ((6, 0, 6), (4, 4, 4))
    makespans = {schedule: simulate(schedule, 8, planned).makespan for schedule in ("gpipe", "1f1b", "zero_bubble")}
    assert makespans == {"gpipe": 8 * 6 + 4 + 8 * 8 + 6, "1f1b": 8 * 12 + 12, "zero_bubble": 8 * 12 + 6}


@pytest.mark.parametrize("rate", [0.0, -1.0, (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_rates_are_positive(rate):
    with pytest.raises(ValueError, match="rate must be positive"):
        planned_durations(table(), 1, 1, 1, 1, rate)


def test_the_elementwise_rate_is_positive():
    with pytest.raises(ValueError, match="elementwise_rate must be positive, got 0"):
        planned_durations(table(), 1, 1, 1, 1, 1.0, 0.0)
