"""The picture in a real browser, the one in the README, and what a wrong equation looks like."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp.equations import table
from torch_manual_bp.graph import draw

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def drawings():
    """Ways in which a picture can be full."""
    mlp = tmb.MLP(784, 256, 10, "gelu")
    values = {"x": torch.randn(16, 784), "y": torch.randint(10, (16,))}
    yield "the chapter's", draw(table("relu", "cross_entropy", False, False))
    yield "biases", draw(table())
    yield "mse", draw(table("tanh", "mse"))
    yield "bce", draw(table("silu", "bce_with_logits", False, True))
    yield "numbers", draw(mlp, batch=1024)
    yield "tangent", draw(mlp, batch=1024, tangent=True)
    yield "values", draw(mlp, batch=16, values=values, wrong=["dw2"])
    yield "all of it", draw(tmb.Objective(mlp, weight_decay=0.1), batch=16, tangent=True, values=values)


DRAWINGS = dict(drawings())


def test_a_wrong_equation_is_red_and_alone():
    mlp = tmb.MLP(5, 6, 3, "tanh").double()
    values = {"x": torch.randn(4, 5).double(), "y": torch.randint(3, (4,))}
    right = draw(mlp, values=values).graph
    assert not any(facts.wrong for facts in right.facts.values())
    assert all(facts.error < 1e-12 for facts in right.facts.values() if facts.error is not None)
    mine = torch.zeros(3, 6).double()
    wrong = draw(mlp, values={**values, "dw2": mine})
    assert {name for name, facts in wrong.graph.facts.items() if facts.wrong} == {"dw2"}
    assert wrong.graph.about("dw2").error == pytest.approx(1.0)
    assert 'class="edge backward wrong" id="tmb-backward-o-1-w2"' in wrong.svg
    assert "wrong" not in re.sub(r"<style>.*?</style>|<defs>.*?</defs>", "", draw(mlp).svg, flags=re.DOTALL)


def test_the_picture_in_the_readme_is_what_is_drawn():
    mlp = tmb.MLP(784, 256, 10, "relu", device="meta")
    drawn = draw(tmb.Objective(mlp, "cross_entropy", 1e-4), 128).svg
    command = "python -m torch_manual_bp graph -B 128 -d 784 -h 256 -q 10 --out docs/graph.svg"
    assert (ROOT / "docs" / "graph.svg").read_text(encoding="utf-8") == drawn, command


LOOK = """
<script>
const boxes = [...document.querySelectorAll("svg.tmb .label, svg.tmb .node, svg.tmb > text")].map(
  (part) => ({ of: part.dataset.of || part.dataset.node || "header", kind: part.getAttribute("class"),
               box: part.getBoundingClientRect() }));
const over = [];
for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
  const a = boxes[i].box, b = boxes[j].box, slack = 1.5;
  if (a.left < b.right - slack && b.left < a.right - slack && a.top < b.bottom - slack && b.top < a.bottom - slack
      && !(boxes[i].of === "header" && boxes[j].of === "header")) over.push([boxes[i].of, boxes[j].of]);
}
const svg = document.querySelector("svg.tmb").getBoundingClientRect();
const outside = boxes.filter(({ box }) => box.left < svg.left - 1 || box.right > svg.right + 1).map(({ of }) => of);
document.body.dataset.found = JSON.stringify({ parts: boxes.length, over, outside, width: svg.width,
  paper: getComputedStyle(document.querySelector("svg.tmb .paper")).fill });
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH")
@pytest.mark.parametrize("name", ["the chapter's", "all of it", "tangent"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_real_browser(tmp_path, name, scheme):
    """Its own fonts, at 800 pixels: nothing over anything else, nothing cut off, and the reader's colours."""
    drawing = DRAWINGS[name]
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{drawing.svg}{LOOK}</body>')
    dark = (
        ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else ["--blink-settings=preferredColorScheme=1"]
    )
    command = [CHROMIUM, *FLAGS, *dark, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,1000"]
    shown = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', shown)[1]))
    assert found["parts"] > len(drawing.graph.nodes)
    assert (found["over"], found["outside"], found["width"]) == ([], [], 800)
    assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], capture_output=True, timeout=120, check=True)
    assert picture.stat().st_size > 20_000
