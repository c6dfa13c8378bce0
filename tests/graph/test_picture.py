"""The picture by its geometry: right and up, arrows from border to border, no label over anything."""

import itertools
import xml.etree.ElementTree as ElementTree
from math import hypot

import pytest
import torch

import torch_manual_bp as tmb
from graph.cases import BIASES, PASSES, problem, tables
from torch_manual_bp.equations import LOSSES, table
from torch_manual_bp.graph.geometry import CIRCLE, SQUARE, Box, Point, arrow, boxes_of
from torch_manual_bp.graph.layout import places, way_to_j
from torch_manual_bp.graph.scene import WIDTH, scene_of
from torch_manual_bp.graph.typeset import Run, equation_runs, symbol_runs, width, wrapped

SVG = "{http://www.w3.org/2000/svg}"


def drawings():
    """Letters, numbers and values, of every table and pass."""
    for name, equations in tables().items():
        for backward, tangent in PASSES:
            yield (
                f"{name}{', backward' * backward}{', tangent' * tangent}",
                lambda e=equations, b=backward, t=tangent: tmb.graph.draw(e, backward=b, tangent=t),
            )
    for loss, biases in itertools.product(LOSSES, BIASES):
        mlp = tmb.MLP(5, 6, 4, "gelu_tanh", *biases, dtype=torch.float64)
        values = {name: problem(loss)[name] for name in ("x", "y")}
        yield (
            f"run, {loss}, {biases}",
            lambda m=mlp, lo=loss, v=values: tmb.graph.draw(
                tmb.Objective(m, lo, 0.1), 7, tangent=True, values=v, wrong=("dw2", "z")
            ),
        )
    big = tmb.MLP(123456, 98765, 54321, "relu", device="meta")
    yield "large sizes", lambda: tmb.graph.draw(tmb.Objective(big, "mse", 0.1), 1234567, tangent=True)


DRAWINGS = dict(drawings())


@pytest.fixture(params=DRAWINGS.values(), ids=DRAWINGS, scope="module")
def scene(request):
    return scene_of(request.param().graph)


def test_every_label_has_a_free_place(scene):
    """No label is over a node, an arrow, another label, the title, or the border."""
    assert scene.complete
    said = {node.id for node in scene.graph.nodes if node.shape}
    assert said <= {label.block.node for label in scene.labels}
    taken = [scene.box(node) for node in scene.graph.nodes]
    taken += [box for _, way in scene.arrows for box in boxes_of(way, 1)]
    taken += [Box(at.x, at.y - size, at.x + width(runs, size), at.y + 0.3 * size) for runs, size, at in scene.header]
    frame = Box(0, 0, WIDTH, scene.floor + 1)
    for label in scene.labels:
        box = label.box
        assert not any(box.overlaps(other) for other in taken), label.block
        assert box.left >= frame.left and box.right <= frame.right and box.top >= 0 and box.bottom <= frame.bottom
        taken.append(box)


def test_every_label_is_nearest_to_its_own_node(scene):
    """… of all that have labels of their own; so nobody reads it as another's."""
    said = {label.block.node for label in scene.labels}
    for label in scene.labels:
        away = {name: label.box.distance(at) for name, at in scene.centres.items() if name in said}
        assert away[label.block.node] <= min(away.values()) + 2 * SQUARE, label.block


def test_nodes_do_not_touch(scene):
    for one, other in itertools.combinations(scene.graph.nodes, 2):
        assert not scene.box(one).grown(4).overlaps(scene.box(other).grown(4)), (one.id, other.id)


def test_forward_arrows_go_right_and_up_from_border_to_border(scene):
    kinds = {node.id: node.kind for node in scene.graph.nodes}
    for edge, way in scene.arrows:
        for name, end in ((edge.source, way[0]), (edge.target, way[-1])):
            centre = scene.centres[name]
            if kinds[name] == "operator":
                assert hypot(end.x - centre.x, end.y - centre.y) == pytest.approx(CIRCLE), edge
            else:
                assert max(abs(end.x - centre.x), abs(end.y - centre.y)) == pytest.approx(SQUARE), edge
        if edge.direction != "backward":
            assert all(b.x >= a.x and b.y <= a.y for a, b in itertools.pairwise(way)), edge
        else:
            assert all(b.x <= a.x and b.y >= a.y for a, b in itertools.pairwise(way)), edge


def test_no_arrow_goes_through_a_node_that_it_does_not_belong_to(scene):
    for edge, way in scene.arrows:
        for node in scene.graph.nodes:
            if node.id not in (edge.source, edge.target):
                assert not any(box.overlaps(scene.box(node)) for box in boxes_of(way, 1)), (edge, node.id)


@pytest.mark.parametrize("equations", tables().values(), ids=tables())
def test_x_is_at_the_left_and_j_in_the_upper_right_corner(equations):
    graph = tmb.graph.draw(equations).graph
    placed = places(graph)
    assert placed["x"].column == 0 and way_to_j(graph)[0] == "x"
    assert placed["J"].column == max(place.column for place in placed.values())
    assert placed["J"].row == max(place.row for place in placed.values())
    assert placed["x"].row < placed["J"].row / 2


@pytest.mark.parametrize("name", ["tanh, cross_entropy, b1, b2, backward, tangent", "run, mse, (True, False)"])
def test_svg_is_well_formed_and_readable_at_800_pixels(name):
    drawing = DRAWINGS[name]()
    root = ElementTree.fromstring(drawing.svg)
    assert root.get("width") == "800" and root.get("viewBox").startswith("0 0 800 ")
    assert root.get("role") == "img" and drawing.graph.title in root.get("aria-label")
    texts = list(root.iter(f"{SVG}text"))
    assert texts and all(float(text.get("font-size")) >= 11 for text in texts)
    nodes = {g.get("data-node"): g for g in root.iter(f"{SVG}g") if g.get("data-node")}
    assert set(nodes) == {node.id for node in drawing.graph.nodes}
    assert all(g.find(f"{SVG}title").text for g in nodes.values())
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme:dark" in drawing.svg and "http" not in drawing.svg.replace("http://www.w3.org", "")


def test_the_same_drawing_has_the_same_svg():
    assert tmb.graph.draw(table()).svg == tmb.graph.draw(table()).svg


def test_parameters_are_darker_and_marks_stand_on_what_is_kept():
    root = ElementTree.fromstring(tmb.graph.draw(table("gelu")).svg)
    of = {g.get("data-node"): g for g in root.iter(f"{SVG}g") if g.get("data-node")}
    assert {name for name, g in of.items() if "parameter" in g.get("class")} == {"w1", "b1", "w2", "b2"}
    marks = {name: [c.get("class") for c in g.iter(f"{SVG}circle") if c.get("class")] for name, g in of.items()}
    assert {name: mark for name, (mark,) in ((n, m) for n, m in marks.items() if m)} == {
        "z": "kept", "o": "kept", "x": "again", "w1": "again", "w2": "again",
    }  # fmt: skip


def test_extents_of_text_worked_by_hand():
    assert symbol_runs(r"\mathbf{W}^{(1)}") == (
        Run("W", True),
        Run("(", False, True),
        Run("1", False, True),
        Run(")", False, True),
    )
    assert width((Run("i"), Run("m")), 10) == pytest.approx(10 * (0.28 + 0.96))
    runs = equation_runs("dw2 = doᵀ h - λ w2", {"w2": r"\mathbf{W}", "o": r"\mathbf{o}", "h": r"\mathbf{h}"})
    assert "".join(run.text for run in runs) == "dW = doT h − λ W"
    assert [run.text for run in runs if run.bold] == ["W", "o", "h", "W"]
    lines = wrapped(runs, 10, 60)
    assert ["".join(run.text for run in line) for line in lines] == ["dW = doT h", "− λ W"]


def test_an_arrow_beside_another_ends_at_the_circles_border():
    start, end = arrow(Point(0, 0), Point(100, 0), (SQUARE, -CIRCLE), 9.0)
    assert start == (SQUARE, -9.0) and end == (100 - 12.0, -9.0)  # 15² = 9² + 12²
    bent = arrow(Point(0, 100), Point(50, 0), (-CIRCLE, -CIRCLE), 0.0)
    assert bent == ((CIRCLE, 100), (50, 100), (50, CIRCLE))
