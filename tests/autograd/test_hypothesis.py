"""Shapes, strides, dtypes and options that nobody would have listed."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS, LOSSES

from .reference import (
    LAMBDA,
    LOSS,
    SAVES,
    composition,
    error,
    gradients,
    leaves,
    objective,
    tensors,
)

pytestmark = pytest.mark.usefixtures("on_device")


moderate = settings(
    deadline=None, max_examples=150, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # all examples of a test are on one device
)  # fmt: skip
sizes = st.integers(1, 9) | st.sampled_from([16, 17, 33, 64])
leads = st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.tuples(st.sampled_from([31, 64, 257]))
# A float32 sum of n products errs by a few eps; what is compared has at most three products of n ≤ 257 in a row.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4}


@st.composite
def layouts(draw):
    """A change of strides that leaves the values alone."""
    kind = draw(st.sampled_from(["contiguous", "transposed", "strided", "offset"]))

    def change(a):
        if kind == "transposed" and a.dim() > 1:
            return a.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "strided" and a.dim() > 0:
            return a.repeat_interleave(2, -1)[..., ::2]
        if kind == "offset":
            return torch.cat([a.new_zeros(3), a.flatten()])[3:].view(a.shape)
        return a

    return change


@st.composite
def problems(draw):
    """x, w1, b1, w2, b2 of any layout, some of them frozen; and y."""
    d, h, q, lead = draw(sizes), draw(sizes), draw(sizes), draw(leads)
    dtype = draw(st.sampled_from(list(TOLERANCES)))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x, *parameters = tensors(1, d, h, q, draw(st.booleans()), draw(st.booleans()), dtype, requires_grad=False)
    x = torch.randn(*lead, d).to(dtype)
    t = [None if a is None else draw(layouts())(a).requires_grad_(draw(st.booleans())) for a in (x, *parameters)]
    return t, lead, q, dtype


def assert_same(ours, torchs, dtype):
    for got, expected in zip(ours, torchs, strict=True):
        assert got.shape == expected.shape and got.dtype == expected.dtype
        assert torch.equal(got.isnan(), expected.isnan())
        got, expected = got.nan_to_num(0), expected.nan_to_num(0)
        if expected.numel():
            scale = max(1.0, expected.abs().max().item())
            assert (got - expected).abs().max().item() <= TOLERANCES[dtype] * scale, error(got, expected)


@moderate
@given(problems(), st.sampled_from(list(ACTIVATIONS)), st.sampled_from(SAVES), layouts())
def test_mlp(problem, activation, save, layout):
    t, _, _, dtype = problem
    o, expected = tmb.functional.mlp(*t, activation, save), composition(*t, activation)
    ours, torchs = [o], [expected]
    if at := leaves(*t):
        do = layout(torch.randn(o.shape, dtype=dtype))
        ours += gradients(o, at, grad_outputs=do)
        torchs += gradients(expected, at, grad_outputs=do)
    assert o.requires_grad == expected.requires_grad
    assert_same(ours, torchs, dtype)


@moderate
@given(problems(), st.sampled_from(list(ACTIVATIONS)), st.sampled_from(SAVES), st.data())
def test_objective(problem, activation, save, data):
    t, lead, q, dtype = problem
    loss, reduction = data.draw(st.sampled_from(LOSSES)), data.draw(st.sampled_from(["mean", "sum"]))
    options, torchs_options = {"reduction": reduction}, {"reduction": reduction}
    y = torch.rand(*lead, q).to(dtype)
    if loss == "cross_entropy":
        y = torch.randint(q, lead)
        smoothing, ignored = data.draw(st.sampled_from([0.0, 0.1, 1.0])), data.draw(st.sampled_from([-100, 0]))
        weight = torch.rand(q).to(dtype) + 0.1 if data.draw(st.booleans()) else None
        options |= {"label_smoothing": smoothing, "ignore_index": ignored, "class_weight": weight}
        torchs_options |= {"label_smoothing": smoothing, "ignore_index": ignored, "weight": weight}
    y = data.draw(layouts())(y)
    biases = {"hidden_bias": t[2] is not None, "output_bias": t[4] is not None}
    J = objective(activation, loss, save, d=t[1].shape[1], h=t[1].shape[0], q=q, dtype=dtype, **biases, **options)(
        *t, y
    )
    rows = composition(*t, activation).reshape(-1, q)
    expected = LOSS[loss](rows, y.reshape(-1, *y.shape[len(lead) :]), **torchs_options)
    expected = expected + LAMBDA / 2 * (t[1].square().sum() + t[3].square().sum())
    at = leaves(*t)
    ours, torchs = ([value, *(gradients(value, at) if at else [])] for value in (J, expected))
    assert_same(ours, torchs, dtype)
