import time

import pytest

from torch_manual_bp.bench import BusyMachineError, Timings, time_in_turn

TIMINGS = Timings({"a": [2.0, 4.0, 60.0], "b": [1.0, 2.0, 3.0]})


def test_medians_and_ratios_by_hand():
    assert TIMINGS.median("a") == 4.0
    assert TIMINGS.ratio("a", "b") == 2.0  # of 2, 2 and 20: one disturbed round does not count
    assert TIMINGS.noise("b") == 2.0


def test_a_busy_machine_is_said_so():
    with pytest.raises(BusyMachineError, match=r"b: the median is 2\.00 times the minimum \(at most 1\.3"):
        TIMINGS.require_quiet("b")
    Timings({"b": [1.0, 1.2, 1.3]}).require_quiet("b")


def test_candidates_are_called_in_turn():
    calls = []
    timings = time_in_turn({name: lambda name=name: (calls.append(name), time.sleep(3e-4)) for name in "ab"}, rounds=7)
    rounds = ["".join(calls[-28:][i : i + 4]) for i in range(0, 28, 4)]  # each twice, the first time untimed
    assert set(rounds) <= {"aabb", "bbaa"}
    assert len(set(rounds)) == 2  # neither always comes in the wake of the other
    assert len(timings.seconds["a"]) == len(timings.seconds["b"]) == 7
    assert timings.median("a") >= 3e-4


def test_the_budget_ends_the_rounds_but_leaves_five():
    assert len(time_in_turn({"a": lambda: time.sleep(1e-3)}, rounds=1000, budget=0.0).seconds["a"]) == 5
