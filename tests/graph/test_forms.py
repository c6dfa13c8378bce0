"""The other forms: text, HTML with MathML, Mermaid, JSON, files."""

import re
from xml.etree import ElementTree

import pytest

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS, LOSSES, table
from torch_manual_bp.graph import draw, from_json
from torch_manual_bp.graph.mathml import mathml

CHAPTER = r"""
                                   [L]────▸(+)────▸[J]
                                    ▴       ▴
                           [y]────▸(l)      │
                                    ▴       │
                   [h]────▸(×)────▸[o]     [s]
                    ▴       ▴               ▴
                   (φ)      │             (λ/2)
                    ▴       │               ▴
   [x]────▸(×)────▸[z]    {w2}──▸(‖·‖²)───▸(+)
            ▴                               ▴
          {w1}──▸(‖·‖²)─────────────────────┘
"""


@pytest.fixture(scope="module")
def drawing():
    return draw(tmb.MLP(784, 256, 10, "tanh", device="meta"), batch=32, tangent=True)


def test_the_chapters_picture_in_letters():
    text = draw(table("relu", "cross_entropy", False, False)).text
    assert CHAPTER.strip("\n") in text
    assert "  dw2 = doᵀ h + λ w2" in text


def test_the_page_needs_nothing_else(drawing):
    page = drawing.html
    assert not re.findall(r"""(?:src|href)=|@import|https?://(?!www\.w3\.org)""", page)
    assert page.count("<math") >= len(drawing.graph.lines)
    body = re.search(r"<body>(.*)<script>", page, re.DOTALL)[1]
    ElementTree.fromstring(f"<div>{body}</div>")  # well formed, MathML and SVG with it
    for node in drawing.graph.nodes:
        assert f'class="of" data-of="{node.id}"' in page


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_formula_of_the_table_has_its_mathml(activation, loss):
    latex = [equation.latex for equation in table(activation, loss)] + list(ACTIVATIONS[activation].latex)
    for formula in latex:
        element = ElementTree.fromstring(mathml(formula))
        assert "\\" not in "".join(element.itertext()), formula


def test_latex_that_is_not_known_raises():
    with pytest.raises(ValueError, match="unknowncommand"):
        mathml(r"\unknowncommand x")


def test_json_and_back(drawing):
    assert from_json(drawing.json) == drawing.graph
    with pytest.raises(ValueError, match="expected the JSON of a graph"):
        from_json('{"title": "none"}')


def test_mermaid_has_every_node_and_arrow(drawing):
    lines = drawing.mermaid.splitlines()
    assert lines[3] == "flowchart LR"
    nodes = {match[1] for line in lines if (match := re.fullmatch(r"  (n_\w+)[\[(].*[\])]", line))}
    arrows = [match for line in lines if (match := re.fullmatch(r'  (n_\w+) (-->|-\.->|==>)(\|".*"\|)? (n_\w+)', line))]
    assert len(nodes) == len(drawing.graph.nodes)
    assert len(arrows) == len(drawing.graph.edges)
    assert {arrow[1] for arrow in arrows} | {arrow[4] for arrow in arrows} == nodes


@pytest.mark.parametrize("suffix, begins", [
    (".svg", "<svg "), (".html", "<!DOCTYPE html>"), (".mmd", "---\n"), (".txt", "one hidden layer"), (".json", "{"),
])  # fmt: skip
def test_a_file_by_its_suffix(drawing, tmp_path, suffix, begins):
    drawing.save(tmp_path / f"graph{suffix}")
    assert (tmp_path / f"graph{suffix}").read_text(encoding="utf-8").startswith(begins)


def test_other_files_are_refused(drawing, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .svg, .html, .mmd, .txt, .json; got .*graph.png"):
        drawing.save(tmp_path / "graph.png")
    assert not list(tmp_path.iterdir())


def test_notebooks_show_the_svg(drawing):
    assert drawing._repr_svg_() == drawing.svg
    assert str(drawing) == drawing.text
    assert "nodes" in repr(drawing)
