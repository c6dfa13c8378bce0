"""Derivations with mistakes in them, written out as a student would, and right ones in other notations."""

import doctest
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from torch_manual_bp.equations import ACTIVATIONS, LOSSES, check, table

LAMBDA = 0.3


def softmax(o):
    return torch.softmax(o, 1)


def onehot(y, o):
    return F.one_hot(y, o.shape[1])


def sigmoid_d(z):
    return torch.sigmoid(z) * (1 - torch.sigmoid(z))


def normal_density(z):
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


# id: activation, loss, symbol, what was written, the kind; kind None where the catalogue has no name for it
SEEDED = {
    "dw2 without the penalty": ("tanh", "cross_entropy", "dw2", lambda do, h: do.T @ h, "missing weight decay"),
    "dw1 without the penalty": ("gelu", "mse", "dw1", lambda dz, x: dz.T @ x, "missing weight decay"),
    "penalty subtracted": (
        "relu", "mse", "dw2", lambda do, h, w2: do.T @ h - LAMBDA * w2, "sign of one term"),
    "penalty of λ ‖W‖²": (
        "silu", "cross_entropy", "dw1", lambda dz, x, w1: dz.T @ x + 2 * LAMBDA * w1, "factor of one term"),
    "penalty without its λ": ("tanh", "mse", "dw2", lambda do, h, w2: do.T @ h + w2, "missing λ"),
    "penalty averaged over the batch": (
        "elu", "mse", "dw1", lambda dz, x, w1, batch: dz.T @ x + LAMBDA * w1 / batch, "extra 1/B"),
    "λ on b1": (
        "sigmoid", "cross_entropy", "db1", lambda dz, b1: dz.sum(0) + LAMBDA * b1, "weight decay on a bias"),
    "λ on b2": ("relu", "bce_with_logits", "db2", lambda do, b2: do.sum(0) + LAMBDA * b2, "weight decay on a bias"),
    "db1 averaged": ("tanh", "mse", "db1", lambda dz: dz.mean(0), "mean for sum"),
    "db2 averaged": ("gelu_tanh", "cross_entropy", "db2", lambda do: do.mean(0), "mean for sum"),
    "db2 summed over the outputs": ("tanh", "mse", "db2", lambda do: do.sum(1), "sum over the wrong axis"),
    "db1 not summed": ("relu", "mse", "db1", lambda dz: dz, "missing sum over the rows"),
    "dh with w2 transposed": ("relu", "cross_entropy", "dh", lambda do, w2: do @ w2.T, "transpose"),
    "dx with w1 transposed": ("softplus", "mse", "dx", lambda dz, w1: dz @ w1.T, "transpose"),
    "dw1 the wrong way round": (
        "tanh", "cross_entropy", "dw1", lambda dz, x, w1: x.T @ dz + LAMBDA * w1, "transpose"),
    "dw2 all transposed": (
        "leaky_relu", "mse", "dw2", lambda do, h, w2: (do.T @ h + LAMBDA * w2).T, "transpose"),
    "φ′(h) for φ′(z)": (
        "sigmoid", "mse", "dz", lambda dh, h: dh * sigmoid_d(h), "φ′ of the wrong argument"),
    "1 − z² for 1 − h²": ("tanh", "cross_entropy", "dz", lambda dh, z: dh * (1 - z * z), "φ′ of the wrong argument"),
    "φ for φ′": ("gelu", "cross_entropy", "dz", lambda dh, h: dh * h, "φ′ of the wrong function"),
    "relu′ for leaky_relu′": (
        "leaky_relu", "mse", "dz", lambda dh, z: dh * (z > 0), "φ′ of the wrong function"),
    "gelu′ by tanh": (
        "gelu", "mse", "dz", lambda dh, z: dh * ACTIVATIONS["gelu_tanh"].dphi(z), "φ′ of the wrong function"),
    "φ″ for φ′": (
        "tanh", "bce_with_logits", "dz", lambda dh, h: dh * -2 * h * (1 - h * h), "φ′ of the wrong function"),
    "dz without φ′": ("silu", "cross_entropy", "dz", lambda dh: dh, "missing φ′"),
    "do without 1/B": (
        "relu", "cross_entropy", "do", lambda o, y: softmax(o) - onehot(y, o), "missing 1/B"),
    "1/B in the labels' term alone": (
        "relu", "cross_entropy", "do", lambda o, y, batch: softmax(o) - onehot(y, o) / batch, "missing 1/B"),
    "do without 1/q": ("tanh", "mse", "do", lambda o, y, batch: 2 * (o - y) / batch, "missing 1/q"),
    "do of a sum": ("tanh", "bce_with_logits", "do", lambda o, y: torch.sigmoid(o) - y, "missing 1/(Bq)"),
    "the 2 of a square": ("gelu", "mse", "do", lambda o, y: (o - y) / o.numel(), "factor"),
    "y − p": (
        "tanh", "cross_entropy", "do", lambda o, y, batch: (onehot(y, o) - softmax(o)) / batch, "sign"),
    "p + y": (
        "tanh", "cross_entropy", "do", lambda o, y, batch: (softmax(o) + onehot(y, o)) / batch, "sign of one term"),
    "σ for softmax": (
        "elu", "cross_entropy", "do",
        lambda o, y, batch: (torch.sigmoid(o) - onehot(y, o)) / batch, "wrong function"),
    "softmax down the columns": (
        "relu", "cross_entropy", "do",
        lambda o, y, batch: (torch.softmax(o, 0) - onehot(y, o)) / batch, "wrong axis"),
    "dw1 from dh": (
        "tanh", "cross_entropy", "dw1", lambda dh, x, w1: dh.T @ x + LAMBDA * w1, "wrong upstream"),
    "db1 from dh": ("sigmoid", "mse", "db1", lambda dh: dh.sum(0), "wrong upstream"),
    "dx from dh": ("gelu", "mse", "dx", lambda dh, w1: dh @ w1, "wrong upstream"),
    "dw2 with z for h": (
        "tanh", "cross_entropy", "dw2", lambda do, z, w2: do.T @ z + LAMBDA * w2, "wrong tensor"),
    "dw2 averaged": (
        "tanh", "cross_entropy", "dw2", lambda do, h, w2, batch: do.T @ h / batch + LAMBDA * w2, "extra 1/B"),
    "dz returned for dh": ("softplus", "mse", "dh", lambda dz: dz, "the value of another symbol"),
    "a factor of 1.7": ("relu", "mse", "dx", lambda dz, w1: 1.7 * dz @ w1, "factor"),
    "two mistakes": (
        "tanh", "cross_entropy", "dw2", lambda do, h: -(do.T @ h), "missing weight decay and sign of one term"),
    "relu_squared′ without its 2": ("relu_squared", "mse", "dz", lambda dh, z: dh * z.relu(), "factor"),
    "h without φ": ("tanh", "mse", "h", lambda z: z, "wrong function"),
    "z without b1": ("relu", "mse", "z", lambda x, w1: x @ w1.T, "missing term"),
    "s without its ½": (
        "relu", "mse", "s", lambda w1, w2: LAMBDA * (w1.square().sum() + w2.square().sum()), "factor"),
    "something else altogether": ("relu", "mse", "dx", lambda dz, w1: (dz @ w1).sin(), None),
    "an exception": ("relu", "mse", "dx", lambda dz, w1: dz @ w1 @ dz @ w1 + [], None),
    "a shape": ("relu", "mse", "dx", lambda dz, w1: (dz @ w1)[:2].exp(), None),
}  # fmt: skip


@pytest.mark.parametrize(("activation", "loss", "symbol", "mine", "kind"), SEEDED.values(), ids=SEEDED)
def test_a_seeded_mistake_is_found_and_named(activation, loss, symbol, mine, kind):
    report = check({symbol: mine}, activation, loss, weight_decay=LAMBDA)
    assert not report.ok
    assert report.wrong == (symbol,)
    if kind is None:
        assert not report[symbol].mistakes
    else:
        assert kind in report.kinds[symbol].split("; or ")


def test_most_seeded_mistakes_have_a_name():
    assert len(SEEDED) >= 20 and sum(kind is not None for *_, kind in SEEDED.values()) >= 15


def right(activation, loss, hidden_bias=True, output_bias=True):
    """The table itself as a derivation, each equation a function of its own inputs."""

    def function(equation):
        return lambda **values: equation(**{name: values[name] for name in equation.inputs})

    return {equation.symbol: function(equation) for equation in table(activation, loss, hidden_bias, output_bias)}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", list(itertools.product((True, False), repeat=2)), ids=str)
def test_the_table_passes_its_own_check(activation, loss, biases):
    for weight_decay in (0.0, 1e-4, 1.0):
        report = check(
            right(activation, loss, *biases), activation, loss,
            weight_decay=weight_decay, hidden_bias=biases[0], output_bias=biases[1],
        )  # fmt: skip
        assert report.ok and not report.unchecked and set(report.errors.values()) == {0.0}


def test_three_mistakes_at_once_are_all_found():
    ids = ("dw2 without the penalty", "1 − z² for 1 − h²", "dw1 the wrong way round")
    mine = right("tanh", "cross_entropy") | {SEEDED[name][2]: SEEDED[name][3] for name in ids}
    report = check(mine, "tanh", "cross_entropy", weight_decay=LAMBDA)
    assert report.kinds == {
        "dw2": "missing weight decay",
        "dz": "φ′ of the wrong argument",
        "dw1": "transpose",
    }
    assert set(report.right) == {"z", "h", "o", "L", "s", "J", "do", "db2", "dh", "db1", "dx"}


def test_two_kinds_that_fit_equally_are_both_reported():
    """λ = 1: λ/2 W is ½ W, and W without λ is right; λ = 2: W is a missing λ, and half of the penalty."""
    report = check({"dw2": lambda do, h, w2: do.T @ h + w2}, weight_decay=2.0)
    assert report.kinds["dw2"] == "factor of one term; or missing λ"
    assert check({"dw2": lambda do, h, w2: do.T @ h + w2}, weight_decay=1.0).ok


def test_the_example_of_the_design():
    mine = {"dw2": lambda do, h, w2, weight_decay: do.T @ h + weight_decay * w2}
    report = check(mine, activation="tanh", loss="cross_entropy", weight_decay=0.3)
    assert report.ok and report.right == ("dw2",) and report.unchecked == ("do", "db2", "dh", "dz", "dw1", "db1", "dx")


H_BASED = {
    "tanh": lambda h: 1 - h * h,
    "sigmoid": lambda h: h * (1 - h),
    "relu": lambda h: h > 0,
    "leaky_relu": lambda h: torch.where(h > 0, 1.0, 0.01),  # 0.01 in float32
    "elu": lambda h: torch.where(h > 0, h.new_ones(()), h + 1),
    "softplus": lambda h: -torch.expm1(-h),
    "relu_squared": lambda h: 2 * h.sqrt(),
    "identity": lambda h: 1,
}


@pytest.mark.parametrize("name", H_BASED)
def test_phi_dash_from_h_passes(name):
    assert check({"dz": lambda dh, h: dh * H_BASED[name](h)}, name).ok


COLUMNS = {
    "z": lambda x, w1, b1: w1 @ x + b1,
    "h": lambda z: torch.tanh(z),
    "o": lambda w2, h, b2: w2 @ h + b2,
    "do": lambda o, y, batch: (torch.softmax(o, 0) - F.one_hot(y, o.shape[0]).T) / batch,
    "dw2": lambda do, h, w2, weight_decay: do @ h.T + weight_decay * w2,
    "db2": lambda do: do.sum(1, keepdim=True),
    "dh": lambda do, w2: w2.T @ do,
    "dz": lambda dh, h: dh * (1 - h**2),
    "dw1": lambda dz, x, w1, weight_decay: dz @ x.T + weight_decay * w1,
    "db1": lambda dz: dz.sum(1),
    "dx": lambda w1, dz: w1.T @ dz,
}


def test_columns_pass_and_their_mistakes_are_named():
    assert check(COLUMNS, "tanh", layout="columns").ok
    wrong = {"dh": lambda do, w2: w2 @ do, "db1": lambda dz: dz.sum(0), "dw1": lambda dz, x: dz @ x.T}
    report = check(COLUMNS | wrong, "tanh", layout="columns")
    assert report.kinds == {"dh": "transpose", "dw1": "missing weight decay", "db1": "sum over the wrong axis"}


def test_columns_are_no_rows():
    assert set(check(COLUMNS, "tanh").wrong) >= {"o", "dw2", "dh", "dw1", "dx"}


IN_OUT = {
    "z": lambda x, w1, b1: x @ w1 + b1,
    "o": lambda h, w2, b2: h @ w2 + b2,
    "dw2": lambda h, do, w2, weight_decay: h.T @ do + weight_decay * w2,
    "dh": lambda do, w2: do @ w2.T,
    "dw1": lambda x, dz, w1, weight_decay: x.T @ dz + weight_decay * w1,
    "dx": lambda dz, w1: dz @ w1.T,
}


def test_weights_from_inputs_to_outputs_pass():
    assert check(IN_OUT, layout="in_out").ok
    assert check(IN_OUT | {"dh": lambda do, w2: do @ w2}, layout="in_out").kinds == {"dh": "transpose"}


def test_numpy_is_handed_out_and_taken():
    def do(o, y, batch):
        e = np.exp(o - o.max(1, keepdims=True))
        return (e / e.sum(1, keepdims=True) - np.eye(o.shape[1])[y]) / batch

    mine = {
        "do": do,
        "dw2": lambda do, h, w2, weight_decay: np.einsum("bq,bh->qh", do, h) + weight_decay * w2,
        "db2": lambda do: do.sum(0, keepdims=True),
        "dz": lambda dh, z: dh / np.cosh(z) ** 2,
    }
    assert check(mine, "tanh", values="numpy").ok
    assert check({"dw2": lambda do, h: do.T.dot(h)}, "tanh", values="numpy").kinds == {"dw2": "missing weight decay"}
    assert check({"db2": lambda do: do.sum(0).tolist()}).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_shorter_dtypes_are_held_to_their_own_accuracy(dtype):
    def dw2(do, h, w2, weight_decay):
        do, h, w2 = (t.to(dtype) for t in (do, h, w2))
        return do.T @ h + weight_decay * w2

    assert check({"dw2": dw2}).ok
    wrong = check({"dw2": lambda do, h, w2: do.to(dtype).T @ h.to(dtype)})
    assert wrong.kinds == {"dw2": "missing weight decay"}


def test_a_small_penalty_that_is_missing_is_no_rounding():
    assert check({"dw2": lambda do, h: do.T @ h}, weight_decay=1e-9).kinds == {"dw2": "missing weight decay"}


def test_the_error_is_that_of_the_values():
    report = check({"dx": lambda dz, w1: 1.25 * dz @ w1})
    assert report.errors["dx"] == pytest.approx(0.25, rel=1e-12)
    assert check({"dx": lambda dz, w1: 0}).errors["dx"] == math.inf  # no shape fits
    transposed = check({"dh": lambda do, w2: do @ w2.T})
    assert 0.1 < transposed.errors["dh"] < 10  # of the square shapes


def test_what_a_function_raises_or_returns_is_an_answer():
    report = check({"dx": lambda dz, w1: dz @ w1.nonesuch, "dh": lambda do, w2: "do w2", "db1": lambda dz: dz * 1j})
    assert "AttributeError" in report["dx"].note and "nonesuch" in report["dx"].note
    assert report["dh"].note == "expected a tensor, got str"
    assert report["db1"].note == "expected real numbers, got complex ones"
    assert check({"dx": lambda dz, w1: (dz @ w1).sum(0)})["dx"].note == "expected shape (B, d) = (5, 5), got (5,)"
    assert check({"dx": lambda dz, w1: (dz @ w1) / 0}).wrong == ("dx",)


def test_what_is_done_to_the_values_reaches_no_other_equation():
    def dz(dh, z):
        return dh.mul_(z.gt_(0))

    mine = right("relu", "mse") | {"dz": dz}
    assert check(mine, "relu", "mse").ok


def test_not_filled_in_is_not_wrong():
    def later(dz):
        raise NotImplementedError

    report = check({"dx": lambda dz, w1: ..., "dh": lambda do, w2: None, "db1": later, "db2": lambda do: do.sum(0)})
    assert (report.wrong, report.right, report.unfilled) == ((), ("db2",), ("dh", "db1", "dx"))
    assert not report.ok and set(report.unfilled) <= set(report.unchecked)
    assert "dx = …" in str(report) and table()["dx"].text not in str(report)


def test_the_report_says_it_all():
    report = check({"dw2": lambda do, h: do.T @ h, "db2": lambda do: do.sum(0)}, "tanh", "mse")
    text = str(report)
    for part in (
        "φ = tanh, l = mse, λ = 0.3",
        "5.3.11      dw2 = doᵀ h + λ w2",
        "wrong: missing weight decay",
        "yours: dw2 = doᵀ h\n",
        "1 right, 1 wrong",
        "not checked: do, dh, dz, dw1, db1, dx",
    ):
        assert part in text
    assert f"{report.errors['dw2']:.1e}" in text


BAD = {
    "unknown argument": ({"dw2": lambda do, hid: do}, TypeError, "dw2: an argument must be one of .*; got 'hid'"),
    "args": ({"dw2": lambda *args: args}, TypeError, r"dw2: an argument must be one of .*; got '\*args'"),
    "unknown symbol": ({"dw3": lambda do: do}, ValueError, "a symbol must be one of z, h, .*; got 'dw3'"),
    "no function": ({"dw2": 3}, TypeError, "dw2 must be a function, got int"),
    "no derivation": (3, TypeError, "mine must be a dictionary of functions, .* got int"),
}  # fmt: skip


@pytest.mark.parametrize(("mine", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(mine, error, message):
    with pytest.raises(error, match=f"^check: {message}"):
        check(mine)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("activation", "swish2", "activation must be one of identity, .*; got 'swish2'"),
        ("loss", "hinge", "loss must be one of cross_entropy, .*; got 'hinge'"),
        ("layout", "diagonal", "layout must be one of rows, columns, in_out; got 'diagonal'"),
        ("values", "jax", "values must be one of torch, numpy; got 'jax'"),
        ("weight_decay", -1.0, "weight_decay must be finite and not negative, got -1.0"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        check({}, **{setting: value})


def test_arguments_are_filled_by_name_whatever_their_kind():
    def dw2(do, /, h, *, w2, weight_decay=7.0, scale=1):
        return do.T @ h + scale * weight_decay * w2

    assert check({"dw2": dw2, "db2": lambda do, **rest: do.sum(0) + 0 * rest["b2"]}).ok


def test_a_bias_that_is_not_there_is_no_argument():
    with pytest.raises(TypeError, match="db1: an argument must be one of x, y, w1, b1, w2, z"):
        check({"db1": lambda dz, b2: dz.sum(0)}, output_bias=False)


def test_the_examples_of_the_docstring_are_true():
    outcome = doctest.testmod(sys.modules[check.__module__])
    assert outcome.attempted == 3 and outcome.failed == 0


def test_the_random_numbers_of_others_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check(right("relu", "mse"), "relu", "mse")
    assert torch.equal(torch.rand(2), expected)
