import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from torch_manual_bp import kernels

from .precision import assert_accurate, assert_loss_accurate

SHAPES = [(1, 1), (5, 7), (300, 8), (300, 1), (5, 33), (70, 264), (33, 257), (3, 5003)]
OPS = {"mse": kernels.mse_, "bce": kernels.bce_with_logits_}


@pytest.fixture(params=list(OPS))
def loss(request):
    return request.param


def sample(B, q, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return 3 * torch.randn(B, q).to(dtype), torch.randn(q).to(dtype), torch.rand(B, q), torch.rand(B).to(wide) + 0.1


def torch_loss(name, o, bias, y, row_weight, reduction):
    """(L, ∂L/∂o) by torch and autograd, in o's dtype."""
    o = o.clone().requires_grad_()
    logits = o if bias is None else o + bias
    y = y.to(logits.dtype)
    terms = (logits - y) ** 2 if name == "mse" else F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    r = torch.ones(len(o), dtype=o.dtype) if row_weight is None else row_weight.to(o.dtype)
    L = (terms.sum(1) * r).sum()
    L = L / (r.sum() * o.shape[1]) if reduction == "mean" else L
    L.backward()
    return L.detach(), o.grad


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain_rows", "row_weight"])
@pytest.mark.parametrize("target", ["same_dtype", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_are_torchs(backend, loss, dtype, shape, target, weighted, reduction):
    o, bias, y, row_weight = sample(*shape, dtype)
    y = y.to(dtype) if target == "same_dtype" or dtype == torch.float64 else y
    row_weight = row_weight if weighted else None
    bias = bias if shape[1] % 2 else None
    double = [None if t is None else t.double() for t in (o, bias, y, row_weight)]
    true_L, true_do = torch_loss(loss, *double, reduction)
    _, own_do = torch_loss(loss, o, bias, y, row_weight, reduction)
    G = o.clone()
    L, scale = OPS[loss](G, bias, y, row_weight, reduction)
    assert L.dtype == scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_accurate(G, true_do / scale.double(), own_do.double() / scale.double(), terms=double[0].abs() + 1)
    logits = double[0].abs() + (0 if bias is None else double[1].abs())
    terms = (logits + 1).square() if loss == "mse" else logits + 1
    weight = 1.0 if row_weight is None else double[3][:, None]
    assert_loss_accurate(L, true_L, (weight * terms).sum().item() * scale.item())


def test_worked_by_hand(backend):
    """Residuals (1, −2): L = 5/2, Ĝ the residuals, scale 2/(Bq). Logit 0, y = ¼: L = log 2, Ĝ = ¼."""
    G = torch.tensor([[3.0, 0.0]])
    L, scale = kernels.mse_(G, torch.tensor([0.0, 1.0]), torch.tensor([[2.0, 3.0]]), None, "mean")
    assert L == 2.5 and scale == 1 and torch.equal(G, torch.tensor([[1.0, -2.0]]))
    G = torch.zeros(1, 1)
    L, scale = kernels.bce_with_logits_(G, None, torch.tensor([[0.25]]), None, "sum")
    assert L.item() == pytest.approx(math.log(2)) and scale == 1 and G.item() == 0.25


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 12), q=st.integers(1, 40), seed=st.integers(0, 99), twice=st.integers(0, 11))
@pytest.mark.parametrize("name", list(OPS))
def test_a_row_of_weight_two_is_the_row_twice(name, B, q, seed, twice):
    torch.manual_seed(seed)
    twice %= B
    o, bias, y, _ = sample(B, q, torch.float64)
    weight = torch.ones(B, dtype=torch.float64)
    weight[twice] = 2
    rows = [*range(B), twice]
    G, H, y = o.clone(), o[rows].clone(), y.double()
    L, scale = OPS[name](G, bias, y, weight, "mean")
    M, scale2 = OPS[name](H, bias, y[rows].clone(), None, "mean")
    torch.testing.assert_close((L, scale), (M, scale2))
    torch.testing.assert_close(G[twice], H[twice] + H[B])


def test_huge_logits_are_safe_and_nan_stays(backend, loss):
    o = torch.tensor([[1e4, -1e4, 100.0, -100.0]])
    y = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    true_L, _ = torch_loss(loss, o.double(), None, y, None, "sum")
    G = o.clone()
    L, _ = OPS[loss](G, None, y, None, "sum")
    assert L.item() == pytest.approx(true_L.item(), rel=1e-6) and G.isfinite().all()
    o[0, 2] = float("nan")
    L, _ = OPS[loss](o, None, y, None, "sum")
    assert L.isnan() and torch.equal(o.isnan(), torch.tensor([[False, False, True, False]]))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)], ids=str)
def test_nothing_to_average(backend, loss, shape):
    o = torch.zeros(shape)
    L, scale = OPS[loss](o, None, o.clone(), None, "mean")
    assert L.isnan() and scale == 0
    L, scale = OPS[loss](o, None, o.clone(), None, "sum")
    assert L == 0 and scale == (2 if loss == "mse" else 1)


def test_the_same_answer_whatever_the_threads(device_kernels, loss):
    o, bias, y, row_weight = sample(999, 257, torch.float32)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        G = o.clone()
        answers.append((*OPS[loss](G, bias, y, row_weight, "mean"), G))
    torch.set_num_threads(before)
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


@pytest.mark.parametrize(
    "bias, y, row_weight, message",
    [
        (torch.zeros(4), torch.zeros(4, 3), None, r"bias must have shape \(3\), got \(4\)"),
        (None, torch.zeros(3, 4), None, r"target must have shape \(4, 3\), got \(3, 4\)"),
        (None, torch.zeros(4, 3).double(), None, "target must be Float, got Double"),
        (None, torch.zeros(4, 3), torch.zeros(4).double(), "row_weight must be Float, got Double"),
        (None, torch.zeros(3, 4).t(), None, "target must be contiguous"),
    ],
)
def test_compiled_ops_check_before_they_write(compiled, loss, bias, y, row_weight, message):
    o = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match=message):
        OPS[loss](o, bias, y, row_weight, "mean")
    assert (o == 1).all()


def test_opcheck(device_kernels):
    for op in (device_kernels.mse_, device_kernels.bce_with_logits_):
        for row_weight in (None, torch.rand(5)):
            o, bias, y, _ = sample(5, 11, torch.float32)
            torch.library.opcheck(op.default, (o, bias, y, row_weight, True))
