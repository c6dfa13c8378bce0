"""The derivation page: complete, true, and not stale; and the tutorial that goes with it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import torch_manual_bp as tmb
from torch_manual_bp.derivation import html, markdown
from torch_manual_bp.derivation import page as derivation_page
from torch_manual_bp.derivation.blocks import Formula, Heading, Rows, Run, Text
from torch_manual_bp.derivation.exercises import EXERCISES, output_of
from torch_manual_bp.derivation.sources import ROOT, lines_of
from torch_manual_bp.equations import ACTIVATIONS, LOSSES, second_order, table

STALE = "it is stale: python -m torch_manual_bp derivation --out docs/derivation"


@pytest.mark.slow
@pytest.mark.skipif(
    tmb.kernels.backend().startswith("python"), reason="the exercises' plans are those of the compiled kernels"
)
def test_the_pages_are_what_is_written_now():
    """All commands of the exercises are run, once for both forms."""
    blocks = list(derivation_page.blocks())
    for suffix, written in (
        (".md", derivation_page._markdown.page(blocks)),
        (".html", derivation_page._html.page(blocks)),
    ):
        assert (ROOT / "docs" / f"derivation{suffix}").read_text(encoding="utf-8") == written, STALE + suffix


def test_every_equation_has_a_line_that_computes_it():
    for equation in table():
        sources = lines_of(equation.symbol)
        assert sources, equation
        for source in sources:
            text = (ROOT / source.path).read_text(encoding="utf-8").splitlines()[source.line - 1]
            assert text.strip().startswith(source.code[:20])
    assert lines_of("nothing") == ()


def test_a_hessian_product_has_the_lines_that_compute_it():
    for symbol, written in (("tz", "Ż ="), ("th", "Ḣ ="), ("to", "Ȯ ="), ("tdh", "Ḋ ="), ("tdz", "E ="),
                            ("tdw1", "dẆ1 ="), ("tdb1", "dḃ1 ="), ("tdw2", "dẆ2 ="), ("tdb2", "dḃ2 =")):  # fmt: skip
        sources = lines_of(symbol)
        assert sources, symbol
        for source in sources:
            line = (ROOT / source.path).read_text(encoding="utf-8").splitlines()[source.line - 1]
            assert f"# {written}" in line and line.strip().startswith(source.code[:20])


def test_the_page_has_every_equation_activation_loss_and_exercise():
    page = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")
    for equation in (*table(hidden_bias=False, output_bias=False), *table()):
        assert equation.latex in page and equation.text in page
    for phi in ACTIVATIONS.values():
        assert f"| {phi.name} | " in page
        assert phi.latex[1].replace("|", r"\|") in page
    for loss in LOSSES:
        assert table("relu", loss)["do"].latex in page
        assert all(equation.latex in page for equation in second_order("relu", loss))
    assert all(equation.text in page for equation in second_order())
    assert len(re.findall(r"^### \d\. ", page, re.MULTILINE)) == len(EXERCISES) == 5


def test_the_html_is_well_formed_and_needs_nothing_else():
    page = (ROOT / "docs" / "derivation.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script|(?:src)=|https?://(?!www\.w3\.org)", page)
    body = re.search(r"<body>(.*)</body>", page, re.DOTALL)[1]
    ElementTree.fromstring(f"<div>{body}</div>")


@pytest.mark.parametrize("written", [html, markdown])
def test_each_block_is_written(monkeypatch, written):
    blocks = [Heading(1, "A & B"), Text("`x < 1` and *this*"), Formula(r"\frac{a}{b}"),
              Rows(("one",), ((Formula("a"),), ("`a | b`",))), Run("python -c '1 < 2'", "3 < 4\n")]  # fmt: skip
    monkeypatch.setattr(derivation_page, "blocks", lambda: iter(blocks))
    page = written()
    for part in (("A &amp; B", "x &lt; 1", "3 &lt; 4", "<mfrac>") if written is html else
                 ("# A & B", "`x < 1`", "3 < 4", r"$$ \frac{a}{b} $$", r"a \| b")):  # fmt: skip
        assert part in page


def test_a_command_that_fails_is_no_output():
    assert output_of("python -c 'print(1)'") == "1\n"
    with pytest.raises(RuntimeError, match="exit status 2"):
        output_of("python -m torch_manual_bp graph --activation none")


def test_the_tutorial_runs(tmp_path):
    script = ROOT / "docs" / "tutorial.py"
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "wrong: φ′" in run.stdout
    assert "by hand" in run.stdout
    assert (Path(tmp_path) / "graph.html").stat().st_size > 10_000
