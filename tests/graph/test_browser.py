"""The picture in a real browser: no two labels over each other as they are set there, light and dark, offline."""

import json
import shutil
import struct
import subprocess
import zlib

import pytest
import torch

import torch_manual_bp as tmb
from graph.cases import problem
from torch_manual_bp.equations import table

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
MEASURE = """
<pre id="measured"></pre><script>
const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const of = (selector) => [...document.querySelectorAll(selector)].map((e) => ({
  name: e.dataset.of || e.dataset.node || e.textContent, box: box(e) }));
const svg = document.querySelector("svg.tmb");
const nodes = [...document.querySelectorAll(".node[data-node]")].map((e) => ({
  name: e.dataset.node, box: box(e.querySelector("rect,circle")), text: box(e.querySelector("text")) }));
document.getElementById("measured").textContent = JSON.stringify({
  width: svg.getBoundingClientRect().width, labels: of(".label"), nodes, titles: of("text.title, svg > text.shape"),
  sizes: [...document.querySelectorAll("svg text")].map((e) => parseFloat(getComputedStyle(e).fontSize)),
  math: [...document.querySelectorAll("math")].map((e) => e.getBoundingClientRect().height).slice(-8),
  requests: performance.getEntriesByType("resource").length });
</script>
"""


def run(tmp_path, page, *flags):
    """The browser's output for a page."""
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=800,1000",
        *flags,
        file.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def measured(tmp_path, drawing, form="svg"):
    """Extents of everything, in pixels, as the browser has set it."""
    page = (
        drawing.html.replace("</body>", f"{MEASURE}</body>")
        if form == "html"
        else (f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">{drawing.svg}{MEASURE}</body>')
    )
    dom = run(tmp_path, page, "--dump-dom")
    text = dom.split('<pre id="measured">')[1].split("</pre>")[0]
    return json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def over(one, other, slack=0.5):
    (a, b, c, d), (e, f, g, h) = one, other
    return a + slack < g and e + slack < c and b + slack < h and f + slack < d


def trained():
    mlp = tmb.MLP(5, 6, 4, "gelu_tanh")
    values = {name: problem("bce_with_logits")[name] for name in ("x", "y")}
    return tmb.graph.draw(tmb.Objective(mlp, "bce_with_logits", 0.1), 7, tangent=True, values=values, wrong=("dw2",))


DRAWINGS = {
    "with biases": lambda: tmb.graph.draw(table("tanh")),
    "without": lambda: tmb.graph.draw(table("relu", "mse", False, False)),
    "tangent": lambda: tmb.graph.draw(table("gelu"), tangent=True),
    "numbers": lambda: tmb.graph.draw(tmb.MLP(784, 256, 10, device="meta"), 128),
    "a run": trained,
}


@pytest.mark.parametrize("make", DRAWINGS.values(), ids=DRAWINGS)
def test_nothing_is_over_anything_as_the_browser_sets_it(tmp_path, make):
    drawing = make()
    page = measured(tmp_path, drawing)
    assert page["width"] == 800 and min(page["sizes"]) >= 8 and page["requests"] == 0
    assert len(page["nodes"]) == len(drawing.graph.nodes) and len(page["labels"]) > 5
    things = [*page["labels"], *page["nodes"], *page["titles"]]
    clashes = [
        (one["name"], other["name"])
        for at, one in enumerate(things) for other in things[at + 1 :] if over(one["box"], other["box"])
    ]  # fmt: skip
    assert clashes == []
    for node in page["nodes"]:
        left, _, right, _ = node["box"]
        assert left <= node["text"][0] and node["text"][2] <= right, f"{node['name']} is wider than its square"
    assert all(label["box"][0] >= 0 and label["box"][2] <= 800 for label in page["labels"])


def test_labels_are_as_wide_as_they_were_planned_to_be(tmp_path):
    from torch_manual_bp.graph.scene import scene_of

    drawing = tmb.graph.draw(table("tanh"))
    planned = {label.block.node: label.box for label in scene_of(drawing.graph).labels}
    for label in measured(tmp_path, drawing)["labels"]:
        left, _, right, _ = label["box"]
        box = planned[label["name"]]
        assert left == pytest.approx(box.left, abs=1.5) and right == pytest.approx(box.right, abs=1.5), label["name"]


def test_the_page_sets_its_formulas_and_loads_nothing(tmp_path):
    page = measured(tmp_path, tmb.graph.draw(table("tanh")), "html")
    assert page["requests"] == 0
    assert all(height > 10 for height in page["math"])


def test_pointing_at_a_node_shows_its_equation(tmp_path):
    point = """<script>
document.querySelector('[data-node="z"]').dispatchEvent(new Event("mouseenter"));
document.title = [...document.querySelectorAll("#panel .of")].filter((e) => getComputedStyle(e).display != "none")
  .map((e) => e.dataset.of + ":" + e.querySelectorAll("math").length).join(",");
</script></body>"""
    dom = run(tmp_path, tmb.graph.draw(table("tanh")).html.replace("</body>", point), "--dump-dom")
    assert "<title>z:3</title>" in dom  # the symbol, z = …, ∂J/∂z = …


def pixels(file):
    """The rows of a PNG with 8 bits a channel, as a tensor (height, width, channels)."""
    data = file.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    body, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            body += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = torch.frombuffer(bytearray(zlib.decompress(body)), dtype=torch.uint8).reshape(height, 1 + width * channels)
    rows, before = [], [0] * (width * channels)
    for line in raw.tolist():
        how, *row = line
        for i in range(len(row)):
            left, up = (row[i - channels] if i >= channels else 0), before[i]
            corner = before[i - channels] if i >= channels else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda value: abs(guess - value))
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[how]) % 256
        rows.append(row)
        before = row
    return torch.tensor(rows, dtype=torch.uint8).reshape(height, width, channels)[..., :3]


@pytest.mark.parametrize(("scheme", "paper", "ink"), [(1, 255, 31), (0, 13, 230)], ids=["light", "dark"])
def test_a_screenshot_has_paper_ink_and_the_colours_of_the_passes(tmp_path, scheme, paper, ink):
    shot = tmp_path / "shot.png"
    picture = tmb.graph.draw(table(), tangent=True).svg
    page = f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">{picture}</body>'
    run(
        tmp_path,
        page,
        f"--screenshot={shot}",
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=800,720",
    )
    image = pixels(shot).long()
    assert image.shape[:2] == (720, 800)
    picture = image[10:600, 10:790]
    red, green, blue = picture.unbind(-1)
    share = (red == paper).double().mean()
    assert 0.7 < share < 0.97, "most of it is paper"
    assert (red == ink).sum() > 1000, "squares and their letters"
    warm, fresh = (red - blue > 80).sum(), (green - red > 60).sum()
    assert warm > 1000 and fresh > 1000, "backward and tangent pass"
