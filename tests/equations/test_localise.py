"""Whole backward passes: the equation that is wrong is blamed, and not those that follow from it."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from torch_manual_bp.equations import ACTIVATIONS, check, table
from torch_manual_bp.equations.mistakes import Catalogue
from torch_manual_bp.equations.trials import agree, trials, value_of

RETURNED = ("dw1", "db1", "dw2", "db2")
RIGHT = {
    "z": lambda v: v["x"] @ v["w1"].T + v["b1"],
    "h": lambda v: torch.tanh(v["z"]),
    "o": lambda v: v["h"] @ v["w2"].T + v["b2"],
    "do": lambda v: (torch.softmax(v["o"], 1) - F.one_hot(v["y"], v["o"].shape[1])) / v["batch"],
    "dw2": lambda v: v["do"].T @ v["h"] + v["weight_decay"] * v["w2"],
    "db2": lambda v: v["do"].sum(0),
    "dh": lambda v: v["do"] @ v["w2"],
    "dz": lambda v: v["dh"] * (1 - v["h"] ** 2),
    "dw1": lambda v: v["dz"].T @ v["x"] + v["weight_decay"] * v["w1"],
    "db1": lambda v: v["dz"].sum(0),
    "dx": lambda v: v["dz"] @ v["w1"],
}


def backward(returned=RETURNED, as_tuple=False, **wrong):
    """A backward function that computes it all from x, y and the parameters, some equations being wrong."""

    def function(x, y, w1, b1, w2, b2, weight_decay, batch):
        v = {"x": x, "y": y, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "weight_decay": weight_decay, "batch": batch}
        for symbol, equation in (RIGHT | wrong).items():
            v[symbol] = equation(v)
        return tuple(v[s] for s in returned) if as_tuple else {s: v[s] for s in returned}

    return function


# id: what is wrong, whom to blame, the kind, who follows
WRONG = {
    "dz without φ′": ({"dz": lambda v: v["dh"]}, "dz", "missing φ′", ("dw1", "db1")),
    "φ′(h)": (
        {"dz": lambda v: v["dh"] * (1 - torch.tanh(v["h"]) ** 2)}, "dz", "φ′ of the wrong argument", ("dw1", "db1")),
    "1 − z²": ({"dz": lambda v: v["dh"] * (1 - v["z"] ** 2)}, "dz", "φ′ of the wrong argument", ("dw1", "db1")),
    "do without 1/B": (
        {"do": lambda v: torch.softmax(v["o"], 1) - F.one_hot(v["y"], v["o"].shape[1])},
        "do", "missing 1/B", ("dw2", "db2", "dw1", "db1")),
    "a forward pass without b1": (
        {"z": lambda v: v["x"] @ v["w1"].T}, "z", "missing term", ("dw2", "db2", "dw1", "db1")),
    "dw2 without penalty": ({"dw2": lambda v: v["do"].T @ v["h"]}, "dw2", "missing weight decay", ()),
    "db1 averaged": ({"db1": lambda v: v["dz"].mean(0)}, "db1", "mean for sum", ()),
    "dw1 from dh": (
        {"dw1": lambda v: v["dh"].T @ v["x"] + v["weight_decay"] * v["w1"]}, "dw1", "wrong upstream", ()),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "blamed", "kind", "follows"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("as_tuple", [False, True], ids=["dictionary", "tuple"])
def test_the_first_wrong_equation_is_blamed(wrong, blamed, kind, follows, as_tuple):
    report = check(backward(as_tuple=as_tuple, **wrong), "tanh")
    assert report.wrong == (blamed,)
    assert report.kinds[blamed] == kind
    assert set(report.follows) & set(RETURNED) == set(follows)
    assert set(report.right) >= set(RETURNED) - {blamed, *follows}
    assert all(report.errors[symbol] > 1e-3 for symbol in (blamed, *follows))
    for symbol in follows:
        assert report[symbol].note == f"from {blamed}"


def test_a_right_one_passes_and_is_seen_to_its_depths():
    report = check(backward(as_tuple=True), "tanh")
    assert report.ok and report.right == ("do", "dw2", "db2", "dh", "dz", "dw1", "db1") and report.unchecked == ("dx",)
    assert check(backward(("dx", *RETURNED), as_tuple=True), "tanh").right[-1] == "dx"
    assert check(backward(tuple(RIGHT)), "tanh").unchecked == ()


def test_what_is_returned_on_the_way_is_judged_by_itself():
    """dz is wrong in no known way: where it is returned, dw1 and db1 are seen to be right."""
    wrong = {"dz": lambda v: v["dh"].exp()}
    report = check(backward((*RETURNED, "do", "dh", "dz"), **wrong), "tanh")
    assert report.wrong == ("dz",) and report.follows == ("dw1", "db1")
    assert "not in the catalogue" in report.kinds["dz"]


def test_a_hidden_equation_wrong_in_no_known_way_is_suspected():
    report = check(backward(dz=lambda v: v["dh"].exp()), "tanh")
    assert report.wrong == ("dz",) and report.follows == ("dw1", "db1")
    assert "not in the catalogue" in report.kinds["dz"]
    assert report["dz"].note == "what follows from it, dw1, db1, is wrong altogether"


def test_three_at_once_are_found_hidden_or_not():
    wrong = {
        "do": lambda v: RIGHT["do"](v) * v["batch"],
        "dz": lambda v: v["dh"] * (1 - v["z"] ** 2),
        "dw2": lambda v: v["do"].T @ v["h"],
    }
    report = check(backward(**wrong), "tanh")
    assert report.kinds == {
        "do": "missing 1/B", "dw2": "missing weight decay", "dz": "φ′ of the wrong argument",
    }  # fmt: skip
    assert report.follows == ("db2", "dh", "dw1", "db1")


def test_places_that_fit_equally_are_all_told():
    """−dh and −dz make the same dw1 and db1."""
    kinds = check(backward(dz=lambda v: -RIGHT["dz"](v)), "tanh").kinds
    assert kinds == {"dh": "sign; or sign in dz"}
    alone = check(backward(("dw2", "db2", "db1"), dz=lambda v: v["dh"]), "tanh").kinds
    assert alone == {"db1": "wrong upstream; or missing φ′ in dz"}


def test_a_transpose_that_fails_where_sizes_differ_is_told_by_the_square_shapes():
    report = check(backward(dh=lambda v: v["do"] @ v["w2"].T), "tanh")
    assert report.kinds == {"dh": "transpose"}
    assert "where sizes differ, backward raises RuntimeError" in report.failure
    assert report.failure in str(report)


def test_labels_divided_in_float32_are_no_mistake():
    wrong = {"do": lambda v: torch.softmax(v["o"], 1) / v["batch"] - F.one_hot(v["y"], v["o"].shape[1]) / v["batch"]}
    assert check(backward(**wrong), "tanh").ok
    report = check(backward(dz=lambda v: v["dh"], **wrong), "tanh")
    assert report.kinds == {"dz": "missing φ′"}


def test_given_values_are_not_blamed():
    def function(x, dh, h, w1, weight_decay):
        dz = -dh * (1 - h * h)
        return {"dw1": dz.T @ x + weight_decay * w1, "db1": dz.sum(0), "dx": dz @ w1}

    assert check(function, "tanh").kinds == {"dz": "sign"}


def test_numpy_and_columns():
    def function(x, w1, h, do, w2, weight_decay):
        dz = (w2.T @ do) * (1 - h * h)
        return {"dw1": dz @ x.T, "db1": dz.sum(1, keepdims=True), "dx": w1.T @ dz}

    report = check(function, "tanh", layout="columns", values="numpy")
    assert report.kinds == {"dw1": "missing weight decay"} and report.right == ("dh", "dz", "db1", "dx")


def test_what_cannot_be_judged_is_said():
    report = check(lambda x: 1 / 0, "tanh")
    assert (report.ok, report.findings, report.failure) == (
        False, (), "backward raises ZeroDivisionError: division by zero")  # fmt: skip
    empty = check(lambda x: None, "tanh")
    assert not empty.ok and empty.failure == "not filled in: backward returns nothing"
    partly = check(lambda do: {"db2": do.sum(0), "dw2": None}, "tanh")
    assert (partly.right, partly.unfilled, partly.ok) == (("db2",), ("dw2",), False)


@pytest.mark.parametrize(
    ("mine", "error", "message"),
    [
        (lambda x: {"dW1": x}, ValueError, "backward must return values of do, .*; got one of 'dW1'"),
        (lambda x: (x, x), ValueError, "backward must return 4 gradients, dw1, db1, dw2, db2, or 5, .*; got 2"),
        (lambda x: x, TypeError, "backward must return a dictionary or a tuple, got Tensor"),
        (lambda weights: {}, TypeError, "backward: an argument must be one of x, .*; got 'weights'"),
    ],
)
def test_bad_backward_functions_are_refused(mine, error, message):
    with pytest.raises(error, match=f"^check: {message}"):
        check(mine)


@st.composite
def a_mistake_inside(draw):
    activation = draw(st.sampled_from(["tanh", "relu", "gelu"]))
    loss = draw(st.sampled_from(["cross_entropy", "mse"]))
    equations = table(activation, loss)
    hidden = draw(st.sampled_from(["do", "dh", "dz", *RETURNED]))
    mistake = draw(st.sampled_from(list(Catalogue(equations, ACTIVATIONS[activation]).mistakes(equations[hidden]))))
    cases = trials(equations, 0.3)
    values = [value_of(mistake.equation, case) for case in cases]
    shapes = [case.values[hidden].shape for case in cases]
    assume(all(value is not None and value.shape == shape for value, shape in zip(values, shapes, strict=True)))
    assume(not agree(values[0], cases[0].values[hidden]))
    return activation, loss, hidden, mistake


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(a_mistake_inside())
def test_a_mistake_inside_is_blamed_or_told_beside_what_fits_equally(made):
    activation, loss, place, mistake = made
    equations = table(activation, loss)

    def function(x, y, w1, b1, w2, b2, weight_decay, batch):
        v = {"x": x, "y": y, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "weight_decay": weight_decay}
        sizes = {"B": batch, "d": x.shape[1], "h": len(w1), "q": len(w2)}
        for equation in equations:
            wrong = mistake.equation if equation.symbol == place else equation
            v[equation.symbol] = wrong.evaluate(equations.evaluate(v) | v, sizes)
        return {symbol: v[symbol] for symbol in (*RETURNED, "dx")}

    report = check(function, activation, loss)
    assert len(report.wrong) == 1
    (kinds,) = report.kinds.values()
    told = {mistake.kind} if report.wrong == (place,) else {f"{mistake.kind} in {place}"}
    assert told & set(kinds.split("; or ")), (mistake.text, str(report))


class MLP(torch.autograd.Function):
    """o, with ∂J/∂o sent in: right."""

    @staticmethod
    def forward(ctx, x, w1, b1, w2, b2):
        h = torch.tanh(x @ w1.T + b1)
        ctx.save_for_backward(x, w1, w2, h)
        return h @ w2.T + b2

    @staticmethod
    def backward(ctx, do):
        x, w1, w2, h = ctx.saved_tensors
        dz = (do @ w2) * (1 - h * h)
        return dz @ w1, dz.T @ x, dz.sum(0), do.T @ h, do.sum(0)


class Objective(torch.autograd.Function):
    """J, in the style with setup_context: right."""

    @staticmethod
    def forward(x, y, w1, b1, w2, b2, weight_decay):
        o = torch.tanh(x @ w1.T + b1) @ w2.T + b2
        return F.cross_entropy(o, y) + weight_decay / 2 * (w1.square().sum() + w2.square().sum())

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.weight_decay = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, dJ):
        x, y, w1, b1, w2, b2 = ctx.saved_tensors
        v = {"x": x, "y": y, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "batch": len(x), "weight_decay": ctx.weight_decay}
        for symbol, equation in RIGHT.items():
            v[symbol] = equation(v)
        return dJ * v["dx"], None, *(dJ * v[s] for s in RETURNED), None


def test_functions_that_are_right_pass():
    for function, output in ((MLP, "o"), (Objective, "J")):
        report = check(function, "tanh")
        assert report.ok and set(report.right) >= {output, "dx", *RETURNED}, str(report)


def with_backward(base, backward):
    return type("Mine", (base,), {"backward": staticmethod(backward)})


def test_the_backward_pass_of_a_function_is_localised():
    def without_dphi(ctx, do):
        x, w1, w2, h = ctx.saved_tensors
        dz = do @ w2
        return dz @ w1, dz.T @ x, dz.sum(0), do.T @ h, do.sum(0)

    def with_penalty(ctx, do):
        dx, dw1, db1, dw2, db2 = MLP.backward(ctx, do)
        return dx, dw1, db1, dw2 + 0.3 * ctx.saved_tensors[2], db2

    def without_dx(ctx, do):
        return None, *MLP.backward(ctx, do)[1:]

    report = check(with_backward(MLP, without_dphi), "tanh")
    assert report.kinds == {"dz": "missing φ′"} and report.follows == ("dw1", "db1", "dx")
    # the MLP alone has no penalty: λ belongs to the objective
    assert check(with_backward(MLP, with_penalty), "tanh").kinds == {"dw2": "weight decay out of place"}
    partly = check(with_backward(MLP, without_dx), "tanh")
    assert (partly.wrong, partly.unfilled) == ((), ("dx",))


def test_the_forward_pass_of_a_function_is_checked_too():
    class Mine(MLP):
        @staticmethod
        def forward(ctx, x, w1, b1, w2, b2):
            return MLP.forward(ctx, x, w1, 0 * b1, w2, b2)

    report = check(Mine, "tanh")
    assert report.kinds == {"z": "missing term"} and "o" in report.follows

    class Full(Objective):
        @staticmethod
        def forward(x, y, w1, b1, w2, b2, weight_decay):
            return Objective.forward(x, y, w1, b1, w2, b2, 2 * weight_decay)

    assert check(Full, "tanh").kinds == {"J": "factor of one term; or factor in s"}


def test_a_gradient_that_leaves_out_what_is_sent_in_is_found():
    def ignores(ctx, dJ):
        return Objective.backward(ctx, torch.ones_like(dJ))

    def penalty_ignores(ctx, dJ):
        dx, _, dw1, db1, dw2, db2, _ = Objective.backward(ctx, dJ)
        return dx, None, dw1, db1, dw2 + (1 - dJ) * 0.3 * ctx.saved_tensors[4], db2, None

    report = check(with_backward(Objective, ignores), "tanh")
    assert set(report.kinds) == {*RETURNED, "dx"} and set(report.kinds.values()) == {"wrong upstream"}
    assert check(with_backward(Objective, penalty_ignores), "tanh").wrong == ("dw2",)


def test_a_function_whose_forward_asks_for_something_else_is_refused():
    class Mine(MLP):
        @staticmethod
        def forward(ctx, inputs, w1):
            return inputs

    with pytest.raises(TypeError, match=r"check: forward: an argument must be one of x, y, .*; got 'inputs'"):
        check(Mine)

    class Twice(MLP):
        @staticmethod
        def forward(ctx, x, w1):
            return x, w1

    assert "forward must return o as a tensor, got tuple" in check(Twice).failure
