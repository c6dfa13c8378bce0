"""float64 against the equations themselves, on the compiled kernels and on the fallback."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb
from torch_manual_bp.equations import LOSSES

from .reference import (
    LAMBDA,
    LOSS,
    NAMES,
    SAVES,
    assert_close,
    composition,
    gradients,
    here,
    leaves,
    objective,
    targets,
    tensors,
)

pytestmark = pytest.mark.usefixtures("backend")
TOLERANCE = 1e-12
BIASES = [
    pytest.param(
        *biases, id="-".join(name for name, there in zip(("b1", "b2"), biases, strict=True) if there) or "none"
    )
    for biases in itertools.product((True, False), repeat=2)
]


def evaluated(t, y, activation, loss, weight_decay):
    values = {name: tensor.detach() for name, tensor in zip(NAMES, t, strict=True) if tensor is not None}
    equations = tmb.equations.table(activation, loss, t[2] is not None, t[4] is not None)
    return equations.evaluate(values | {"y": y, "weight_decay": weight_decay})


def present(t):
    return [f"d{name}" for name, tensor in zip(NAMES, t, strict=True) if tensor is not None]


@pytest.mark.parametrize(("hidden_bias", "output_bias"), BIASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_objective(activation, loss, save, hidden_bias, output_bias):
    t, y = tensors(hidden_bias=hidden_bias, output_bias=output_bias), targets(loss)
    J = objective(activation, loss, save, hidden_bias=hidden_bias, output_bias=output_bias)(*t, y)
    expected = evaluated(t, y, activation, loss, LAMBDA)
    assert_close([J, *gradients(J, leaves(*t))], [expected[symbol] for symbol in ("J", *present(t))], TOLERANCE)


@pytest.mark.parametrize(("hidden_bias", "output_bias"), BIASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_mlp(activation, loss, save, hidden_bias, output_bias):
    t, y = tensors(hidden_bias=hidden_bias, output_bias=output_bias), targets(loss)
    expected = evaluated(t, y, activation, loss, 0.0)
    o = tmb.functional.mlp(*t, activation, save)
    got = gradients(o, leaves(*t), grad_outputs=expected["do"])
    assert_close([o, *got], [expected[symbol] for symbol in ("o", *present(t))], TOLERANCE)


@pytest.mark.parametrize("save", SAVES)
def test_value_without_a_gradient_is_the_same(activation, save, loss="mse"):
    t, y = tensors(), targets(loss)
    expected = evaluated(t, y, activation, loss, LAMBDA)
    with torch.no_grad():
        got = tmb.functional.mlp(*t, activation, save), objective(activation, loss, save)(*t, y)
    assert_close(got, (expected["o"], expected["J"]), TOLERANCE)


# --------------------------------------------------------------------------------------------------------- loss options

CLASS_WEIGHT = torch.tensor([0.2, 1.5, 0.7, 1.0], dtype=torch.float64)
OPTIONS = [
    ("cross_entropy", {"reduction": "sum"}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"ignore_index": 2}),
    ("cross_entropy", {"ignore_index": -7}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.2, "ignore_index": 1}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT, "label_smoothing": 1.0, "ignore_index": -7, "reduction": "sum"}),
    ("mse", {"reduction": "mean"}),
    ("mse", {"reduction": "sum"}),
    ("bce_with_logits", {"reduction": "mean"}),
    ("bce_with_logits", {"reduction": "sum"}),
]
with_options = pytest.mark.parametrize(
    ("loss", "options"),
    OPTIONS,
    ids=["-".join([loss, *options, options.get("reduction", "")]) for loss, options in OPTIONS],
)


def option_targets(loss, options, B=12):
    y = targets(loss, B)
    if loss == "cross_entropy":
        y[:4] = torch.arange(4)
        if options.get("ignore_index", 0) < 0:
            y[5] = options["ignore_index"]
    return y


@with_options
def test_loss_options_are_torchs(loss, options):
    t, y = tensors(B=12), option_targets(loss, options)
    J = objective("tanh", loss, **options)(*t, y)
    torchs = {{"class_weight": "weight"}.get(name, name): value for name, value in here(options).items()}
    expected = LOSS[loss](composition(*t, "tanh"), y, **torchs) + LAMBDA / 2 * (
        t[1].square().sum() + t[3].square().sum()
    )
    assert_close([J, *gradients(J, leaves(*t))], [expected, *gradients(expected, leaves(*t))], TOLERANCE)


@with_options
def test_a_row_of_weight_two_counts_twice_and_of_weight_zero_not_at_all(loss, options):
    t, y, J = tensors(B=12), option_targets(loss, options), objective("gelu", loss, **options)
    times = torch.tensor([1, 2, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1])
    weighted = J(*t, y, times.double())
    repeated = J(t[0].repeat_interleave(times, 0), *t[1:], y.repeat_interleave(times, 0))
    assert_close([weighted, *gradients(weighted, leaves(*t))], [repeated, *gradients(repeated, leaves(*t))], TOLERANCE)


@with_options
def test_row_weights_scale_the_second_order_as_well(loss, options):
    t, y, J = tensors(B=12), option_targets(loss, options), objective("tanh", loss, **options)
    times = torch.tensor([1, 2, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1])

    def curved(value):
        first = gradients(value, leaves(*t[1:]), create_graph=True)
        return gradients(sum(g.sin().sum() for g in first), leaves(*t))

    weighted = curved(J(*t, y, times.double()))
    repeated = curved(J(t[0].repeat_interleave(times, 0), *t[1:], y.repeat_interleave(times, 0)))
    assert_close(weighted, repeated, 1e-11, NAMES)


def test_all_rows_ignored_is_torchs_nan_with_finite_gradients_of_the_penalty():
    t, y = tensors(), torch.full((7,), -100)
    J = objective("relu")(*t, y)
    dx, dw1, *_ = gradients(J, leaves(*t))
    assert J.isnan() and F.cross_entropy(composition(*t, "relu"), y).isnan()
    assert torch.equal(dx, torch.zeros_like(dx)) and torch.equal(dw1, LAMBDA * t[1])


def test_targets_that_require_a_gradient_get_one(save):
    t, y = tensors(), targets("mse").requires_grad_()
    J = objective("tanh", "mse", save)(*t, y)
    expected = F.mse_loss(composition(*t, "tanh"), y) + LAMBDA / 2 * (t[1].square().sum() + t[3].square().sum())
    assert_close(gradients(J, [*leaves(*t), y]), gradients(expected, [*leaves(*t), y]), TOLERANCE, (*NAMES, "y"))


def test_a_step_moves_the_modules_own_parameters_as_sgd_with_weight_decay_does():
    """λ of the Objective is SGD's weight_decay, but for biases, which are not penalised."""
    mlp = tmb.MLP(5, 6, 4, "tanh", dtype=torch.float64)
    twin = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    twin.load_state_dict(dict(zip(twin.state_dict(), mlp.state_dict().values(), strict=True)))
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randint(4, (9,))
    ours = torch.optim.SGD(mlp.parameters(), 0.5)
    weights, biases = [twin[0].weight, twin[2].weight], [twin[0].bias, twin[2].bias]
    torchs = torch.optim.SGD([{"params": weights, "weight_decay": LAMBDA}, {"params": biases}], 0.5)
    tmb.Objective(mlp, weight_decay=LAMBDA)(x, y).backward()
    F.cross_entropy(twin(x), y).backward()
    ours.step()
    torchs.step()
    assert_close(mlp.parameters(), twin.parameters(), TOLERANCE)
