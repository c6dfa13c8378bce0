"""The exercise: a Python file that asks for each equation, and does not give it away."""

import itertools

import pytest

from torch_manual_bp.equations import LOSSES, check, exercise, table


def functions_of(text):
    names = {}
    exec(compile(text, "exercise.py", "exec"), names)
    return names


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", list(itertools.product((True, False), repeat=2)), ids=str)
@pytest.mark.parametrize("forward", [True, False])
def test_each_equation_has_a_function_that_can_be_filled_in(loss, biases, forward):
    equations = table("tanh", loss, *biases)
    asked = [e for e in equations if forward or e.direction == "backward"]
    names = functions_of(exercise("tanh", loss, *biases, forward))
    assert (names["ACTIVATION"], names["LOSS"]) == ("tanh", loss)
    assert (names["HIDDEN_BIAS"], names["OUTPUT_BIAS"]) == biases
    mine = {e.symbol: names[e.symbol] for e in asked}
    report = check(mine, "tanh", loss, hidden_bias=biases[0], output_bias=biases[1])
    assert report.unfilled == tuple(mine) and report.wrong == () and not report.ok
    for equation in asked:  # its arguments are enough
        code = mine[equation.symbol].__code__
        assert {*code.co_varnames} - {"batch"} == {*equation.inputs}


def test_shapes_and_labels_stand_there_and_answers_do_not():
    text = exercise("gelu", "cross_entropy")
    assert "# ∂J/∂w2, (q, h), D2L 5.3.11\ndef dw2(w2, h, do, weight_decay):\n    ...\n" in text
    assert "# ∂J/∂b1, (h,), exercise 2\ndef db1(dz):\n    ...\n" in text
    for equation in table("gelu", "cross_entropy"):
        assert (equation.text in text) == (equation.direction == "forward")
    everything = exercise("gelu", "cross_entropy", forward=True)
    assert not any(equation.text in everything for equation in table("gelu", "cross_entropy"))


def test_lines_are_no_longer_than_ours():
    for loss in LOSSES:
        assert max(map(len, exercise("relu_squared", loss).splitlines())) <= 120


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="activation must be one of"):
        exercise("swish2")
