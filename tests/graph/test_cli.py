"""``python -m torch_manual_bp graph``."""

import pytest
from typer.testing import CliRunner

import torch_manual_bp as tmb
from torch_manual_bp.cli import app
from torch_manual_bp.equations import table

SIZES = ("-B", "128", "-d", "784", "-h", "256", "-q", "10")


def invoke(*arguments):
    return CliRunner().invoke(app, ["graph", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("options", "drawing"),
    [
        ((), lambda: tmb.graph.draw(table())),
        (
            ("--activation", "gelu", "--loss", "mse", "--no-hidden-bias", "--no-output-bias", "--tangent"),
            lambda: tmb.graph.draw(table("gelu", "mse", False, False), tangent=True),
        ),
        (("--no-backward", "--no-output-bias"), lambda: tmb.graph.draw(table(output_bias=False), backward=False)),
    ],
    ids=["nothing", "everything", "no backward pass"],
)
def test_letters_as_text(options, drawing):
    result = invoke(*options)
    assert (result.exit_code, result.output) == (0, drawing().text)


def test_numbers_to_a_file(tmp_path):
    file = tmp_path / "graph.svg"
    result = invoke(*SIZES, "--weight-decay", 0.5, "--out", file)
    assert (result.exit_code, result.output) == (0, f"wrote {file}\n")
    mlp = tmb.MLP(784, 256, 10, device="meta")
    assert file.read_text(encoding="utf-8") == tmb.graph.draw(tmb.Objective(mlp, weight_decay=0.5), 128).svg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SIZES[:4], "graph: batch, inputs, hidden, outputs must be given together or not at all"),
        (("--loss", "hinge"), "loss must be one of cross_entropy"),
        (("--out", "graph.pdf"), "save: path must end in .svg"),
    ],
    ids=["half the sizes", "unknown loss", "unknown form"],
)
def test_bad_input_is_one_line_and_status_2(options, message):
    result = invoke(*options)
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert message in result.output
