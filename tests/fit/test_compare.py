import math

import pytest
import torch
from torch import nn

from torch_manual_bp.equations import table
from torch_manual_bp.fit import PATHS, Settings
from torch_manual_bp.fit.compare import AutogradObjective, check_gradients, relative_difference

LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
EPSILON = torch.finfo(torch.float32).eps


def batch(loss, dtype=torch.float64, b=16, d=5, q=3):
    x = torch.randn(b, d, dtype=dtype)
    y = torch.randint(q, (b,)) if loss == "cross_entropy" else torch.rand(b, q, dtype=dtype)
    return x, y


def test_the_objective_worked_by_hand():
    """x = 2, w1 = 1: h = 2; w2 = (1, −1): o = (2, −2); L = log(1 + e⁻⁴), s = λ/2 (1 + 2)."""
    fc1, fc2 = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    fc1.weight.data.fill_(1)
    fc2.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    J = AutogradObjective(fc1.double(), nn.ReLU(), fc2.double(), "cross_entropy", 0.5)(
        torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0])
    )
    assert J.item() == pytest.approx(math.log1p(math.exp(-4)) + 0.75, rel=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_opponent_computes_what_the_equations_say(loss, activation):
    settings = Settings(activation=activation, hidden=7, dtype="float64", weight_decay=0.1)
    mlp = settings.make_mlp(5, 3)
    x, y = batch(loss)
    given = {"x": x, "y": y, "w1": mlp.fc1.weight, "b1": mlp.fc1.bias, "w2": mlp.fc2.weight, "b2": mlp.fc2.bias}
    exact = table(activation, loss).evaluate({k: v.detach() for k, v in given.items()} | {"weight_decay": 0.1})
    J = AutogradObjective.beside(mlp, settings, loss)(x, y)
    torch.testing.assert_close(J.detach(), exact["J"], rtol=1e-13, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree(loss, path, activation):
    settings = Settings(activation=activation, hidden=7, path=path)
    mlp = settings.make_mlp(5, 3)
    check = check_gradients(4, mlp, settings, loss, *batch(loss, torch.float32))
    assert check.step == 4
    assert list(check.difference) == ["dw1", "db1", "dw2", "db2"]
    for symbol in check.difference:
        assert check.float64[symbol] <= 1e-12
        # twice autograd's own error, or a few roundings where that happens to be next to none
        assert check.error[symbol] <= 2 * check.autograd_error[symbol] + 4 * EPSILON


def test_a_wrong_gradient_shows(monkeypatch):
    """With another λ on one side the weights' gradients part by (λ − λ′) W, and the biases' do not."""
    settings = Settings(hidden=7, weight_decay=0.1, dtype="float64")
    mlp = settings.make_mlp(5, 3)
    beside = AutogradObjective.beside
    wrong = Settings(hidden=7, weight_decay=0.2, dtype="float64")
    monkeypatch.setattr(AutogradObjective, "beside", lambda mlp, _, loss: beside(mlp, wrong, loss))
    x, y = batch("mse")
    check = check_gradients(0, mlp, settings, "mse", x, y)
    (dw2,) = torch.autograd.grad(beside(mlp, wrong, "mse")(x, y), mlp.fc2.weight)
    expected = 0.1 * mlp.fc2.weight.abs().max() / dw2.abs().max()
    assert check.float64["dw2"] == pytest.approx(expected.item(), rel=1e-12)
    assert check.float64["db1"] <= 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_a_check_leaves_no_trace_and_sees_none(path):
    settings = Settings(hidden=7, path=path)
    mlp = settings.make_mlp(5, 3)
    x, y = batch("mse", torch.float32)
    check = check_gradients(0, mlp, settings, "mse", x, y)
    assert all(parameter.grad is None for parameter in mlp.parameters())
    for parameter in mlp.parameters():
        parameter.grad = torch.full_like(parameter, 7)
    before = [parameter.clone() for parameter in mlp.parameters()]
    assert check_gradients(0, mlp, settings, "mse", x, y) == check
    assert all(torch.equal(a, b) for a, b in zip(before, mlp.parameters(), strict=True))
    assert all((parameter.grad == 7).all() and parameter.dtype is torch.float32 for parameter in mlp.parameters())


def test_only_the_biases_that_are_there_are_compared():
    settings = Settings(hidden=7, hidden_bias=False, output_bias=False)
    check = check_gradients(0, settings.make_mlp(5, 3), settings, "mse", *batch("mse", torch.float32))
    assert list(check.difference) == ["dw1", "dw2"]


def test_relative_difference_by_hand():
    assert relative_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0])) == 0.125
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_difference(torch.ones(2), torch.zeros(2)) == math.inf
