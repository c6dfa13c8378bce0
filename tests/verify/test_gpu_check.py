"""scripts/gpu_check.py as it is called."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_manual_bp import bench, verify
from torch_manual_bp.verify import Checked, Finding, Measured, Sanitized

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["scripts/gpu_check.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return exit_.value.code


@pytest.fixture
def asked(monkeypatch):
    """What is asked of checks, measurements and compute-sanitizer, all of which find nothing wrong."""
    asked = []

    def supervise(names, options, seconds):
        for name in names:
            asked.append((name, options, seconds))
            yield Checked(name, [Finding("a", group=name)], 0.5)

    def measure(question, command, folder, seconds):
        asked.append((question, command, folder, seconds))
        return Measured(question, {"rows": []}, "a table", "", 1.0)

    def sanitize(path, device, seconds):
        asked.append((path, device, seconds))
        yield Sanitized("memcheck", 0, "ERROR SUMMARY: 0 errors")

    for stand_in in (supervise, measure, sanitize):
        monkeypatch.setattr(verify, stand_in.__name__, stand_in)
    monkeypatch.setattr(verify, "find_sanitizer", lambda: "/the/sanitizer")
    return asked


def test_one_command_asks_everything(monkeypatch, tmp_path, asked, capsys):
    assert run(monkeypatch, "--device", "cpu", "--budget-minutes", "5", "--sanitize", "--out", str(tmp_path)) == 0
    names = [entry[0] for entry in asked]
    questions = ["bandwidth", "step", "memory", "usual_loop", "peers", "growth"]
    questions += ["curvature", "hessian", "curvature_growth"]
    assert names == [*verify.CHECKS, *questions, "/the/sanitizer"]
    assert sorted(questions) == sorted(bench.QUESTIONS)
    assert 140 < asked[0][2] <= 150 and 290 < asked[-2][3] <= 300  # half of five minutes; what is left
    _, command, folder, _ = asked[-2]
    assert command[1:5] == [str(ROOT / "scripts" / "bench.py"), "--device", "cpu", "--keep-noisy"]
    assert folder.parent == tmp_path
    data = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert len(data["checks"]) == len(verify.CHECKS) and len(data["measurements"]) == len(questions)
    assert data["sanitizer"][0]["errors"] == 0
    printed = capsys.readouterr().out
    assert "everything that was looked at is right" in printed and "hidden ops" in printed


def test_a_part_can_be_asked_for(monkeypatch, tmp_path, asked):
    assert run(monkeypatch, "labels", "--device", "cpu", "--measure", "step", "--out", str(tmp_path)) == 0
    assert [entry[0] for entry in asked] == ["labels", "step"]
    del asked[:]
    assert run(monkeypatch, "none", "--device", "cpu", "--measure", "none", "--out", str(tmp_path)) == 0
    assert asked == []


@pytest.mark.parametrize(("arguments", "message"), [(["lables"], "got lables"), (["--measure", "speed"], "got speed")])
def test_what_it_does_not_know_it_refuses(monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_failure_makes_status_1_and_is_printed(monkeypatch, tmp_path, asked, capsys):
    failed = Checked("labels", [Finding("row", ok=False, note="found 3, expected 4", group="labels")], 0.1)
    monkeypatch.setattr(verify, "supervise", lambda *_: iter([failed]))
    assert run(monkeypatch, "labels", "--device", "cpu", "--measure", "none", "--out", str(tmp_path)) == 1
    assert "FAILED labels: row  found 3, expected 4" in capsys.readouterr().out


def test_an_interrupt_leaves_what_there_is(monkeypatch, tmp_path, asked):
    def interrupted(*arguments):
        yield Checked("labels", [Finding("a", group="labels")], 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "supervise", interrupted)
    assert run(monkeypatch, "--device", "cpu", "--out", str(tmp_path)) == 0
    assert "It was interrupted" in next(tmp_path.glob("*.md")).read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu(tmp_path):
    command = [sys.executable, SCRIPT, "--out", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2 and "no CUDA device" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_real_thing_on_the_cpu(monkeypatch, tmp_path, capfd):
    assert run(monkeypatch, "labels", "torch.func", "--device", "cpu", "--measure", "none", "--out", str(tmp_path)) == 0
    assert "labels" in capfd.readouterr().out
    (data,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert [(check["name"], check["holds"]) for check in data["checks"]] == [("labels", 4), ("torch.func", 10)]
