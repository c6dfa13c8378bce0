import json
from dataclasses import replace

import pytest

from torch_manual_bp.bench import Question, Report
from torch_manual_bp.bench.goals import Goal, Judged
from torch_manual_bp.bench.report import Row, Timings, as_bytes, as_time, combine, environment, timed_row

QUESTION = Question(
    "speed",
    "How fast?",
    lambda settings: iter(()),
    cells=lambda row: {"a": as_time(row.seconds["a"])},
    goals=lambda row: [Judged("b / a", row.ratios["b / a"], Goal(2, at_least=True))],
)
WHERE = environment()


def row(a, b, shape="8, 5, 7, 3"):
    return Row({"B, d, h, q": shape}, {"a": a, "b": b}, {"b / a": b / a}, {"a": 1000})


def test_a_row_of_timings_by_hand():
    timings = Timings({"a": [1.0, 2.0, 4.0], "b": [3.0, 4.0, 4.0]})
    made = timed_row({"B, d, h, q": "8, 5, 7, 3"}, timings, to="a")
    assert made.seconds == {"a": 2.0, "b": 4.0}
    assert made.ratios == {"b / a": 2.0}  # of 3, 2 and 1
    assert made.shape == (8, 5, 7, 3)


def test_runs_are_combined_by_their_medians():
    (combined,) = combine([[row(1.0, 2.0)], [row(2.0, 8.0)], [row(9.0, 27.0)]])
    assert combined.seconds == {"a": 2.0, "b": 8.0}
    assert combined.ratios == {"b / a": 3.0}  # the median of 2, 4 and 3, not the ratio of the medians
    assert combined.peak_bytes == {"a": 1000}


def test_runs_of_other_cases_are_not_combined():
    with pytest.raises(ValueError, match="runs must have the same cases"):
        combine([[row(1.0, 2.0)], [row(1.0, 2.0, "9, 5, 7, 3")]])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        combine([[row(1.0, 2.0)], []])


def test_markdown_by_hand():
    text = Report(QUESTION, [row(2e-3, 3e-3), row(1e-4, 4e-4)], 3, "the command", WHERE).markdown()
    question, _, caption, _, *table = text.splitlines()
    assert question == "How fast?"
    assert caption.startswith("`the command`, ") and str(WHERE["cpu"]) in caption and "medians of 3 runs." in caption
    assert table == [
        "| B, d, h, q | a |",
        "|---|---|",
        "| 8, 5, 7, 3 | 2.00 ms |",
        "| 8, 5, 7, 3 | 100 µs |",
        "",
        "Goals:",
        "",
        "- 8, 5, 7, 3: b / a ≥ 2: 1.5, not met",
        "- 8, 5, 7, 3: b / a ≥ 2: 4, met",
    ]


def test_notes_stand_below_the_table():
    text = Report(replace(QUESTION, notes="By the way."), [row(2e-3, 3e-3)], 3, "the command", WHERE).markdown()
    assert text.endswith("not met\n\nBy the way.\n")


def test_a_noisy_floor_is_told():
    timings = Timings({"matrix products": [1.0, 1.5, 1.5], "a": [2.0, 3.0, 3.0], "b": [4.0, 6.0, 6.0]})
    noisy = timed_row({"B, d, h, q": "8, 5, 7, 3"}, timings, to="a")
    assert noisy.noise == 1.5
    assert combine([[noisy], [replace(noisy, noise=1.2)]])[0].noise == 1.5
    text = Report(QUESTION, [row(2e-3, 3e-3), noisy], 1, "the command", WHERE).markdown()
    assert text.endswith("Something else was running: the floor's median is up to 1.50 times its minimum.\n")


def test_json_carries_command_hardware_and_verdicts():
    data = json.loads(json.dumps(Report(QUESTION, [row(2.0, 3.9)], 1, "the command", WHERE).data()))
    assert data["command"] == "the command" and data["environment"]["torch"] == WHERE["torch"]
    (made,) = data["rows"]
    assert made["seconds"] == {"a": 2.0, "b": 3.9} and made["labels"] == {"B, d, h, q": "8, 5, 7, 3"}
    assert made["goals"] == [{"figure": "b / a", "value": 1.95, "goal": "≥ 2", "verdict": "too close for 1 run"}]


def test_units():
    assert [as_time(s) for s in (1.234e-6, 999.4e-6, 999.6e-6, 1.5)] == ["1.23 µs", "999 µs", "1.00 ms", "1500.00 ms"]
    assert [as_bytes(n) for n in (0, 12345, 1_234_567, 1_234_567_890)] == ["0 MB", "0.0123 MB", "1.23 MB", "1235 MB"]
