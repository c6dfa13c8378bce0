import pytest

from torch_manual_bp.bench.goals import Goal, Judged

CASES = {
    "well below": (Goal(1.15), 1.0, 1, "met"),
    "well above": (Goal(1.15), 1.4, 1, "not met"),
    "at least, above": (Goal(8, at_least=True), 12.0, 1, "met"),
    "at least, below": (Goal(8, at_least=True), 7.0, 1, "not met"),
    "on the good side, but close": (Goal(1.0), 0.96, 1, "too close for 1 run"),
    "close, two runs": (Goal(1.0), 1.04, 2, "too close for 2 runs"),
    "close, three runs": (Goal(1.0), 0.96, 3, "met"),
    "close on the wrong side, three runs": (Goal(1.0), 1.04, 3, "not met"),
    "the bound itself": (Goal(1.0), 1.0, 3, "met"),
    "bytes need one run": (Goal(1.0, exact=True), 1.0, 1, "met"),
    "bytes, one too many": (Goal(1.0, exact=True), 1.001, 1, "not met"),
}


@pytest.mark.parametrize(("goal", "value", "runs", "verdict"), CASES.values(), ids=CASES)
def test_verdicts(goal, value, runs, verdict):
    assert goal.verdict(value, runs) == verdict


def test_a_figure_is_described_with_its_goal():
    judged = Judged("best opponent / step", 9.25, Goal(8, at_least=True))
    assert judged.describe(runs=1) == "best opponent / step ≥ 8: 9.25, met"
    assert Judged("step / matrix products", 0.7, Goal(0.5)).describe(1) == "step / matrix products ≤ 0.5: 0.7, not met"
