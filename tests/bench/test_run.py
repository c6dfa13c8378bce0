import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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


def test_what_there_is_so_far_is_told_row_by_row():
    kept = []
    answer(QUESTION, Settings(), "the command", repeat=2, so_far=kept.append)
    assert [(report.runs, report.rows[0].seconds["a"]) for report in kept] == [(1, 5.0), (1, 5.0)]


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


def test_with_keep_noisy_the_rows_before_a_failure_are_kept(monkeypatch, tmp_path):
    def fails_after_a_row(settings):
        assert settings.keep_noisy
        yield from measure(settings)
        raise MemoryError

    monkeypatch.setitem(QUESTIONS, "speed", replace(QUESTION, measure=fails_after_a_row, picture=lambda *_: b""))
    monkeypatch.setattr(sys, "argv", ["scripts/bench.py", "speed", "--keep-noisy", "--out", str(tmp_path)])
    with pytest.raises(MemoryError):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md"]
    assert (tmp_path / "speed.md").read_text().endswith("| one | 5.0 |\n")


def test_questions_for_a_gpu_are_asked_on_a_cpu_by_name_only(monkeypatch, tmp_path):
    asked = []
    for name, question in list(QUESTIONS.items()):

        def measured(settings, name=name):
            asked.append(name)
            return iter([Row({"case": "one"}, {"a": 1.0})])

        of_gpu = question.gpu_only
        monkeypatch.setitem(QUESTIONS, name, replace(QUESTION, name=name, measure=measured, gpu_only=of_gpu))
    assert run_script(monkeypatch, "--out", str(tmp_path)) == 0
    assert asked == [name for name in QUESTIONS if name != "bandwidth"]
    assert run_script(monkeypatch, "bandwidth", "--out", str(tmp_path)) == 0
    assert asked[-1] == "bandwidth"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_so(monkeypatch, capsys):
    assert run_script(monkeypatch, "step", "--device", "cuda") == 2
    assert "no CUDA device is available" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["speeed"], "got speeed"), (["step", "--repeat", "0"], "--repeat must be at least 1, got 0")],
)
def test_the_script_refuses_by_name(monkeypatch, capsys, arguments, message):
    assert run_script(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
