import sys

import pytest

from torch_manual_bp.verify import measure

# acts like `scripts/bench.py`: writes reports; the question is what becomes of it
BENCH = """
import json, pathlib, sys, time
question, _, folder, *more = sys.argv[1:]
rows = [{"labels": {"case": "one", "dtype": "float32"}, "goals": [{"figure": "a / b", "value": 2.0}], "more": more}]
if question == "needs no compiler" and not more: sys.exit("a compiler is missing")
if question == "is busy": sys.exit(3)
path = pathlib.Path(folder, question + ".json")
path.write_text(json.dumps({"rows": rows}))
path.with_suffix(".md").write_text("| a |")
if question == "hangs": time.sleep(60)
if question == "fails late": sys.exit("out of memory")
"""


@pytest.fixture
def ask(tmp_path):
    return lambda question, seconds=30.0: measure(question, (sys.executable, "-c", BENCH), tmp_path, seconds)


def test_a_report_is_read(ask):
    measured = ask("speed")
    assert measured.markdown == "| a |" and measured.note == "" and measured.seconds > 0
    assert measured.goals == [("one · float32", {"figure": "a / b", "value": 2.0})]


def test_where_it_fails_it_is_tried_without_a_compiler(ask):
    measured = ask("needs no compiler")
    assert measured.data["rows"][0]["more"] == ["--no-compile"]
    assert measured.note == "status 1: a compiler is missing"


def test_what_was_written_before_a_failure_or_the_end_of_time_counts(ask):
    late = ask("fails late")
    assert late.data is not None and late.note == "status 1: out of memory; --no-compile status 1: out of memory"
    hung = ask("hangs", 3.0)
    assert hung.data is not None and hung.note.startswith("not done after 3 seconds")


def test_a_report_of_another_day_does_not_count(ask, tmp_path):
    for suffix in (".json", ".md"):
        (tmp_path / f"is busy{suffix}").write_text("{}")
    measured = ask("is busy")
    assert measured.data is None and measured.goals == [] and measured.note.startswith("status 3: ")
    assert list(tmp_path.iterdir()) == []


def test_without_time_nothing_is_begun(ask):
    assert ask("speed", 0.0).note == "no time was left"
