import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torch_manual_bp.bench import QUESTIONS, BusyMachineError, Question, answer, write
from torch_manual_bp.bench.report import Row, Settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench.py"
SECONDS = iter(())


def measure(settings):
    yield Row({"case": "one"}, {"a": next(SECONDS)})


QUESTION = Question("speed", "How fast?", measure, lambda row: {"a": str(row.seconds["a"])})


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    monkeypatch.setitem(globals(), "SECONDS", iter([5.0, 1.0, 2.0]))


def test_three_runs_are_one_answer_of_medians():
    told = []
    report = answer(QUESTION, Settings(), "the command", repeat=3, tell=told.append)
    assert [row.seconds["a"] for row in told] == [5.0, 1.0, 2.0]
    assert [row.seconds["a"] for row in report.rows] == [2.0] and report.runs == 3


def test_files_are_written(tmp_path):
    picture = replace(QUESTION, picture=lambda rows, caption: f"{len(rows)} row, {caption}".encode())
    write(answer(picture, Settings(), "the command"), tmp_path / "new")
    assert (tmp_path / "new" / "speed.md").read_text().endswith("| one | 5.0 |\n\n![speed](speed.png)\n")
    assert json.loads((tmp_path / "new" / "speed.json").read_text())["rows"][0]["seconds"] == {"a": 5.0}
    assert (tmp_path / "new" / "speed.png").read_bytes().startswith(b"1 row, the command, ")


def test_without_matplotlib_there_is_no_picture_and_none_is_named(tmp_path):
    def picture(rows, caption):
        raise ImportError("matplotlib")

    written = write(answer(replace(QUESTION, picture=picture), Settings(), "the command"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md"]
    assert "png" not in (tmp_path / "speed.md").read_text() == written.markdown()


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["scripts/bench.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit_.value.code


def test_the_script_answers_what_it_is_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(QUESTIONS, "speed", QUESTION)
    assert run_script(monkeypatch, "speed", "--repeat", "3", "--out", str(tmp_path)) == 0
    assert "| one | 2.0 |" in (tmp_path / "speed.md").read_text()
    printed = capsys.readouterr()
    assert "`python scripts/bench.py speed --repeat 3" in printed.out and "speed · one" in printed.err


def test_a_busy_machine_ends_the_script_with_status_3_and_no_figures(monkeypatch, tmp_path, capsys):
    def busy(settings):
        raise BusyMachineError("something else is running")

    monkeypatch.setitem(QUESTIONS, "speed", replace(QUESTION, measure=busy))
    assert run_script(monkeypatch, "speed", "--out", str(tmp_path)) == 3
    assert "bench: speed: something else is running" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["speeed"], "got speeed"), (["step", "--repeat", "0"], "--repeat must be at least 1, got 0")],
)
def test_the_script_refuses_by_name(monkeypatch, capsys, arguments, message):
    assert run_script(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
