"""What is drawn of a net: its plan's bytes and marks; after a run norms, errors, and what is wrong, in red."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from math import isnan

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import torch_manual_bp as tmb
from graph.cases import BIASES, problem
from torch_manual_bp.equations import LOSSES, SYMBOLS, Coefficient, Factor, Table, Term, second_order, table
from torch_manual_bp.memory import plan

READ = {"o": "kept as Ĝ", "x": "read again", "w2": "read again"}
ALL_READ = {**READ, "w1": "read again"}  # for λ w1
NET = tmb.MLP(784, 256, 10, "tanh", device="meta")
MARKS = {
    "h is enough": ("tanh", {}, {**ALL_READ, "h": "kept"}),
    "z is needed": ("gelu", {}, {**ALL_READ, "z": "kept"}),
    "no λ, no w1": ("tanh", {"weight_decay": 0.0}, {**READ, "h": "kept"}),
    "z anew": ("gelu", {"save": "input"}, ALL_READ),
    "tiles keep nothing": ("gelu", {"tile_rows": "auto"}, {}),
    "one bit a unit": (
        "relu", {"frozen": "fc2.weight", "weight_decay": 0.0},
        {**READ, "z": "kept as [z > 0], one bit a unit"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", [8192, None], ids=["numbers", "letters"])
@pytest.mark.parametrize(("activation", "options", "marks"), MARKS.values(), ids=MARKS)
def test_marks_are_those_of_the_path(activation, options, marks, batch):
    mlp = tmb.MLP(784, 256, 10, activation, save=options.get("save", "auto"), device="meta")
    if "frozen" in options:
        mlp.get_parameter(options["frozen"]).requires_grad_(False)
    objective = tmb.Objective(mlp, weight_decay=options.get("weight_decay", 0.1), tile_rows=options.get("tile_rows"))
    facts = tmb.graph.draw(objective, batch).graph.facts
    assert {name: fact.kept for name, fact in facts.items() if fact.kept} == marks


def test_bytes_and_totals_are_the_plans():
    drawing = tmb.graph.draw(NET, 128)
    training, prediction = (plan(NET, 128, path=path) for path in ("autograd", "predict"))
    by_name = {tensor.name: tensor.bytes for tensor in training.tensors}
    about = drawing.graph.about
    assert about("x").bytes == by_name["x"] == 4 * 128 * 784
    assert about("z").bytes == about("h").bytes == by_name["z, then h"] == 4 * 128 * 256
    assert about("dz").bytes == by_name["dh, then dz"] and about("dw1").bytes == by_name["dw1"] == 4 * 256 * 784
    assert drawing.graph.totals == (
        "B, d, h, q = 128, 784, 256, 10 · float32",
        f"beside {training.given_bytes:,} bytes of parameters and batch",
        f"prediction takes {prediction.peak_bytes:,} bytes",
        f"training takes {training.peak_bytes:,} bytes",
        f"of them kept for backward {training.kept_bytes:,} bytes",
    )


def test_sizes_become_numbers_in_every_shape():
    drawing = tmb.graph.draw(NET, 128, tangent=True)
    sizes = {"B": 128, "d": 784, "h": 256, "q": 10}
    for node in drawing.graph.nodes:
        if node.kind != "operator":
            symbol = next(s for s in (*table("tanh").givens, *SYMBOLS.values()) if s.name == node.id)
            assert node.shape == tuple(sizes[size] for size in symbol.shape)
    assert all(isinstance(n, int) for edge in drawing.graph.edges for n in edge.shape)


def test_of_a_table_of_second_order_the_first_order_is_drawn():
    assert tmb.graph.draw(second_order("tanh"), tangent=True).svg == tmb.graph.draw(table("tanh"), tangent=True).svg


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", BIASES, ids=str)
def test_after_a_run_norms_are_the_values_and_errors_are_rounding(loss, biases):
    values, equations = problem(loss, *biases), table("silu", loss, *biases)
    graph = tmb.graph.draw(equations, values=values).graph
    everything = values | equations.evaluate(values)
    for name, value in everything.items():
        if name != "weight_decay":
            assert graph.about(name).norm == pytest.approx(float(value.double().norm()), rel=1e-12), name
            assert not graph.about(name).wrong
    assert all(graph.about(e.symbol).error < 1e-14 for e in equations)


def test_a_nets_parameters_and_penalty_are_its_own():
    mlp = tmb.MLP(5, 6, 4, "gelu")
    x, y = torch.randn(7, 5), torch.randint(4, (7,))
    objective = tmb.Objective(mlp, weight_decay=0.3)
    facts = tmb.graph.draw(objective, 7, values={"x": x, "y": y}).graph.facts
    assert facts["J"].norm == pytest.approx(objective(x, y).item(), rel=1e-6)
    assert facts["w1"].norm == pytest.approx(mlp.fc1.weight.double().norm().item())
    assert facts["w1"].bytes == 4 * 30


def bare(term):
    """The term without what it is divided by."""
    return replace(term, coefficient=Coefficient(term.coefficient.number))


def minus(term):
    """The term with the other sign."""
    return replace(term, coefficient=replace(term.coefficient, number=-term.coefficient.number))


H_FOR_SLOPE = Term((Factor(SYMBOLS["dh"]), Factor(SYMBOLS["h"])))
WRONG = {
    "a sign": ("dw2", lambda terms: (terms[0], minus(terms[1]))),
    "no λ": ("dw1", lambda terms: terms[:1]),
    "h for φ′(z)": ("dz", lambda terms: (H_FOR_SLOPE,)),
    "forward: no bias": ("z", lambda terms: terms[:1]),
    "a sum for a mean": ("do", lambda terms: tuple(map(bare, terms))),
}


def red(drawing):
    """Names in what is drawn in red: squares, labels of gradients, and arrows' ends."""
    root = ElementTree.fromstring(drawing.svg)
    groups = [g for g in root.iter("{http://www.w3.org/2000/svg}g")]
    squares = {g.get("data-node") for g in groups if "wrong" in (g.get("class") or "") and g.get("data-node")}
    arrows = {g.get("id") for g in groups if "edge" in (g.get("class") or "") and "wrong" in g.get("class")}
    labels = {
        g.get("data-of") for g in groups if g.get("data-of") and any(text.get("class") == "wrong" for text in g)
    }  # fmt: skip
    return squares, labels, arrows


@pytest.mark.parametrize(("symbol", "spoil"), WRONG.values(), ids=WRONG)
def test_a_wrong_equation_is_found_and_red_and_no_other(symbol, spoil):
    equations = table("tanh")
    changed = [replace(e, terms=spoil(e.terms)) if e.symbol == symbol else e for e in equations]
    spoilt = Table(changed, "tanh", "cross_entropy")
    drawing = tmb.graph.draw(spoilt, values=problem("cross_entropy"))
    assert [name for name, fact in drawing.graph.facts.items() if fact.wrong] == [symbol]
    squares, labels, arrows = red(drawing)
    if symbol == "z":
        assert (squares, labels, arrows) == ({"z"}, {"z"}, set())
    else:
        assert (squares, labels) == (set(), {symbol[1:]})
        assert arrows and all(arrow.startswith("tmb-backward-") and arrow.endswith(symbol[1:]) for arrow in arrows)
    assert "WRONG" in drawing.text and "stroke:#d1242f" in drawing.mermaid and 'class="wrong"' in drawing.html


def test_anothers_value_is_compared_in_the_equations_place():
    values = problem("mse")
    exact = table("tanh", "mse").evaluate(values)
    facts = tmb.graph.draw(
        table("tanh", "mse"),
        values={**values, "dw2": exact["dw2"] * 1.01, "dw1": exact["dw1"].float(), "o": exact["o"]},
    ).graph.facts
    assert facts["dw2"].wrong and facts["dw2"].error == pytest.approx(0.01, rel=1e-6)
    assert not facts["dw1"].wrong and 1e-9 < facts["dw1"].error < 1e-6  # float32's rounding
    assert not facts["o"].wrong and not facts["dh"].wrong


def test_what_a_checker_found_is_red_without_a_run():
    squares, labels, arrows = red(tmb.graph.draw(table(), wrong=("dh", "o")))
    assert (squares, labels, arrows) == ({"o"}, {"o", "h"}, {"tmb-backward-o-1-h"})


def test_nan_is_wrong():
    values = problem("mse")
    drawing = tmb.graph.draw(table("tanh", "mse"), values={**values, "dh": torch.full((7, 6), float("nan"))})
    assert drawing.graph.facts["dh"].wrong
    assert json.loads(drawing.json, parse_constant=pytest.fail)["facts"]["dh"]["error"] == "nan"
    assert isnan(tmb.graph.from_json(drawing.json).facts["dh"].error)
    assert "error nan" in drawing.text and "error nan" in drawing.svg


def weighted():
    return tmb.Objective(tmb.MLP(5, 6, 4), class_weight=torch.ones(4))


def pruned():
    mlp = tmb.MLP(5, 6, 4)
    prune.l1_unstructured(mlp.fc1, "weight", 0.5)
    return mlp


REFUSED = {
    "no net": (lambda: tmb.graph.draw(nn.Linear(2, 3)), TypeError, "draw: model must be .* got Linear"),
    "a table with a batch": (lambda: tmb.graph.draw(table(), 8), ValueError, "draw: batch belongs to a net"),
    "a sum": (
        lambda: tmb.graph.draw(tmb.Objective(tmb.MLP(5, 6, 4), reduction="sum")), ValueError, "mean without .*'sum'",
    ),
    "smoothing": (
        lambda: tmb.graph.draw(tmb.Objective(tmb.MLP(5, 6, 4), label_smoothing=0.1)), ValueError, "label_smoothing=0.1",
    ),
    "class weights": (lambda: tmb.graph.draw(weighted()), ValueError, "with class weights"),
    "a pruned layer": (lambda: tmb.graph.draw(pruned()), ValueError, "draw: fc1 and fc2 must be plain nn.Linear"),
    "an unknown name": (lambda: tmb.graph.draw(table(), wrong=("dw3",)), ValueError, "must hold .* got dw3"),
    "an unknown value": (
        lambda: tmb.graph.draw(table(), values=problem("mse") | {"c": 1}), ValueError, "values must be of .* got c",
    ),
    "a missing value": (lambda: tmb.graph.draw(table(), values={}), KeyError, "x is missing"),
    "another shape": (
        lambda: tmb.graph.draw(table(), values=problem("cross_entropy") | {"dw2": torch.ones(4)}), ValueError,
        r"draw: dw2 must have shape \(4, 6\), got \(4,\)",
    ),
    "an unknown loss": (lambda: tmb.graph.draw(NET, loss="hinge"), ValueError, "loss must be one of cross_entropy"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
