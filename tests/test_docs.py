"""The examples in the documentation run, and what it quotes is what is printed."""

import doctest
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import torch_manual_bp
from torch_manual_bp.cli import app
from torch_manual_bp.equations import ACTIVATIONS, LOSSES, check, second_order, table
from torch_manual_bp.memory.plan import planned
from torch_manual_bp.memory.profile import compared

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=lambda b: b.splitlines()[3][:30]
)
def test_python_blocks_of_the_readme_run(block):
    names = {}
    exec(compile(block, "README.md", "exec"), names)  # the asserts in a block are assertions of this test
    J = names.get("J", names.get("everything", {}).get("J"))
    assert J is None or J.isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_captured_step_of_the_documentation_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "cuda.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(block, "cuda.md", "exec"), names)
    assert names["J"].isfinite()


needs_compiled = pytest.mark.skipif(
    torch_manual_bp.kernels.backend().startswith("python"), reason="a plan is that of the compiled kernels"
)
MEMORY = (ROOT / "docs" / "memory.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", MEMORY, re.DOTALL), ids=("plan", "measure"))
@needs_compiled
def test_python_blocks_about_memory_run(block, capsys):
    exec(compile(block, "memory.md", "exec"), {})
    for formula in re.findall(r"print\(plan.formula\) +# (.*)", block):
        assert formula in capsys.readouterr().out


@needs_compiled
def test_quoted_plans_are_what_is_printed():
    mlp = torch_manual_bp.MLP(784, 256, 10, device="meta")
    assert str(torch_manual_bp.memory.plan(mlp, 8192, path="predict")) in MEMORY
    rows = re.findall(r"^ (.+?) +([\d,]{9,}) +\2 +(4 .*)$", MEMORY, re.MULTILINE)
    assert len(rows) == 6
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # each has a block of rows of its own
    try:
        plans = {way: planned(s) for way, s in compared(torch_manual_bp.memory.plan(mlp, 1024).setting).items()}
    finally:
        torch.set_num_threads(threads)
    assert rows == [(way, f"{plan.call_bytes:,}", plan.formula) for way, plan in plans.items()]


CURVATURE = (ROOT / "docs" / "curvature.md").read_text()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", CURVATURE, re.DOTALL), ids=("eigenvalues", "density", "newton")
)
def test_python_blocks_about_curvature_run(block):
    if "scipy" in block:
        pytest.importorskip("scipy")
    exec(compile(block, "curvature.md", "exec"), {})


def test_every_command_about_curvature_is_one_of_the_program_s():
    """Its options are there, and its pictures are those that the page shows."""
    commands = re.findall(r"^\$ python -m torch_manual_bp (\w+) (.*?)(?: #.*)?$", CURVATURE, re.MULTILINE)
    assert len(commands) == 6
    for command, arguments in commands:
        told = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).output.split())
        assert all(option in told for option in re.findall(r"(?<= )--?[a-zA-Z-]+", f" {arguments}"))
    for picture in re.findall(r"!\[.*\]\((.*?)\)", CURVATURE):
        assert (ROOT / "docs" / picture).exists()


def test_quoted_table_is_what_is_printed():
    assert str(table("tanh", "cross_entropy")) in README


def test_quoted_equations_of_second_order_are_the_tables():
    (quoted,) = re.findall(r"```\n(t.*?)```", README, re.DOTALL)
    assert {*quoted.splitlines()} <= {equation.text for equation in second_order("tanh")}


def test_quoted_report_is_what_is_printed():
    mine = {"dw2": lambda do, h: do.T @ h, "dz": lambda dh, h: dh * (1 - h * h), "db1": lambda dz: dz.mean(0)}
    assert str(check(mine, activation="tanh", weight_decay=0.3)) in README


def test_supported_activations_and_losses_are_all_listed():
    row = {line.split("|")[1].strip(): line.split("|")[2] for line in README.splitlines() if line.count("|") == 3}
    assert [name.strip() for name in row["activations"].split(",")] == list(ACTIVATIONS)
    assert all(loss in row["losses"] for loss in LOSSES)


def test_docstring_example_runs():
    assert doctest.testmod(torch_manual_bp).failed == 0


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(f"docs/{n}.md" for n in ("cuda", "curvature", "memory", "pipeline")),
    ],
)
def test_files_that_the_documents_name_exist(name):
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"(?:scripts|tests|docs|csrc)/[\w./]+\.(?:py|sh|md|html|h|cpp|json|png|svg)", text))
    paths |= {
        f"torch_manual_bp/{path}" for path in re.findall(r"(?<![\w/])(?:equations|kernels|autograd)/\w+\.py", text)
    }
    paths -= {"csrc/cpu/X.cpp", "csrc/cuda/X.cu"}  # X stands for any op
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_no_document_holds_the_marks_of_a_merge():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert [path for path in documents if re.search("^(<{7}|>{7}) ", path.read_text(), re.MULTILINE)] == []
