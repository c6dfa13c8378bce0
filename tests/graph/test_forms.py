"""Text, HTML, MathML, Mermaid, JSON: well-formed, and with everything in them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import torch_manual_bp as tmb
from graph.cases import tables
from torch_manual_bp.equations import ACTIVATIONS, LOSSES, second_order, table
from torch_manual_bp.graph.captions import bytes_text, shape_text
from torch_manual_bp.graph.latex import Atom, Group, parse
from torch_manual_bp.graph.mathml import mathml

MATH = "{http://www.w3.org/1998/Math/MathML}"
CHAPTER = """\
one hidden layer, φ = tanh, l = cross_entropy
B, d, h, q large · float32
in bytes, beside parameters and batch
prediction takes 4 (Bh + Bq)
training takes 4 (2 Bh + 2 Bq + dh + hq) + 12
kept for backward 4 (Bh + Bq) + 8

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

[variable]  {parameter}  (operator)

forward
  x                                      (B, d)  read again
  y                                      (B)
  w1                                     (h, d)  read again
  w2                                     (q, h)  read again
  z = x w1ᵀ                              (B, h)
  h = φ(z)                               (B, h)  kept
  o = h w2ᵀ                              (B, q)  kept as Ĝ
  L = -1/B Σ onehot(y) ⊙ log softmax(o)
  s = λ/2 ‖w1‖² + λ/2 ‖w2‖²
  J = L + s

backward, dX = ∂J/∂X
  do = 1/B softmax(o) - 1/B onehot(y)  (B, q)
  dw2 = doᵀ h + λ w2                   (q, h)
  dh = do w2                           (B, h)
  dz = dh ⊙ φ′(z)                      (B, h)
  dw1 = dzᵀ x + λ w1                   (h, d)
  dx = dz w1                           (B, d)
"""


@pytest.fixture(scope="module", params=tables().values(), ids=tables())
def drawing(request):
    return tmb.graph.draw(request.param, tangent=True)


def test_the_chapters_network_as_text():
    drawing = tmb.graph.draw(table("tanh", hidden_bias=False, output_bias=False))
    assert drawing.text == CHAPTER
    assert str(drawing) == CHAPTER


def test_each_form_names_every_equation(drawing):
    for line in drawing.graph.lines:
        assert line.text in drawing.text
        assert mathml(line.latex) in drawing.html
        assert json.dumps(line.text, ensure_ascii=False) in drawing.json


def test_json_is_read_back_as_the_same_graph(drawing):
    again = tmb.graph.from_json(drawing.json)
    assert again == drawing.graph
    assert tmb.graph.Drawing(again).svg == drawing.svg
    data = json.loads(drawing.json)
    assert {"source": "w2", "target": "o-1"}.items() <= next(e for e in data["edges"] if e["text"] == "w2ᵀ").items()


def test_json_of_something_else_is_refused():
    with pytest.raises(ValueError, match="from_json: expected the JSON of a graph, got one without 'title'"):
        tmb.graph.from_json("{}")


def test_mermaid_declares_each_node_once_and_quotes_all_labels(drawing):
    head, *lines = drawing.mermaid.split("flowchart LR\n")[1].splitlines()
    lines = [head, *lines]
    declared = [m[1] for line in lines if (m := re.fullmatch(r'  (n_\w+)(?:\["[^"]+"\]|\(\("[^"]+"\)\))', line))]
    arrows = [m for line in lines if (m := re.fullmatch(r'  (n_\w+) (?:-->|-\.->|==>)(?:\|"[^"]+"\|)? (n_\w+)', line))]
    others = [line for line in lines if re.match(r"  (classDef|class|linkStyle) ", line)]
    assert len(declared) + len(arrows) + len(others) == len(lines)
    assert len(declared) == len(set(declared)) == len(drawing.graph.nodes)
    assert len(arrows) == len(drawing.graph.edges)
    assert {name for arrow in arrows for name in arrow.groups()} == set(declared)


class Page(HTMLParser):
    """Counts what is open, and collects what would be loaded."""

    VOID = ("meta", "br", "rect", "circle", "path", "mspace", "link", "img")

    def __init__(self, page):
        super().__init__()
        self.open, self.loads, self.of = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.loads += [v for k, v in attributes.items() if k in ("src", "href", "xlink:href", "action")]
        if tag == "div" and attributes.get("class") == "of":
            self.of.append(attributes["data-of"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_html_is_well_formed_and_needs_nothing_else(drawing):
    page = Page(drawing.html)
    assert page.open == [] and page.loads == []
    assert page.of == [node.id for node in drawing.graph.nodes]
    assert set(re.findall(r"https?://[\w./]+", drawing.html)) == {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML",
    }  # fmt: skip
    assert "@import" not in drawing.html and re.findall(r"url\(([^)]*)\)", drawing.html) == re.findall(
        r"url\((#[^)]*)\)", drawing.html
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mathml_of_every_formula_is_well_formed(activation):
    for latex in ACTIVATIONS[activation].latex:
        ElementTree.fromstring(mathml(latex))
    page = tmb.graph.draw(table(activation)).html
    phi, dphi, _ = ACTIVATIONS[activation].latex
    assert mathml(rf"\phi(z) = {phi}") in page and mathml(rf"\phi'(z) = {dphi}") in page


def test_mathml_of_one_equation_worked_by_hand():
    root = ElementTree.fromstring(mathml(r"{\frac{\partial J}{\partial \mathbf{o}}}^\top\,\mathbf{h} + \lambda b'"))
    (row,) = root
    power, space, h, plus, lam, prime = row
    assert [part.tag.removeprefix(MATH) for part in row] == ["msup", "mspace", "mi", "mo", "mi", "mrow"]
    assert [part.tag.removeprefix(MATH) for part in power] == ["mfrac", "mo"]
    assert (h.text, plus.text, lam.text, [p.text for p in prime]) == ("\U0001d421", "+", "λ", ["b", "′"])
    assert space.get("width") == "0.17em"


def test_two_primes_stand_side_by_side():
    prime = Atom("′", "mo")
    assert parse(r"\phi''") == Group("row", (Atom("ϕ", "mi"), prime, prime))
    assert parse("u'^2") == Group("sup", (Group("row", (Atom("u", "mi"), prime)), Atom("2", "mn")))


@pytest.mark.parametrize("loss", LOSSES)
def test_formulas_of_second_order_are_well_formed(loss):
    for equation in second_order("gelu", loss):
        ElementTree.fromstring(mathml(equation.latex))


def test_half_has_two_digits_and_scripts_of_scripts_stand_at_one_height():
    assert parse(r"\tfrac12") == Group("frac", (Atom("1", "mn"), Atom("2", "mn")))
    raised = parse(r"{\mathbf{W}^{(1)}}^\top")
    assert raised.kind == "sup" and raised.parts[0] == Atom("W", "mi", bold=True)
    dotted = parse(r"\dot{\mathbf{W}^{(1)}}")
    assert dotted.kind == "sup" and dotted.parts[0].kind == "dot"


@pytest.mark.parametrize(
    ("latex", "message"),
    [
        (r"\alpha", r"latex: unknown command \\alpha in '\\\\alpha'"),
        ("{x", r"latex: expected '}' in '{x'"),
        ("x}", r"latex: unexpected '}' in 'x}'"),
        ("x^", r"latex: 'x\^' ends too early"),
    ],
)
def test_latex_that_is_not_understood_is_refused(latex, message):
    with pytest.raises(ValueError, match=message):
        parse(latex)


def test_save_picks_the_form_by_the_suffix(tmp_path):
    drawing = tmb.graph.draw(table())
    for suffix, form in ((".svg", "svg"), (".html", "html"), (".mmd", "mermaid"), (".txt", "text"), (".json", "json")):
        drawing.save(tmp_path / f"graph{suffix}")
        assert (tmp_path / f"graph{suffix}").read_text(encoding="utf-8") == getattr(drawing, form)
    assert drawing._repr_svg_() == drawing.svg
    with pytest.raises(ValueError, match=r"save: path must end in \.svg, .*; got 'graph\.png'"):
        drawing.save("graph.png")


def test_bytes_and_shapes_in_words():
    assert [bytes_text(n) for n in (0, 40, 999, 1000, 131072, 999_999, 5_979_695_056)] == [
        "0 B", "40 B", "999 B", "1 kB", "131 kB", "1 MB", "5.98 GB",
    ]  # fmt: skip
    assert (shape_text(("B", "h")), shape_text((7,)), shape_text(())) == ("(B, h)", "(7)", "")
