"""The whole job on small data: what is printed, drawn and written. (`test_train` has the digits.)"""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console

from torch_manual_bp import equations
from torch_manual_bp.fit import PATHS, Dataset, Diverged, Settings, Training, job, load_model, progress, report
from torch_manual_bp.fit.picture import _smooth

SMALL = Settings(hidden=16, epochs=4, batch_size=8)
FILES = {"checkpoint.pt", "curves.png", "curves.csv", "equations.txt", "model.pt", "report.json"}


def run(data, out, settings=SMALL, compare=True, resume=False, checkpoint_seconds=10.0, **console):
    printed = io.StringIO()
    console = Console(file=printed, width=100, **console)
    outcome = job.run(data, settings, out, compare, console, resume=resume, checkpoint_seconds=checkpoint_seconds)
    return outcome, printed.getvalue()


def test_the_files_agree_with_each_other(any_data, tmp_path):
    outcome, _ = run(any_data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES == {path.name for path in outcome.files}

    found = json.loads((tmp_path / "report.json").read_text())
    assert found == outcome.report
    assert (found["steps"], found["interrupted"]) == (24, False)
    data = found["data"]
    assert (data["name"], data["task"]) == (any_data.name, any_data.task)
    assert (data["features"], data["outputs"]) == (any_data.x.shape[1], len(any_data.outputs))
    assert (data["training_rows"], data["held_out_rows"]) == (45, 15)

    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_hand, by_autograd = ([float(row[f"J {name}"]) for row in rows] for name in ("by hand", "by autograd"))
    assert len(rows) == 24
    assert (
        max(abs(a - b) for a, b in zip(by_hand, by_autograd, strict=True))
        == (found["comparison"]["largest_loss_difference"])
    )
    assert found["nets"]["by hand"]["mean_J"][0] == pytest.approx(sum(by_hand[:6]) / 6, rel=1e-15)

    table = equations.table(SMALL.activation, any_data.loss)
    assert (tmp_path / "equations.txt").read_text() == f"{table}\n"


def test_the_weights_are_those_of_the_run(blobs, tmp_path):
    run(blobs, tmp_path)
    training = Training(blobs, SMALL)
    for _ in training.steps():
        pass
    loaded = load_model(tmp_path / "model.pt")
    assert all(map(torch.equal, loaded.mlp.state_dict().values(), training.mlp.state_dict().values()))


def test_what_is_printed_says_what_was_asked_for(blobs, tmp_path):
    outcome, printed = run(blobs, tmp_path, replace(SMALL, hidden_bias=False))
    comparison = outcome.report["comparison"]
    assert "blobs: classification, 45 rows to train on, 15 held out" in printed
    assert "net: 2–16–3, φ = relu, l = cross_entropy, λ = 0.001" in printed
    assert f"two loss curves: {comparison['largest_loss_difference']:.1e}" in printed
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    for symbol in ("dw1", "dw2", "db2"):
        largest = max(check["float64"][symbol] for check in comparison["gradients"])
        assert f"{largest:.1e}" in rows[symbol]
    assert "db1" not in rows
    assert all(str(tmp_path / name) in printed for name in FILES)


def test_without_a_terminal_there_are_lines_and_on_one_a_bar(blobs, tmp_path):
    plain = run(blobs, tmp_path)[1]
    assert [f"epoch   {i}/4" in plain for i in (1, 2, 3, 4)] == [True] * 4
    assert "━━ " not in plain.split("the two nets")[0]
    bar = run(blobs, tmp_path, force_terminal=True)[1]
    assert "24/24" in bar
    assert "\x1b[" in bar


def test_a_long_run_is_not_a_long_list(blobs, tmp_path):
    plain = run(blobs, tmp_path, replace(SMALL, epochs=100), compare=False)[1]
    assert [line.split("/")[0].split()[-1] for line in plain.splitlines() if line.startswith("epoch")] == (
        ["1", *(str(i) for i in range(10, 101, 10))]
    )


def test_alone_there_is_nothing_to_compare(blobs, tmp_path):
    outcome, printed = run(blobs, tmp_path, compare=False)
    assert "comparison" not in outcome.report
    assert list(outcome.report["nets"]) == ["by hand"]
    assert "by autograd" not in printed
    assert (tmp_path / "curves.csv").read_text().startswith("step,J by hand\n0,")


def test_the_picture_is_one(any_data, tmp_path):
    run(any_data, tmp_path / "both")
    run(any_data, tmp_path / "alone", compare=False)
    both, alone = (matplotlib.image.imread(tmp_path / kind / "curves.png") for kind in ("both", "alone"))
    assert both.shape[1] == alone.shape[1] == 1350
    assert both.shape[0] > alone.shape[0]  # the panel of differences
    orange = (224, 123, 26)
    assert (np.abs(both[..., :3] * 255 - orange).max(-1) < 40).sum() > 500  # autograd's line is on it,
    assert (np.abs(alone[..., :3] * 255 - orange).max(-1) < 40).sum() == 0  # and is not where there is none


def test_smoothing_is_the_mean_of_the_last_25():
    values = np.random.default_rng(0).normal(size=60)
    expected = [values[max(0, i - 24) : i + 1].mean() for i in range(60)]
    np.testing.assert_allclose(_smooth(values), expected, rtol=0, atol=1e-14)


def test_divergence_leaves_the_earlier_run(blobs, tmp_path):
    run(blobs, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Diverged):
        run(blobs, tmp_path, replace(SMALL, lr=1e30))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_to_is_found_out_before_training(blobs, tmp_path):
    (tmp_path / "file").write_text("")
    printed = io.StringIO()
    with pytest.raises(OSError):
        job.run(blobs, SMALL, tmp_path / "file" / "run", console=Console(file=printed))
    assert printed.getvalue() == ""


def test_the_folder_is_named_after_the_data(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(blobs, None)
    assert {path.name for path in (tmp_path / "runs" / "blobs").iterdir()} == FILES


def test_a_score_that_does_not_exist_is_null(tmp_path):
    rows = np.arange(4.0)[:, None]  # of which one is held out: a single target does not vary, so there is no R²
    outcome, _ = run(Dataset("t", rows, rows, "regression", ("a",), ("y",)), tmp_path)
    assert outcome.report["nets"]["by hand"]["scores"] == [None] * 4


def test_a_report_of_a_run_that_was_cut_short(blobs):
    training = Training(blobs, SMALL)
    for step in training.steps():
        if step.number == 2:
            break
    found = report.report(training, 1.0, interrupted=True)
    assert (found["steps"], found["interrupted"]) == (3, True)
    assert found["nets"]["by hand"]["scores"] == []
    assert math.isclose(found["nets"]["by hand"]["mean_J"][0], sum(training.learners[0].curve.losses) / 3)


@pytest.mark.parametrize(("given", "hidden", "expected"), [(None, 16, 1), (3, 16, 3), (None, 200_000, 2)])
def test_a_small_net_gets_one_thread_unless_told_otherwise(blobs, tmp_path, given, hidden, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = replace(SMALL, hidden=hidden, epochs=1, batch_size=45)
        outcome = job.run(blobs, settings, tmp_path, False, Console(file=io.StringIO()), given)
        assert outcome.report["environment"]["threads"] == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_thread_is_refused(blobs, tmp_path):
    with pytest.raises(ValueError, match="train: threads must be at least 1, got 0"):
        job.run(blobs, SMALL, tmp_path / "run", threads=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", PATHS)
def test_it_is_said_by_which_path(blobs, tmp_path, path):
    outcome, printed = run(blobs, tmp_path, replace(SMALL, path=path))
    assert f"by hand: {PATHS[path].step_call} (path {path})" in printed
    assert f"hand is {PATHS[path].gradients_call}" in printed
    assert outcome.report["settings"]["path"] == path


def without_times(content):
    content = json.loads(json.dumps(content)) | {"seconds": 0}
    for net in content["nets"].values():
        net["median_step_seconds"] = 0
    return content


def assert_same_files(folder, other):
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()} == FILES
    assert (folder / "curves.csv").read_bytes() == (other / "curves.csv").read_bytes()
    one, two = (load_model(place / "model.pt").mlp.state_dict() for place in (folder, other))
    assert all(map(torch.equal, one.values(), two.values()))
    one, two = (json.loads((place / "report.json").read_text()) for place in (folder, other))
    assert without_times(one) == without_times(two)


def at_step(number, act, monkeypatch):
    """Do something while a step of the next runs is shown."""
    shown = progress.shown

    def watched(training, console):
        for step in shown(training, console):
            if step.number == number:
                act()
            yield step

    monkeypatch.setattr(progress, "shown", watched)


@pytest.mark.parametrize("step", [0, 3, 5, 22, 23])
def test_ctrl_c_and_resume_end_in_the_same_files(any_data, tmp_path, step, monkeypatch):
    run(any_data, tmp_path / "straight")
    with monkeypatch.context() as patch:
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        outcome, printed = run(any_data, tmp_path / "stopped")
    last = step == 23
    assert outcome.interrupted is not last
    assert outcome.report["steps"] == step + 1
    assert (f"Interrupted after step {step + 1} of 24" in printed) is not last
    outcome, printed = run(any_data, tmp_path / "stopped", resume=True)
    assert not outcome.interrupted
    assert f"resumed after step {step + 1} of 24\n" in printed
    assert_same_files(tmp_path / "stopped", tmp_path / "straight")


def test_time_goes_on_where_it_stood(blobs, tmp_path, monkeypatch):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    first = run(blobs, tmp_path)[0].report["seconds"]
    assert run(blobs, tmp_path, resume=True)[0].report["seconds"] > first


def test_a_finished_run_can_be_written_again_and_trained_longer(blobs, tmp_path):
    for folder, epochs in (("straight", 4), ("longer", 6)):
        run(blobs, tmp_path / folder, replace(SMALL, epochs=epochs))
    run(blobs, tmp_path / "again")
    (tmp_path / "again" / "model.pt").unlink()
    assert "24/24" in run(blobs, tmp_path / "again", resume=True, force_terminal=True)[1]
    assert_same_files(tmp_path / "again", tmp_path / "straight")
    run(blobs, tmp_path / "again", replace(SMALL, epochs=6), resume=True)
    assert_same_files(tmp_path / "again", tmp_path / "longer")


KILLED = """
import os, signal, sys
import numpy as np
from torch_manual_bp.fit import Dataset, Settings, job, progress

shown = progress.shown

def killed(training, console):
    for step in shown(training, console):
        if step.number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield step

progress.shown = killed
with np.load(sys.argv[1]) as data:
    dataset = Dataset("blobs", data["x"], data["y"], "classification", ("u", "v"), ("red", "green", "blue"))
job.run(dataset, Settings(hidden=16, epochs=4, batch_size=8), sys.argv[2], threads=1, checkpoint_seconds=0)
"""


def test_a_process_that_was_killed_is_gone_on_with(blobs, tmp_path):
    """Its last checkpoint is the one before the step at which it was killed."""
    np.savez(tmp_path / "data.npz", x=blobs.x, y=blobs.y)
    command = [sys.executable, "-c", KILLED, tmp_path / "data.npz", tmp_path / "killed", "9"]
    root = os.path.dirname(os.path.dirname(equations.__path__[0]))
    process = subprocess.run(list(map(str, command)), env={**os.environ, "PYTHONPATH": root}, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"checkpoint.pt"}
    printed = run(blobs, tmp_path / "killed", resume=True)[1]
    assert "resumed after step 9 of 24\n" in printed
    run(blobs, tmp_path / "straight")
    assert_same_files(tmp_path / "killed", tmp_path / "straight")


def test_checkpoints_are_some_seconds_apart(blobs, tmp_path, monkeypatch):
    kept = []
    keep = job.RunFolder.keep
    monkeypatch.setattr(job.RunFolder, "keep", lambda *given: kept.append(given[1]) or keep(*given))
    run(blobs, tmp_path, checkpoint_seconds=0)
    assert kept == ["checkpoint.pt"] * (24 + 1)  # after each step, and at the end
    kept.clear()
    run(blobs, tmp_path, checkpoint_seconds=3600)
    assert kept == ["checkpoint.pt"]


def test_a_run_that_diverges_leaves_its_last_checkpoint(plane, tmp_path):
    wild = replace(SMALL, lr=1e4, activation="relu_squared")
    with pytest.raises(Diverged):
        run(plane, tmp_path, wild, checkpoint_seconds=0)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}
    with pytest.raises(Diverged):
        run(plane, tmp_path, wild, resume=True)


def test_threads_are_those_of_the_checkpoint_unless_given(blobs, tmp_path):
    job.run(blobs, SMALL, tmp_path, console=Console(file=io.StringIO()), threads=2)
    outcome, printed = run(blobs, tmp_path, resume=True)
    assert outcome.report["environment"]["threads"] == 2
    assert "bits may differ" not in printed
    printed = io.StringIO()
    job.run(blobs, SMALL, tmp_path, console=Console(file=printed, width=200), threads=1, resume=True)
    assert "bits may differ from those of a run without a stop: threads was 2" in printed.getvalue()


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_be_resumed_is_refused_before_anything_is_touched(blobs, plane, tmp_path, there):
    out = tmp_path / "run"
    if there:
        run(plane, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()} if there else None
    printed = io.StringIO()
    with pytest.raises(ValueError if there else FileNotFoundError, match=r"run/checkpoint\.pt"):
        job.run(blobs, SMALL, out, console=Console(file=printed), resume=True)
    assert printed.getvalue() == ""
    assert out.exists() is there
    if there:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
