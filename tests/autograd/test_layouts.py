"""Inputs, targets and cotangents of every dimension, stride and size, empty ones among them."""

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp.equations import LOSSES

from .reference import (
    LAMBDA,
    LOSS,
    assert_close,
    composition,
    gradients,
    leaves,
    objective,
    objective_composition,
    targets,
    tensors,
)

pytestmark = pytest.mark.usefixtures("on_device")
TOLERANCE = 1e-12


def both(t, y, activation, loss, save, cotangent=None):
    """(O and its gradients, J and its gradients), by us and by the composition."""
    functions = (
        (lambda *t: tmb.functional.mlp(*t, activation, save), objective(activation, loss, save)),
        (lambda *t: composition(*t, activation), objective_composition(activation, loss)),
    )
    for mlp, J in functions:
        o, value = mlp(*t), J(*t, y)
        do = torch.ones_like(o) if cotangent is None else cotangent
        yield [o, *gradients(o, leaves(*t), grad_outputs=do), value, *gradients(value, leaves(*t))]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (2, 1, 3)], ids=str)
def test_inputs_of_any_dimension(lead, loss, save):
    _, *parameters = tensors()
    x = torch.randn(*lead, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, lead) if loss == "cross_entropy" else torch.rand(*lead, 4, dtype=torch.float64)
    o = tmb.functional.mlp(x, *parameters, "gelu", save)
    J = objective("gelu", loss, save)(x, *parameters, y)
    flat = composition(x.reshape(-1, 5), *parameters, "gelu")
    expected = LOSS[loss](flat, y.reshape(-1, *y.shape[len(lead) :]))
    expected = expected + LAMBDA / 2 * (parameters[0].square().sum() + parameters[2].square().sum())
    assert o.shape == (*lead, 4) and J.shape == ()
    at = (x, *parameters)
    assert_close([J, *gradients(J, at)], [expected, *gradients(expected, at, retain_graph=True)], TOLERANCE)
    got, twice = (gradients(value.square().sum(), at) for value in (o, flat))
    assert_close([o.reshape(-1, 4), *got], [flat, *twice], TOLERANCE)


def test_row_weights_have_the_shape_of_the_labels():
    _, *parameters = tensors()
    x, y = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(4, (2, 3))
    r = torch.rand(2, 3, dtype=torch.float64)
    J = objective("tanh")
    assert_close([J(x, *parameters, y, r)], [J(x.view(6, 5), *parameters, y.view(6), r.view(6))], TOLERANCE)


LAYOUTS = {
    "transposed": lambda a: a.t().contiguous().t() if a.dim() == 2 else a,
    "every other row": lambda a: a.repeat_interleave(2, 0)[::2],
    "every other column": lambda a: a.repeat_interleave(2, -1)[..., ::2],
    "zero stride in rows": lambda a: a[:1].expand(a.shape[0], *a.shape[1:]),
    "zero stride in columns": lambda a: a[..., :1].expand(a.shape),
    "with an offset": lambda a: torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_all_tensors(layout, loss, save):
    t = tuple(LAYOUTS[layout](a.detach()).requires_grad_() for a in tensors())
    y = LAYOUTS[layout](targets(loss))
    for activation in ("relu", "gelu"):
        assert_close(*both(t, y, activation, loss, save), TOLERANCE)


COTANGENTS = {
    "zero stride": lambda: torch.ones((), dtype=torch.float64).expand(7, 4),
    "zero stride in rows": lambda: torch.randn(1, 4, dtype=torch.float64).expand(7, 4),
    "transposed": lambda: torch.randn(4, 7, dtype=torch.float64).t(),
    "strided": lambda: torch.randn(14, 8, dtype=torch.float64)[::2, ::2],
}


@pytest.mark.parametrize("name", COTANGENTS)
def test_layouts_of_cotangents(name, activation, save):
    do = COTANGENTS[name]()
    before = do.clone()
    assert_close(*both(tensors(), targets("mse"), activation, "mse", save, do), TOLERANCE)
    assert torch.equal(do, before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_empty_batch_is_as_in_torch(loss, reduction, activation):
    """The mean over no rows is NaN; gradients are what they are there, and the penalty's remains."""
    t, y = tensors(B=0), targets(loss, B=0)
    J = objective(activation, loss, reduction=reduction)(*t, y)
    expected = objective_composition(activation, loss, reduction=reduction)(*t, y)
    got, torchs = [J, *gradients(J, t)], [expected, *gradients(expected, t)]
    for ours, theirs in zip(got, torchs, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-14, atol=0)
    o = tmb.functional.mlp(*t, activation)
    assert o.shape == (0, 4) and all(not g.any() for g in gradients(o.sum(), t))


def test_an_empty_batch_with_leading_dimensions():
    _, *parameters = tensors()
    x = torch.zeros(2, 0, 5, dtype=torch.float64, requires_grad=True)
    o = tmb.functional.mlp(x, *parameters)
    assert o.shape == (2, 0, 4) and gradients(o.sum(), [x])[0].shape == x.shape


@pytest.mark.parametrize("sizes", [{"d": 0}, {"h": 0}, {"q": 0}], ids=str)
def test_a_width_of_zero(sizes, activation, save):
    """h = 0 leaves the output bias; its gradient must not depend on uninitialised memory."""
    t = tensors(**sizes)
    results = []
    for f in (lambda *t: tmb.functional.mlp(*t, activation, save), lambda *t: composition(*t, activation)):
        o = f(*t)
        results.append([o, *gradients(o.sin().sum(), t)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-13, atol=1e-15)
