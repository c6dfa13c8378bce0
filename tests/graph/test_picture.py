"""The picture: where things are, by geometry; and in a real browser."""

import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp.equations import table
from torch_manual_bp.graph import draw
from torch_manual_bp.graph.geometry import around
from torch_manual_bp.graph.scene import WIDTH, half_of, scene_of

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


@pytest.fixture(params=DRAWINGS)
def drawing(request):
    return DRAWINGS[request.param]


def test_no_label_lies_over_anything(drawing):
    scene = scene_of(drawing.graph)
    assert scene.complete, "every label has a place"
    for a, b in itertools.combinations(scene.labels, 2):
        assert not a.box.overlaps(b.box), (a.block.node, b.block.node)
    for label in scene.labels:
        for node in scene.graph.nodes:
            assert not label.box.overlaps(scene.box(node)), (label.block.node, node.id)
        assert label.box.left >= 0 and label.box.right <= WIDTH


def test_the_flow_is_right_and_up_from_x_to_J(drawing):
    scene = scene_of(drawing.graph)
    for edge in drawing.graph.of_pass("forward"):
        source, target = scene.centres[edge.source], scene.centres[edge.target]
        assert source.x <= target.x and source.y >= target.y, edge
    points = scene.centres.values()
    assert scene.centres["x"].x == min(p.x for p in points)
    assert scene.centres["J"] == (max(p.x for p in points), min(p.y for p in points))


def test_arrows_end_at_borders(drawing):
    scene = scene_of(drawing.graph)
    for edge, way in scene.arrows:
        for point, id in ((way[0], edge.source), (way[-1], edge.target)):
            node, centre = scene.graph.node(id), scene.centres[id]
            if node.kind == "operator":
                away = ((point.x - centre.x) ** 2 + (point.y - centre.y) ** 2) ** 0.5
                assert away == pytest.approx(half_of(node), abs=0.01)
            else:
                assert around(centre, half_of(node)).distance(point) == pytest.approx(0, abs=0.01)
                assert around(centre, half_of(node) - 0.01).distance(point) > 0
        assert all(a.x == b.x or a.y == b.y for a, b in itertools.pairwise(way))


def test_svg_is_well_formed_and_large_enough_to_read(drawing):
    root = ElementTree.fromstring(drawing.svg)
    space = "{http://www.w3.org/2000/svg}"
    assert (root.get("role"), root.get("width")) == ("img", "800")
    assert root.get("aria-label").startswith("Computational graph: one hidden layer")
    sizes = [float(text.get("font-size")) for text in root.iter(f"{space}text")]
    assert sizes and min(sizes) >= 11
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for node in drawing.graph.nodes:
        (group,) = (g for g in root.iter(f"{space}g") if g.get("data-node") == node.id)
        assert group.find(f"{space}title").text
    assert "prefers-color-scheme:dark" in drawing.svg
    assert not re.findall(r"https?://(?!www\.w3\.org)", drawing.svg)


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
    drawn = draw(tmb.MLP(784, 256, 10, "relu", device="meta"), 128).svg
    assert (ROOT / "docs" / "graph.svg").read_text() == drawn, (
        "python -m torch_manual_bp graph --sizes … --out docs/graph.svg"
    )


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
