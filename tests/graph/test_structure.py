"""The graph is the table's: nodes and arrows of every net are what its equations say."""

import itertools
import re

import pytest

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS, LOSSES, table
from torch_manual_bp.graph import draw

BIASES = list(itertools.product((False, True), repeat=2))
NETS = [*((activation, "cross_entropy", True, True) for activation in ACTIVATIONS),
        *(("tanh", loss, *biases) for loss in LOSSES for biases in BIASES)]  # fmt: skip


@pytest.fixture(params=NETS, ids=str)
def net(request):
    return table(*request.param)


def sources(graph, id, direction):
    """The tensors that reach a node through circles alone."""
    found, waiting = set(), [id]
    while waiting:
        target = waiting.pop()
        for edge in graph.of_pass(direction):
            if edge.target == target:
                if graph.node(edge.source).kind == "operator":
                    waiting.append(edge.source)
                else:
                    found.add(edge.source)
    return found


def test_every_equation_of_the_forward_pass_is_its_arrows(net):
    graph = draw(net).graph
    for equation in net:
        if equation.direction == "forward":
            assert sources(graph, equation.symbol, "forward") == set(equation.tensors), equation


def test_the_backward_pass_is_the_forward_pass_reversed(net):
    graph = draw(net).graph
    forward = {(e.source, e.target) for e in graph.of_pass("forward") if e.source != "y"}  # y needs no gradient
    assert {(e.target, e.source) for e in graph.of_pass("backward")} == forward


def test_each_gradient_arrives_where_it_belongs(net):
    """The arrows into X carry the terms of ∂J/∂X, all of them and no others."""
    graph = draw(net).graph
    for name in ("w1", "w2", "b1", "b2"):
        if f"d{name}" not in {equation.symbol for equation in net}:
            continue
        arriving = {e.text.split(" = ")[1] for e in graph.of_pass("backward") if e.target == name}
        expected = set(re.split(r" \+ ", net[f"d{name}"].text.split(" = ")[1]))
        assert arriving == expected


def test_lines_are_the_equations(net):
    graph = draw(net, tangent=True).graph
    written = [line.text for line in graph.lines if line.direction != "tangent"]
    assert written == [equation.text for equation in net]
    tangents = {line.symbol for line in graph.lines if line.direction == "tangent"}
    assert tangents == {f"t{equation.symbol}" for equation in net if equation.direction == "forward"}


def test_kinds_of_nodes(net):
    graph = draw(net).graph
    parameters = {node.id for node in graph.nodes if node.kind == "parameter"}
    assert parameters == {given.name for given in net.givens} - {"x", "y"}
    assert len({node.id for node in graph.nodes}) == len(graph.nodes)


def test_without_the_backward_pass():
    graph = draw(table(), backward=False).graph
    assert {edge.direction for edge in graph.edges} == {"forward"}


def test_shapes_in_numbers_and_bytes_of_the_memory_plan():
    mlp = tmb.MLP(784, 256, 10, "gelu", device="meta")
    graph = draw(mlp, batch=128).graph
    assert graph.node("w1").shape == (256, 784)
    assert graph.about("h").bytes == 4 * 128 * 256
    assert (graph.about("z").kept, graph.about("h").kept, graph.about("x").kept) == ("kept", "", "read again")
    relu = draw(tmb.MLP(784, 256, 10, "relu", device="meta"), batch=128).graph
    assert (relu.about("z").kept, relu.about("h").kept) == ("", "kept")
    plan, prediction = tmb.memory.plan(mlp, 128), tmb.memory.plan(mlp, 128, path="predict")
    words = " ".join(graph.totals)
    for number in (plan.peak_bytes, prediction.peak_bytes, plan.given_bytes, plan.kept_bytes):
        assert f"{number:,}" in words


def test_what_is_refused():
    mlp = tmb.MLP(3, 4, 5)
    with pytest.raises(TypeError, match=r"model must be a torch_manual_bp\.MLP, an Objective or a table"):
        draw("mlp")
    with pytest.raises(ValueError, match="batch belongs to a net"):
        draw(table(), batch=3)
    with pytest.raises(ValueError, match="wrong must hold names of equations; got dw3"):
        draw(mlp, wrong=["dw3"])
    with pytest.raises(ValueError, match="those of a mean without label smoothing"):
        draw(tmb.Objective(mlp, label_smoothing=0.1))
    mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks"):
        draw(mlp)
