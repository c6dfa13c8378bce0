"""The catalogue: whatever mistake of it is made, it is found, and its kind is among those that are named."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from torch_manual_bp.equations import ACTIVATIONS, LOSSES, Equation, check, table
from torch_manual_bp.equations.mistakes import Catalogue
from torch_manual_bp.equations.trials import agree, trials, value_of

EASY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def catalogue_of(activation="tanh", loss="cross_entropy", hidden_bias=True, output_bias=True):
    equations = table(activation, loss, hidden_bias, output_bias)
    return equations, Catalogue(equations, ACTIVATIONS[activation])


def texts(symbol, activation="tanh", loss="cross_entropy"):
    equations, catalogue = catalogue_of(activation, loss)
    return {(mistake.kind, mistake.text) for mistake in catalogue.mistakes(equations[symbol])}


def test_the_mistakes_of_one_equation_are_those_that_a_teacher_knows():
    assert texts("dw2") >= {
        ("missing weight decay", "dw2 = doᵀ h"),
        ("sign of one term", "dw2 = doᵀ h - λ w2"),
        ("factor of one term", "dw2 = doᵀ h + 2λ w2"),
        ("missing λ", "dw2 = doᵀ h + w2"),
        ("extra 1/B", "dw2 = 1/B doᵀ h + λ w2"),
        ("transpose", "dw2 = do h + λ w2"),
        ("transpose", "dw2 = hᵀ do + λ w2ᵀ"),
        ("wrong upstream", "dw2 = dhᵀ h + λ w2"),
        ("wrong tensor", "dw2 = doᵀ z + λ w2"),
        ("⊙ for a matrix product", "dw2 = doᵀ ⊙ h + λ w2"),
        ("sign", "dw2 = -doᵀ h - λ w2"),
    }
    assert texts("dz") >= {
        ("φ′ of the wrong argument", "dz = dh ⊙ φ′(h)"),
        ("φ′ of the wrong function", "dz = dh ⊙ φ(z)"),
        ("φ′ of the wrong function", "dz = dh ⊙ relu′(z)"),
        ("missing φ′", "dz = dh"),
        ("matrix product for ⊙", "dz = dh φ′(z)"),
    }
    assert texts("db1") >= {
        ("mean for sum", "db1 = 1/B dzᵀ1"),
        ("sum over the wrong axis", "db1 = dz 1"),
        ("weight decay on a bias", "db1 = dzᵀ1 + λ b1"),
        ("wrong upstream", "db1 = dhᵀ1"),
    }
    assert texts("do") >= {
        ("missing 1/B", "do = softmax(o) - onehot(y)"),
        ("missing 1/B", "do = softmax(o) - 1/B onehot(y)"),
        ("wrong function", "do = 1/B σ(o) - 1/B onehot(y)"),
    }
    assert ("missing 1/q", "do = 2/B r") in texts("do", loss="mse")


def test_no_mistake_reads_as_the_equation_itself():
    for activation, loss in itertools.product(ACTIVATIONS, LOSSES):
        equations, catalogue = catalogue_of(activation, loss)
        for equation in equations:
            for mistake in catalogue.mistakes(equation):
                assert isinstance(mistake.equation, Equation) and mistake.equation != equation
                assert mistake.text != equation.text


@pytest.mark.parametrize("loss", LOSSES)
def test_no_value_is_a_mistakes_where_the_equation_is_right(activation, loss):
    """Those that give the same values as the equation (φ′(h) of relu) are few, and of the kinds that may."""
    equations, catalogue = catalogue_of(activation, loss)
    case = trials(equations, 0.3)[1]
    same = {
        mistake.text
        for equation in equations
        for mistake in catalogue.mistakes(equation)
        if agree(value_of(mistake.equation, case), value_of(equation, case))
    }
    by_sign = {"dz = dh ⊙ φ′(h)", "dz = dh ⊙ (φ′ in terms of h)(z)"}  # φ′ depends on the sign of z, which is that of h
    harmless = {
        "identity": {*by_sign, "dz = dh ⊙ φ′(dh)"},  # 1 of whatever
        "relu": by_sign,
        "leaky_relu": by_sign,
    }
    assert {text for text in same if "φ′" in text and "axis" not in text} == harmless.get(activation, set())


@st.composite
def derivations_with_a_mistake(draw):
    """A table, one of its equations, and a mistake in it that changes a value in some trial."""
    activation, loss = draw(st.sampled_from(list(ACTIVATIONS))), draw(st.sampled_from(LOSSES))
    biases = draw(st.booleans()), draw(st.booleans())
    weight_decay = draw(st.sampled_from([1e-4, 0.3, 1.7]))
    equations, catalogue = catalogue_of(activation, loss, *biases)
    equation = draw(st.sampled_from(list(equations)))
    mistake = draw(st.sampled_from(list(catalogue.mistakes(equation))))
    cases = trials(equations, weight_decay)
    assume(not all(agree(value_of(mistake.equation, case), value_of(equation, case)) for case in cases))
    assume(any(value_of(mistake.equation, case) is not None for case in cases))
    settled = {"weight_decay": weight_decay, "hidden_bias": biases[0], "output_bias": biases[1]}
    return (activation, loss), settled, equation, mistake


@EASY
@given(derivations_with_a_mistake())
def test_a_mistake_of_the_catalogue_is_found_and_its_kind_is_named(made):
    net, settled, equation, mistake = made

    def mine(**values):
        sizes = {
            size: length
            for name, symbol in equation.tensors.items()
            for size, length in zip(symbol.shape, values[name].shape, strict=True)
        }
        sizes |= {"B": values["batch"], "d": values["w1"].shape[1], "h": values["w2"].shape[1], "q": len(values["w2"])}
        return mistake.equation.evaluate(values, sizes)

    report = check({equation.symbol: mine}, *net, **settled)
    assert report.wrong == (equation.symbol,)
    assert mistake.kind in report.kinds[equation.symbol].split("; or "), mistake.text
    assert mistake.text in [found.text for found in report[equation.symbol].mistakes]


def test_pairs_hold_two_mistakes():
    equations, catalogue = catalogue_of()
    pairs = {(pair.kind, pair.text) for pair in catalogue.pairs(equations["dw1"])}
    assert ("missing weight decay and sign of one term", "dw1 = -dzᵀ x") in pairs
    assert ("sign of one term and transpose", "dw1 = dz x - λ w1") in pairs


def test_the_trials_are_the_same_ones_every_time_and_their_sizes_differ():
    first, second = trials(table(), 0.3), trials(table(), 0.3)
    assert all(torch.equal(a.values["dx"], b.values["dx"]) for a, b in zip(first, second, strict=True))
    kinds = {len(set(case.sizes.values())) for case in first}
    assert kinds == {1, 4}  # square ones, and ones without two equal sizes
    assert len({case.sizes["B"] for case in first}) == len(first)  # 1/B is no constant
