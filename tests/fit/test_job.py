"""The whole job on small data: what is printed, drawn and written. (`test_train` has the digits.)"""

import csv
import io
import json
import math
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console

from torch_manual_bp import equations
from torch_manual_bp.fit import Dataset, Diverged, Settings, Training, job, load_model, report
from torch_manual_bp.fit.picture import _smooth

SMALL = Settings(hidden=16, epochs=4, batch_size=8)
FILES = {"checkpoint.pt", "curves.png", "curves.csv", "equations.txt", "model.pt", "report.json"}


def run(data, out, settings=SMALL, compare=True, **console):
    printed = io.StringIO()
    outcome = job.run(data, settings, out, compare, Console(file=printed, width=100, **console))
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
