"""`python -m torch_manual_bp curvature`: its numbers against an oracle of torch's own, and how it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import torch_manual_bp as tmb
from torch_manual_bp.cli import app
from torch_manual_bp.fit import load_model, torch_file

ROOT = Path(tmb.__file__).parents[1]
COMMAND = [sys.executable, "-m", "torch_manual_bp", "curvature"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FILES = {"spectrum.png", "spectrum.csv", "curvature.json"}


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


SMALL = ("-B", 30, "-d", 5, "-h", 6, "-q", 4, "--activation", "gelu", "--weight-decay", 0.1, "-k", 3)


def oracle(mlp, x, y, loss, weight_decay):
    """J, its gradient, Hessian and Gauss–Newton matrix, by torch.func alone."""
    shapes = [p.shape for p in mlp.parameters()]
    theta = torch.nn.utils.parameters_to_vector(mlp.parameters()).detach()
    phi = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}[mlp.activation]

    def outputs(theta):
        w1, b1, w2, b2 = (p.view(s) for p, s in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True))
        return F.linear(phi(F.linear(x, w1, b1)), w2, b2)

    def J(theta):
        w1, _, w2, _ = theta.split([s.numel() for s in shapes])
        return loss(outputs(theta), y) + weight_decay / 2 * (w1.square().sum() + w2.square().sum())

    o, jacobian = outputs(theta).detach(), torch.func.jacrev(outputs)(theta)
    S = torch.func.hessian(loss)(o, y)
    decay = torch.cat([theta.new_full((s.numel(),), weight_decay * (len(s) == 2)) for s in shapes])
    G = torch.einsum("bkn,bkcl,clm->nm", jacobian, S, jacobian) + decay.diag()
    return J(theta), torch.func.grad(J)(theta), torch.func.hessian(J)(theta), G


def assert_reported(report, out, J, gradient, H, G):
    assert report == json.loads((out / "curvature.json").read_text())
    assert report["J"] == pytest.approx(float(J), rel=1e-12)
    assert report["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-9)
    with (out / "spectrum.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, A in (("hessian", H), ("ggn", G)):
        found, values = report[name], torch.linalg.eigvalsh(A)
        size = values.abs()
        assert found["trace"] == pytest.approx(float(A.trace()), rel=1e-9)
        largest = values[size.argsort(descending=True)][: len(found["largest"])]
        assert found["largest"] == pytest.approx(largest.tolist(), rel=1e-9)
        assert found["smallest"] == pytest.approx(float(values[0]), abs=1e-12)
        assert found["negative"] == {"count": int((values < -1e-12).sum()), "at_least": False}
        above = size[size > 1e-12]
        assert found["null"] == {"count": len(size) - len(above), "at_least": False}
        assert found["condition"] == pytest.approx(float(above.max() / above.min()), rel=1e-5)
        written = [float(row["eigenvalue"]) for row in rows if row["matrix"] == name]
        assert written == pytest.approx(values.tolist(), abs=1e-12)
        smallest = min(entries["smallest"] for entries in found["diagonal"].values())
        assert smallest == pytest.approx(float(A.diagonal().min()), abs=1e-12)
    assert (out / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_a_random_net_against_the_oracle(tmp_path):
    result = invoke("curvature", *SMALL, "--seed", 3, "--json", "--out", tmp_path / "c")
    assert (result.exit_code, result.stderr) == (0, "")
    torch.manual_seed(3)
    mlp = tmb.MLP(5, 6, 4, "gelu", dtype=torch.float64)
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randint(4, (30,))
    report = json.loads(result.stdout)
    assert (report["n"], report["rows"], report["net"]["activation"]) == (64, 30, "gelu")
    assert_reported(report, tmp_path / "c", *oracle(mlp, x, y, F.cross_entropy, 0.1))


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """A CSV file of two clouds, and a net trained on it; the label stands between the features."""
    folder = tmp_path_factory.mktemp("clouds")
    generator = np.random.default_rng(0)
    path = folder / "clouds.csv"
    lines = [f"{generator.normal() + 6 * (i % 2)},{('spam', 'ham')[i % 2]},{generator.normal()}" for i in range(40)]
    path.write_text("\n".join(["u,kind,v", *lines]))
    options = ("--hidden", 5, "--activation", "tanh", "--weight-decay", 0.02, "--epochs", 3, "--no-compare")
    assert invoke("train", path, "--label", "kind", *options, "--out", folder / "run").exit_code == 0
    return path, folder / "run" / "model.pt"


def test_a_trained_net_on_its_data_against_the_oracle(clouds, tmp_path):
    path, model = clouds
    result = invoke("curvature", model, path, "--label", "kind", "--json", "--out", tmp_path / "c")
    assert (result.exit_code, result.stderr) == (0, "")
    trained = load_model(model)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    raw = np.array([[float(row["u"]), float(row["v"])] for row in rows])
    x = torch.from_numpy((raw - trained.x_scale.mean) / trained.x_scale.spread)
    y = torch.tensor([("ham", "spam").index(row["kind"]) for row in rows])
    report = json.loads(result.stdout)
    assert (report["weight_decay"], report["loss"], report["rows"]) == (0.02, "cross_entropy", 40)
    everything = oracle(trained.mlp.double(), x, y, F.cross_entropy, 0.02)
    assert_reported(report, tmp_path / "c", *everything)


def test_a_regression_has_scaled_targets_and_λ_can_be_another(tmp_path):
    x = np.linspace(-1, 1, 30)
    table = tmp_path / "line.csv"
    table.write_text("x;price\n" + "".join(f"{v};{3000 + 1000 * v**3}\n" for v in x))
    options = ("--task", "regression", "--hidden", 3, "--activation", "tanh", "--epochs", 2, "--no-compare")
    assert invoke("train", table, *options, "--out", tmp_path).exit_code == 0
    given = ("--weight-decay", 0.5, "-k", 2, "--json", "--out", tmp_path / "c")
    report = json.loads(invoke("curvature", tmp_path / "model.pt", table, *given).stdout)
    trained = load_model(tmp_path / "model.pt")
    features = torch.from_numpy((x[:, None] - trained.x_scale.mean) / trained.x_scale.spread)
    targets = torch.from_numpy((3000 + 1000 * x[:, None] ** 3 - trained.y_scale.mean) / trained.y_scale.spread)
    assert_reported(report, tmp_path / "c", *oracle(trained.mlp.double(), features, targets, F.mse_loss, 0.5))


def test_the_tables_show_the_report(tmp_path):
    result = invoke("curvature", *SMALL, "--out", tmp_path / "c")
    report = json.loads((tmp_path / "c" / "curvature.json").read_text())
    assert f"J = {report['J']:.6g}" in result.stdout
    for name in ("hessian", "ggn"):
        assert f"{report[name]['condition']:.4g}" in result.stdout
        assert all(f"{value:.6g}" in result.stdout for value in report[name]["largest"])
        assert f"{report[name]['diagonal']['fc2.weight']['median']:.3e}" in result.stdout
    assert "adding" not in result.stdout and "added to all of b2: that direction is null" in result.stdout
    assert "rows of W2" not in result.stdout  # λ is not 0
    assert {path.name for path in (tmp_path / "c").iterdir()} == FILES


@pytest.mark.parametrize("tile_rows", [(), ("--tile-rows", 7)], ids=["whole", "tiles"])
def test_where_not_all_is_computed_it_says_so(tmp_path, tile_rows):
    exact = json.loads(invoke("curvature", *SMALL, "--json", "--out", tmp_path / "a").stdout)
    given = (*SMALL, "--exact-up-to", 20, *tile_rows, "--out", tmp_path / "b")
    result = invoke("curvature", *given)
    report = json.loads((tmp_path / "b" / "curvature.json").read_text())
    for words in ("≥ ", "not known", "Too many parameters for all eigenvalues", "trace of the estimate"):
        assert words in result.stdout
    assert report["hessian"]["condition"] is None and report["ggn"]["condition"] is None
    assert report["hessian"]["null"] is None and report["ggn"]["null"] == {"count": 1, "at_least": True}
    assert report["hessian"]["largest"] == pytest.approx(exact["hessian"]["largest"], rel=1e-5)
    assert report["hessian"]["negative"]["at_least"] is True
    assert report["ggn"]["trace"] == pytest.approx(exact["ggn"]["trace"], rel=1e-12)
    with (tmp_path / "b" / "spectrum.csv").open() as file:
        counts = [float(row["count"]) for row in csv.DictReader(file) if row["matrix"] == "ggn"]
    assert sum(counts) == pytest.approx(report["n"], rel=1e-12)


@pytest.mark.parametrize("exact_up_to", [4096, 0])
def test_a_net_of_few_parameters_has_all_of_its_eigenvalues(tmp_path, exact_up_to):
    sizes = ("-B", 9, "-d", 1, "-h", 1, "-q", 1, "--no-output-bias", "--loss", "mse", "--activation", "tanh")
    result = invoke("curvature", *sizes, "--exact-up-to", exact_up_to, "--json", "--out", tmp_path / "c")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["n"] == 3 and len(report["hessian"]["largest"]) == 3


def test_one_matrix_in_single_precision(tmp_path):
    given = ("--matrix", "ggn", "--dtype", "float32", "--json", "--out", tmp_path / "c")
    report = json.loads(invoke("curvature", *SMALL, *given).stdout)
    assert report["dtype"] == "float32" and "hessian" not in report
    assert report["ggn"]["rounding"] == pytest.approx(64 * 2**-23 * report["ggn"]["largest"][0])


BAD = {
    "no such file": (["none.pt"], "none.pt: No such file"),
    "no model": (["TABLE"], "expected a model file written by training, got something else"),
    "other data": (["MODEL"], "digits: the model's features must be 'pixel_0_0', "),
    "an unknown class": (["MODEL", "OTHER", "--label", "kind"], "one of the model's classes 'ham', 'spam'; got 'eggs'"),
    "a feature as label": (["MODEL", "TABLE"], "a column for each feature of the model beside the label, got none for"),
    "sizes beside a model": (
        ["MODEL", "TABLE", "-h", 8],
        "curvature: a model has its own sizes, φ and loss; got hidden",
    ),
    "a file's options without a model": (
        ["--label", "kind", "--delimiter", ";", "--no-header"],
        "curvature: without a model no data are read; got label, delimiter, header",
    ),
    "no device": ([*SMALL, "--device", "cuda:99"], "curvature: device must be one that is there, got 'cuda:99'"),
    "matrix": (["--matrix", "fisher"], "curvature: matrix must be one of both, hessian, ggn; got 'fisher'"),
    "dtype": (["--dtype", "float16"], "curvature: dtype must be one of float32, float64; got 'float16'"),
    "loss": (["--loss", "hinge"], "loss must be one of"),
    "too many eigenvalues": ([*SMALL[:-1], 65], "curvature: -k must be between 1 and n = 64, got 65"),
    "no eigenvalues": ([*SMALL[:-1], 0], "curvature: -k must be between 1 and n = 64, got 0"),
    "no rows": (["-B", 0], "curvature: batch must be at least 1, got 0"),
    "no inputs": (["-d", 0], "curvature: inputs must be at least 1, got 0"),
    "no hidden units": (["-h", 0], "curvature: hidden must be at least 1, got 0"),
    "no outputs": (["-q", -1], "curvature: outputs must be at least 1, got -1"),
    "tiles": (["--tile-rows", 0], "tile_rows"),
    "an infinite J": (["--weight-decay", 1e308], "curvature: J must be finite, got inf"),
    "an infinite gradient": (["--weight-decay", 1e200], "curvature: ‖∂J/∂θ‖ must be finite, got inf"),
    "negative λ": (["--weight-decay", -1], "weight_decay"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_status_2_and_writes_nothing(clouds, tmp_path, arguments, message):
    table, model = clouds
    other = tmp_path / "other.csv"
    other.write_text("u,v,kind\n1,2,ham\n3,4,eggs\n")
    known = {"TABLE": table, "MODEL": model, "OTHER": other}
    result = invoke("curvature", *(known.get(a, a) for a in arguments), "--out", tmp_path / "c")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_model_file_without_its_λ_is_asked_for_it(clouds, tmp_path):
    table, model = clouds
    content = torch_file.read(model, "a model file")
    del content["weight_decay"]
    old = tmp_path / "old.pt"
    old.write_bytes(torch_file.to_bytes(content))
    given = ("curvature", old, table, "--label", "kind", "--json", "--out", tmp_path / "c")
    result = invoke(*given)
    assert (result.exit_code, "does not say its weight_decay (λ): give --weight-decay" in result.stderr) == (2, True)
    assert json.loads(invoke(*given, "--weight-decay", 0).stdout)["weight_decay"] == 0


def test_debug_shows_the_traceback(tmp_path):
    assert isinstance(invoke("curvature", tmp_path / "none.pt", "--debug").exception, FileNotFoundError)


def test_too_little_memory_is_said_in_words(tmp_path, monkeypatch):
    def dense(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tmb.curvature.Curvature, "dense", dense)
    result = invoke("curvature", *SMALL, "--out", tmp_path / "c")
    assert (result.exit_code, "not enough memory; give --tile-rows, or fewer of them," in result.stderr) == (2, True)


@pytest.mark.parametrize("exact_up_to", [4096, 0])
def test_eigenvalues_that_are_not_found_are_one_line(tmp_path, monkeypatch, exact_up_to):
    def fails(*_):
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    result = invoke("curvature", *SMALL, "--exact-up-to", exact_up_to, "--out", tmp_path / "c")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "curvature: eigenvalues cannot be computed: linalg.eigh: The algorithm failed" in result.stderr
    assert not (tmp_path / "c").exists()


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    out = tmp_path / "c"
    command = [*COMMAND, "-B", "2000", "-d", "300", "-h", "400", "--out", str(out)]  # a minute or more
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not out.exists() and time.monotonic() < until:  # made before anything is computed
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, b"")
    assert said.decode() == "Interrupted; no results were written.\n"
    assert not out.exists()


@pytest.mark.parametrize("missing", ["typer", "matplotlib"])
def test_a_missing_extra_is_named_with_its_remedy(tmp_path, missing):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('gone', name={missing!r})")
    process = subprocess.run(
        COMMAND, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )  # -m puts the current folder first
    assert process.returncode == 1
    assert process.stderr == f'{missing} is missing: pip install "torch_manual_bp[curvature]"\n'
    assert not (tmp_path / "runs").exists()
