"""The command line: in this process where that shows the same, in a real one where it does not."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import torch_manual_bp
from torch_manual_bp import equations
from torch_manual_bp.cli import app
from torch_manual_bp.fit import PATHS

ROOT = Path(torch_manual_bp.__file__).parents[1]
COMMAND = [sys.executable, "-m", "torch_manual_bp"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FILES = {"checkpoint.pt", "curves.png", "curves.csv", "equations.txt", "model.pt", "report.json"}


def run(*arguments, cwd=None, environment=ENVIRONMENT):
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture
def table(tmp_path):
    """A CSV file of two clouds, with a column that is of no use and a text as label."""
    generator = np.random.default_rng(0)
    path = tmp_path / "clouds.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "u", "kind", "v"])
        for i in range(40):
            writer.writerow([f"row{i}", generator.normal() + 6 * (i % 2), ("ham", "spam")[i % 2], generator.normal()])
    return path


def train(table, out, *more):
    return invoke("train", table, "--label", "kind", "--drop", "id", "--epochs", 8, "--out", out, *more)


def test_the_digits_alone_in_a_process_of_their_own(tmp_path):
    """What the demo does, from another folder, twice: no error, the same bits, and over 96 %."""
    curves = []
    for _ in range(2):
        process = run("train", cwd=tmp_path)
        assert (process.returncode, process.stderr) == (0, "")
        folder = tmp_path / "runs" / "digits"
        assert {path.name for path in folder.iterdir()} == FILES
        report = json.loads((folder / "report.json").read_text())
        assert all(net["scores"][-1] > 0.96 for net in report["nets"].values())
        curves.append((folder / "curves.csv").read_bytes())
    assert curves[0] == curves[1]


def test_train_and_predict_on_a_table_of_ones_own(table, tmp_path):
    result = train(table, tmp_path / "run")
    assert result.exit_code == 0, result.output
    predicted = invoke("predict", tmp_path / "run" / "model.pt", table, "--out", tmp_path / "p.csv")
    assert predicted.exit_code == 0, predicted.output
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] for row in rows] == ["ham", "spam"] * 20
    assert all(float(row["p(ham)"]) + float(row["p(spam)"]) == pytest.approx(1, abs=1e-12) for row in rows)
    assert invoke("predict", tmp_path / "run" / "model.pt", table).output == (tmp_path / "p.csv").read_text()


def test_a_regression_predicts_in_its_own_units(tmp_path):
    x = np.linspace(-1, 1, 80)
    table = tmp_path / "line.csv"
    table.write_text("x;price\n" + "".join(f"{v};{3000 + 1000 * v}\n" for v in x))
    result = invoke("train", table, "--task", "regression", "--epochs", 60, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "held-out R²" in result.output
    lines = invoke("predict", tmp_path / "model.pt", table).output.splitlines()
    assert lines[0] == "price"
    # a twentieth of the prices' range: what is tested is their units, not how well so short a training fits
    np.testing.assert_allclose(np.array(lines[1:], float), 3000 + 1000 * x, rtol=0, atol=100)


def test_settings_reach_the_run(table, tmp_path):
    given = {
        "hidden": 9, "activation": "gelu", "weight_decay": 0.25, "epochs": 2, "batch_size": 7, "optimizer": "adamw",
        "lr": 0.125, "momentum": 0.5, "decoupled_decay": 0.75, "held_out": 0.5, "seed": 11, "dtype": "float64",
        "device": "cpu", "path": "tiles",
    }  # fmt: skip
    options = [item for name, value in given.items() for item in (f"--{name.replace('_', '-')}", value)]
    result = train(table, tmp_path / "run", *options, "--no-hidden-bias", "--no-output-bias", "--no-compare")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["settings"] == {**given, "hidden_bias": False, "output_bias": False}
    assert "comparison" not in report


BAD = {
    "unknown activation": (["--activation", "swish2"], "train: activation must be one of identity, "),
    "unknown task": (
        ["--task", "ranking"],
        "task must be one of classification, regression, multilabel; got 'ranking'",
    ),
    "negative λ": (["--weight-decay", "-1"], "train: weight_decay must be finite and not negative, got -1.0"),
    "a device that is not there": (["--device", "cuda:99"], "train: device must be one that is there, got 'cuda:99'"),
    "unknown column": (["--label", "colour"], "label must be one of the columns 'id', 'u', 'kind', 'v'"),
    "a second label": (["--label", "v"], "label must be one column for classification, got 2"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(table, tmp_path, options, message):
    result = train(table, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_bad_files_are_said_in_words(table, tmp_path):
    assert "none.csv: No such file" in invoke("train", tmp_path / "none.csv").output
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv: expected rows of numbers, got an empty file" in invoke("train", tmp_path / "empty.csv").output
    result = invoke("predict", table, table)
    assert (result.exit_code, "expected a model file written by training" in result.output) == (2, True)


def test_debug_shows_the_traceback(tmp_path):
    result = invoke("train", tmp_path / "none.csv", "--debug")
    assert isinstance(result.exception, FileNotFoundError)


def test_divergence_is_one_line_and_status_1(table, tmp_path):
    result = train(table, tmp_path / "run", "--lr", "1e30")
    assert result.exit_code == 1
    assert result.output.count("train: J (by hand) became") == 1
    assert not (tmp_path / "run").exists()


def test_more_epochs_go_on_from_the_checkpoint_as_if_never_stopped(table, tmp_path):
    for out, epochs in (("longer", 8), ("straight", 11)):
        assert train(table, tmp_path / out, "--epochs", epochs).exit_code == 0
    result = train(table, tmp_path / "longer", "--epochs", 11, "--resume")
    assert result.exit_code == 0, result.output
    assert "resumed after step " in result.output
    curves = [(tmp_path / out / "curves.csv").read_bytes() for out in ("longer", "straight")]
    assert curves[0] == curves[1]


def test_what_does_not_fit_a_checkpoint_is_one_line_and_status_2(table, tmp_path):
    assert train(table, tmp_path / "run").exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for given, message in (
        (("--lr", 0.1), "lr is 0.05 there, got 0.1"),
        (("--drop", "u"), "train: data must be those of"),
        (("--out", tmp_path / "nowhere"), "train: resume needs a checkpoint, got no"),
    ):
        result = train(table, tmp_path / "run", *given, "--resume")
        assert (result.exit_code, len(result.output.splitlines())) == (2, 1), result.output
        assert message in result.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert not (tmp_path / "nowhere").exists()


def test_every_path_has_its_place_in_the_help():
    words = " ".join(invoke("train", "--help").output.replace("│", " ").split())
    for path in PATHS.values():
        assert f"{path.name} is {path.step_call}" in words


@pytest.mark.parametrize("options", [[], ["--activation", "gelu", "--loss", "mse", "--no-hidden-bias"]])
def test_equations_prints_the_table(options):
    table = equations.table("gelu", "mse", hidden_bias=False) if options else equations.table()
    assert invoke("equations", *options).output == f"{table}\n"
    assert invoke("equations", *options, "--latex").output == f"{table.latex}\n"
    more = equations.second_order("gelu", "mse", hidden_bias=False) if options else equations.second_order()
    assert invoke("equations", *options, "--second-order").output == f"{more}\n"
    assert invoke("equations", *options, "--second-order", "--latex").output == f"{more.latex}\n"


def test_equations_refuses_an_unknown_loss():
    result = invoke("equations", "--loss", "hinge")
    assert (result.exit_code, "loss must be one of cross_entropy" in result.output) == (2, True)


def test_info_names_the_kernels():
    process = run("info")
    assert process.returncode == 0
    facts = dict(line.split(maxsplit=1) for line in process.stdout.splitlines())
    assert facts["kernels"].split()[0] in ("cpu+cuda", "cpu", "python")
    assert facts["torch_manual_bp"] == torch_manual_bp.__version__


def test_ctrl_c_keeps_what_was_learned(tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "digits", "--epochs", "1000000", "--out", str(out)]
    with subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch "):
                break
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
    assert process.returncode == 130
    assert "Interrupted after step " in printed
    assert {path.name for path in out.iterdir()} == FILES
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] is True
    assert 0 < report["steps"] < 43_000_000
    assert len((out / "curves.csv").read_text().splitlines()) == report["steps"] + 1


@pytest.mark.parametrize("missing", ["typer", "rich", "sklearn", "matplotlib"])
def test_a_missing_extra_is_named_with_its_remedy(tmp_path, missing):
    """A module that raises what a missing one raises stands in its place."""
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('gone', name={missing!r})")
    process = run("train", cwd=tmp_path)  # -m puts the current folder first
    assert process.returncode == 1
    assert process.stderr == f'{missing} is missing: pip install "torch_manual_bp[train]"\n'
    assert not (tmp_path / "runs").exists()


def test_a_terminal_without_greek_letters_is_no_error(tmp_path):
    process = run("equations", environment={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert process.returncode == 0
    assert "h = ?(z)" in process.stdout


PLAN = ("plan", "-B", 8192, "-d", 784, "-h", 256, "-q", 10)


def test_a_plan_is_printed():
    result = invoke(*PLAN, "--path", "eager")
    assert result.exit_code == 0
    assert result.stdout.startswith("B, d, h, q = 8192, 784, 256, 10 · relu · float32 · cross_entropy · eager\n")
    assert "at the peak, in bytes: 4 (3 Bh + hq + q) + 8" in result.stdout


def test_a_plan_as_data_and_as_a_picture(tmp_path):
    picture = tmp_path / "plan.png"
    result = invoke(*PLAN, "--optimizer", "adamw", "--tile-rows", 256, "--json", "--picture", picture)
    data = json.loads(result.stdout)
    assert data["total_bytes"] == data["peak_bytes"] + data["given_bytes"]
    assert {tensor["name"] for tensor in data["tensors"]} >= {"w1", "x", "exp_avg of w1", "dw1", "dJ"}
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("budget, status", [("60MB", 0), ("46444732", 0), ("46444731 B", 1), ("40 MiB", 1)])
def test_a_plan_within_a_budget_or_not(budget, status):
    result = invoke(*PLAN, "--activation", "gelu", "--optimizer", "adamw", "--budget", budget)
    assert result.exit_code == status
    assert ("does not fit" in result.stdout) == ("objective.step(x, y, optimizer)" in result.stdout) == bool(status)


@pytest.mark.parametrize(
    "option", [("--budget", "much"), ("--dtype", "int8"), ("--path", "train"), ("--tile-rows", "x")]
)
def test_a_plan_that_cannot_be_made(option):
    result = invoke(*PLAN, *option)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert option[1] in result.stderr


def test_the_plans_of_two_stages():
    result = invoke("plan-stages", *PLAN[1:], "-M", 8, "--schedule", "zero_bubble", "--budget", "1GB")
    assert result.exit_code == 0
    for stage in (0, 1):
        assert f"pipeline (stage {stage} of 2, zero_bubble, 8 microbatches)" in result.stdout
    data = json.loads(invoke("plan-stages", *PLAN[1:], "-M", 8, "--json").stdout)
    assert [{t["name"] for t in stage["tensors"]} & {"w1", "w2"} for stage in data] == [{"w1"}, {"w2"}]
    assert invoke("plan-stages", *PLAN[1:], "-M", 3).exit_code == 2


def test_the_memory_of_each_path_is_shown(tmp_path):
    result = run("profile", "-B", 128, "-d", 20, "-h", 30, "-q", 10, "--out", tmp_path, "--trace")
    assert (result.returncode, result.stderr) == (0, "")
    assert "eager PyTorch" in result.stdout
    assert len(list(tmp_path.glob("trace/*/*.pt.trace.json"))) == 6
    assert {"growth.png", "report.json", "step_planned.png", "step_measured.png"} <= set(os.listdir(tmp_path))
    script = subprocess.run(
        [sys.executable, ROOT / "scripts" / "profile_memory.py", "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert "planned" in script.stdout


DW2 = "def dw2(do, h, w2, weight_decay):\n    return do.T @ h{}\n"
BACKWARD = """
import torch
LAYOUT, VALUES, ACTIVATION, LOSS, WEIGHT_DECAY = "columns", "numpy", "tanh", "mse", 0.1

def backward(x, y, h, o, w1, w2, weight_decay):
    do = 2 * (o - y) / o.size
    dz = (w2.T @ do) * (1 - {} ** 2)
    return {{"dw1": dz @ x.T + weight_decay * w1, "db1": dz.sum(1), "dw2": do @ h.T + weight_decay * w2}}
"""
FUNCTION = """
from torch.autograd import Function

class MLP(Function):
    @staticmethod
    def forward(ctx, x, w1, w2):
        z = x @ w1.T
        ctx.save_for_backward(x, w1, w2, z)
        return z.relu() @ w2.T

    @staticmethod
    def backward(ctx, do):
        x, w1, w2, z = ctx.saved_tensors
        dz = do @ w2 * (z > 0)
        return dz @ w1, dz.T @ x, do.T @ z
"""
NO_BIASES = ("--no-hidden-bias", "--no-output-bias")
DERIVATIONS = {
    "right": (DW2.format(" + weight_decay * w2"), (), 0, "1 right, 0 wrong"),
    "wrong": (DW2.format(""), (), 1, "wrong: missing weight decay"),
    "right for that λ alone": (DW2.format(" + 0.5 * w2"), ("--weight-decay", "0.5"), 0, "λ = 0.5"),
    "lambdas": ("dz = lambda dh, h: dh * (1 - h**2)\nh = 3\n", ("--activation", "tanh"), 0, "right"),
    "the wrong activation": ("dz = lambda dh, h: dh * (1 - h**2)\n", ("--activation", "sigmoid"), 1, "wrong: "),
    "a right backward": (BACKWARD.format("h"), (), 0, "φ = tanh, l = mse, λ = 0.1"),
    "a wrong backward": (BACKWARD.format("o.sum()"), (), 1, "2 right, 1 wrong, 2 only in what follows"),
    "another loss than the file's": (BACKWARD.format("h"), ("--loss", "cross_entropy"), 1, "l = cross_entropy"),
    "a Function": (FUNCTION, NO_BIASES, 1, "wrong: wrong tensor"),
    "a right Function": (FUNCTION.replace("do.T @ z", "do.T @ z.relu()"), NO_BIASES, 0, "dw2 = doᵀ h"),
    "answers that import from beside them": ("from other import *\ndb2 = lambda do: total(do)", (), 0, "right"),
}


@pytest.mark.parametrize(("text", "options", "status", "said"), DERIVATIONS.values(), ids=DERIVATIONS)
def test_a_derivation_in_a_file_is_graded(tmp_path, text, options, status, said):
    (tmp_path / "other.py").write_text("def total(a):\n    return a.sum(0)\n")
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    result = invoke("check", tmp_path / "mine.py", *options)
    assert (result.exit_code, result.stderr) == (status, ""), result.output
    assert said in result.stdout


UNREADABLE = {
    "a syntax error": ("def dw2(do:\n", "mine.py, line 1: "),
    "an error": ("import torch\n\ntorch.nonesuch\n", "mine.py, line 3: AttributeError: module 'torch'"),
    "an exit": ("import sys\nsys.exit(0)\n", "mine.py, line 2: SystemExit: 0"),
    "a null byte": ("\0", "mine.py"),
    "an unknown encoding": ("# coding: nonesuch\n", "mine.py: unknown encoding"),
    "nothing": ("answer = 42\n", "mine.py must define functions named do, dw2, "),
    "an unknown argument": ("dw2 = lambda d_o: d_o\n", "dw2: an argument must be one of x, y, "),
    "two Functions": (FUNCTION + FUNCTION.replace("MLP", "Other"), "must define one autograd.Function, got 2"),
    "an unknown setting": ("LOSS = 'hinge'\ndx = lambda dz: dz\n", "loss must be one of cross_entropy"),
}


@pytest.mark.parametrize(("text", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_derivation_that_cannot_be_read_is_one_line_and_status_2(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    result = invoke("check", tmp_path / "mine.py")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_derivation_that_is_not_there_is_status_2(tmp_path):
    result = invoke("check", tmp_path / "none.py")
    assert (result.exit_code, "none.py: No such file" in result.stderr) == (2, True)


@pytest.mark.parametrize("options", [(), ("--activation", "gelu", "--loss", "mse", "--no-hidden-bias", "--forward")])
def test_an_exercise_is_handed_out_filled_in_and_graded(tmp_path, options):
    file = tmp_path / "exercise.py"
    assert invoke("exercise", *options, "--out", file).exit_code == 0
    assert invoke("exercise", *options).stdout == file.read_text(encoding="utf-8")
    empty = invoke("check", file)
    assert empty.exit_code == 1
    assert "0 right, 0 wrong, " in empty.stdout and " wrong:" not in empty.stdout
    file.write_text(file.read_text(encoding="utf-8").replace("(dz):\n    ...", "(dz):\n    return dz.sum(0)"))
    partly = invoke("check", file)
    assert (partly.exit_code, "exercise 2  db1 = dzᵀ1" in partly.stdout) == (1, not options)


def test_an_exercise_never_overwrites_answers(tmp_path):
    file = tmp_path / "exercise.py"
    file.write_text("answers")
    result = invoke("exercise", "--out", file)
    assert (result.exit_code, file.read_text()) == (2, "answers")
    assert "exercise.py: File exists" in result.stderr


def test_ctrl_c_while_checking_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("import time\nprint('here', flush=True)\nwhile True:\n    time.sleep(0.1)\n")
    arguments = [*COMMAND, "check", str(tmp_path / "mine.py")]
    with subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert (process.returncode, said.count("\n")) == (130, 1)
