"""Nodes and arrows are those of the equations: every one, and no other."""

from dataclasses import replace

import pytest

from graph.cases import tables
from torch_manual_bp.equations import (
    ACTIVATIONS,
    SYMBOLS,
    Coefficient,
    Equation,
    Factor,
    Symbol,
    Table,
    Term,
    table,
)
from torch_manual_bp.graph.derive import graph_of

ALL = tables(ACTIVATIONS)


def reached(edges, start, among):
    """The ends of all ways from a node that lead over operators only."""
    found, waiting = set(), [start]
    while waiting:
        here = waiting.pop()
        for edge in edges:
            if edge.source == here:
                (found.add if edge.target in among else waiting.append)(edge.target)
    return found


@pytest.mark.parametrize("equations", ALL.values(), ids=ALL)
def test_forward_arrows_lead_from_each_input_to_what_its_equations_give(equations):
    graph = graph_of(equations, backward=True, tangent=False)
    tensors = {node.id for node in graph.nodes if node.kind != "operator"}
    assert tensors == {g.name for g in equations.givens} | {e.symbol for e in equations if e.direction == "forward"}
    for name in tensors:
        reads = {e.symbol for e in equations if e.direction == "forward" and name in e.tensors}
        assert reached(graph.of_pass("forward"), name, tensors) == reads, name


@pytest.mark.parametrize("equations", ALL.values(), ids=ALL)
def test_backward_arrows_are_forward_ones_reversed_wherever_there_is_a_gradient(equations):
    graph = graph_of(equations, backward=True, tangent=False)
    tensors = {node.id for node in graph.nodes if node.kind != "operator"}
    there = {(edge.source, edge.target) for edge in graph.of_pass("forward")}
    back = graph.of_pass("backward")
    assert {(edge.target, edge.source) for edge in back} == {(s, t) for s, t in there if s != "y"}
    for equation in equations:
        if equation.direction == "backward":
            target = equation.symbol[1:]
            for upstream in (name for name in equation.tensors if name.startswith("d")):
                assert target in reached(back, upstream[1:], tensors), equation


@pytest.mark.parametrize("equations", ALL.values(), ids=ALL)
def test_what_comes_along_the_backward_arrows_adds_up_to_the_equation(equations):
    graph = graph_of(equations, backward=True, tangent=False)
    for equation in (e for e in equations if e.direction == "backward"):
        parts = [
            edge.text.split(" = ", 1)[1]
            for edge in graph.of_pass("backward")
            if edge.equation == equation.symbol and edge.target == equation.symbol[1:] and " = " in edge.text
        ]
        assert sorted(" + ".join(parts).replace("+ -", "- ").split()) == sorted(equation.text.split()[2:]), parts
        assert all(e.shape == equation.shape for e in graph.of_pass("backward") if e.target == equation.symbol[1:])


def test_the_chapters_operators():
    graph = graph_of(table("relu", hidden_bias=False, output_bias=False), backward=False, tangent=False)
    operators = [(node.equation, node.text) for node in graph.nodes if node.kind == "operator"]
    assert operators == [
        ("z", "×"), ("h", "φ"), ("o", "×"), ("L", "l"),
        ("s", "‖·‖²"), ("s", "‖·‖²"), ("s", "+"), ("s", "λ/2"), ("J", "+"),
    ]  # fmt: skip
    kinds = {node.id: node.kind for node in graph.nodes if not node.equation}
    assert kinds == {"x": "variable", "y": "variable", "w1": "parameter", "w2": "parameter"}
    assert not graph.of_pass("backward") and all(line.direction == "forward" for line in graph.lines)


def test_operators_of_biases_and_of_the_residual():
    def texts(**options):
        graph = graph_of(table("relu", **options), backward=False, tangent=False)
        return {e: [n.text for n in graph.nodes if n.kind == "operator" and n.equation == e] for e in "zor"}

    assert texts(loss="mse") == {"z": ["×", "+"], "o": ["×", "+"], "r": ["−"]}
    assert texts(loss="mse", hidden_bias=False) == {"z": ["×"], "o": ["×", "+"], "r": ["−"]}


def test_a_third_layer_is_drawn_from_its_equations():
    """Nothing here knows that there are two layers: another product and another φ give their own nodes."""
    base = table("tanh", hidden_bias=False, output_bias=False)
    z, h, o, *rest = base
    w3 = Symbol("w3", ("q", "q"), r"\mathbf{W}^{(3)}")
    p = Symbol("p", ("B", "q"), r"\mathbf{p}")
    deeper = Equation(o.lhs, (Term((Factor(p), w3.T), join="matmul"),), "", "forward")
    before = Equation(p, o.terms, "", "forward")
    equations = Table([z, h, before, deeper, *rest], "tanh", "cross_entropy")
    graph = graph_of(equations, backward=False, tangent=False)
    arrows = {(edge.source, edge.target) for edge in graph.of_pass("forward")}
    assert {("w3", "o-1"), ("p", "o-1"), ("p-1", "p"), ("o-1", "o")} <= arrows


def test_each_part_of_a_gradient_comes_along_its_own_arrow():
    """A net with a second way from x to o: dx has a part from each."""
    base = {e.symbol: e for e in table("tanh", hidden_bias=False, output_bias=False)}
    skip = Symbol("w3", ("q", "d"), r"\mathbf{W}^{(3)}")
    x, do = Factor(SYMBOLS["x"]), Factor(SYMBOLS["do"])
    around, back = Term((x, skip.T), join="matmul"), Term((do, Factor(skip)), join="matmul")
    for name, term in (("o", around), ("dx", back)):
        base[name] = replace(base[name], terms=(*base[name].terms, term))
    equations = Table(list(base.values()), "tanh", "cross_entropy")
    arrows = graph_of(equations, backward=True, tangent=False).of_pass("backward")
    assert {(e.source, e.text) for e in arrows if e.target == "x"} == {("z-1", "dx = dz w1"), ("o-2", "dx = do w3")}


def test_terms_with_coefficients_of_their_own_are_scaled_one_by_one():
    equations = table("tanh")
    s = equations["s"]
    first, second = s.terms
    uneven = replace(s, terms=(first, replace(second, coefficient=Coefficient(penalty=True))))
    given = Table([uneven if e.symbol == "s" else e for e in equations], "tanh", "cross_entropy")
    graph = graph_of(given, backward=False, tangent=False)
    assert [n.text for n in graph.nodes if n.equation == "s"] == ["‖·‖²", "λ/2", "‖·‖²", "λ", "+", "s"]
