import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from torch_manual_bp import kernels

from .precision import assert_accurate, assert_loss_accurate

SHAPES = [(1, 1), (5, 7), (300, 8), (300, 10), (5, 31), (5, 33), (33, 257), (3, 1032), (3, 5003), (2, 8200), (2, 8201)]
IGNORED = -100


def sample(B, q, dtype):
    """o, bias, target with some rows ignored, class weights and row weights."""
    o, bias = 3 * torch.randn(B, q).to(dtype), torch.randn(q).to(dtype)
    target = torch.where(torch.rand(B) < 0.2, IGNORED, torch.randint(q, (B,)))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return o, bias, target, torch.rand(q).to(wide) + 0.1, torch.rand(B).to(wide) + 0.1


def torch_loss(o, bias, target, class_weight, row_weight, smoothing, ignore_index, reduction):
    """(L, ∂L/∂o) by torch.nn.functional.cross_entropy and autograd, in o's dtype."""
    o = o.clone().requires_grad_()
    logits = o if bias is None else o + bias
    w = None if class_weight is None else class_weight.to(o.dtype)
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
    if row_weight is None:
        L = F.cross_entropy(logits, target, w, reduction=reduction, **options)
    else:
        r = row_weight.to(o.dtype)
        L = (F.cross_entropy(logits, target, w, reduction="none", **options) * r).sum()
        if reduction == "mean":
            kept = target != ignore_index
            L = L / (r * kept * (1 if w is None else w[target.where(kept, 0)])).sum()
    L.backward()
    return L.detach(), o.grad


def doubled(*tensors):
    return [t if t is None or not t.is_floating_point() else t.double() for t in tensors]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", ["none", "class", "row", "both"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_is_torchs(backend, dtype, shape, weights, smoothing, reduction):
    o, bias, target, class_weight, row_weight = sample(*shape, dtype)
    if (target == IGNORED).all():
        target[0] = 0
    class_weight = class_weight if weights in ("class", "both") else None
    row_weight = row_weight if weights in ("row", "both") else None
    bias = bias if shape[1] % 2 else None
    arguments = (bias, target, class_weight, row_weight)
    true_L, true_do = torch_loss(*doubled(o, *arguments), smoothing, IGNORED, reduction)
    _, own_do = torch_loss(o, *arguments, smoothing, IGNORED, reduction)
    G = o.clone()
    L, scale = kernels.cross_entropy_(G, *arguments, smoothing, IGNORED, reduction)
    assert L.shape == scale.shape == ()
    assert L.dtype == scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if reduction == "sum":
        assert scale == 1
    # Ĝ = r (a p − t) is a difference of terms of at most this size, and −log p one of logits
    weight = (1.0 if row_weight is None else row_weight.max()) * (1.0 if class_weight is None else class_weight.max())
    logits = o.double() if bias is None else o.double() + bias.double()
    assert_accurate(G, true_do / scale.double(), own_do.double() / scale.double(), terms=torch.as_tensor(weight))
    assert_loss_accurate(L, true_L, float(weight * scale * logits.abs().amax(1).sum() + true_L))
    assert not G[target == IGNORED].any()


def test_worked_by_hand(backend):
    """p = (1/4, 3/4), y = 0: L = log 4, Ĝ = p − (1, 0); with ε = ½ the loss is (¾ log 4 + ¼ log 4/3)."""
    o = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    y = torch.tensor([0])
    G = o.clone()
    L, scale = kernels.cross_entropy_(G, None, y, None, None, 0.0, IGNORED, "mean")
    assert L.item() == pytest.approx(math.log(4)) and scale == 1
    torch.testing.assert_close(G, torch.tensor([[-0.75, 0.75]], dtype=torch.float64))
    L, _ = kernels.cross_entropy_(o.clone(), None, y, None, None, 0.5, IGNORED, "mean")
    assert L.item() == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(4 / 3))


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 12), q=st.integers(1, 40), seed=st.integers(0, 99), twice=st.integers(0, 11))
def test_a_row_of_weight_two_is_the_row_twice(B, q, seed, twice):
    torch.manual_seed(seed)
    twice %= B
    o, bias, target, class_weight, _ = sample(B, q, torch.float64)
    target[twice] = q - 1
    weight = torch.ones(B, dtype=torch.float64)
    weight[twice] = 2
    rows = [*range(B), twice]
    G, H = o.clone(), o[rows].clone()
    L, scale = kernels.cross_entropy_(G, bias, target, class_weight, weight, 0.1, IGNORED, "mean")
    M, scale2 = kernels.cross_entropy_(H, bias, target[rows].clone(), class_weight, None, 0.1, IGNORED, "mean")
    torch.testing.assert_close((L, scale), (M, scale2))
    torch.testing.assert_close(G[twice], H[twice] + H[B])


def test_huge_logits_are_safe(backend, dtype):
    o = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]]).to(dtype)
    y = torch.tensor([0, 1, 1])
    true_L, true_do = torch_loss(o.double(), None, y, None, None, 0.1, IGNORED, "sum")
    G = o.clone()
    L, _ = kernels.cross_entropy_(G, None, y, None, None, 0.1, IGNORED, "sum")
    assert L.item() == pytest.approx(true_L.item(), rel=1e-6)
    torch.testing.assert_close(G, true_do.to(dtype))


@pytest.mark.parametrize("y", [0, 1])
def test_impossible_classes_and_nan_as_in_torch(backend, y):
    """A logit of −∞: fine beside the label, an infinite loss at it; NaN and +∞ make their row NaN, and L."""
    inf = float("inf")
    for row in ([-inf, 1.0, 2.0], [-inf, -inf, -inf], [inf, 1.0, 2.0], [float("nan"), 1.0, 2.0]):
        o = torch.tensor([[0.5, 1.0, 2.0], row])
        target = torch.tensor([0, y])
        true_L, true_do = torch_loss(o, None, target, None, None, 0.0, IGNORED, "sum")
        G = o.clone()
        L, _ = kernels.cross_entropy_(G, None, target, None, None, 0.0, IGNORED, "sum")
        torch.testing.assert_close(L, true_L, equal_nan=True)
        torch.testing.assert_close(G, true_do, equal_nan=True)


def test_nothing_to_average(backend):
    """As in torch the loss is NaN and the gradient 0: so scale is 0, not ∞."""
    for B in (0, 4):
        G = torch.randn(B, 5)
        y = torch.full((B,), IGNORED)
        L, scale = kernels.cross_entropy_(G, None, y, None, None, 0.0, IGNORED, "mean")
        assert L.isnan() and scale == 0 and not G.any()
        L, scale = kernels.cross_entropy_(torch.randn(B, 5), None, y, None, None, 0.0, IGNORED, "sum")
        assert L == 0 and scale == 1


def test_ignored_rows_are_zero_whatever_they_hold(backend):
    o = torch.tensor([[float("nan"), 1.0], [0.0, 0.0]])
    L, scale = kernels.cross_entropy_(o, None, torch.tensor([7, 0]), None, None, 0.0, 7, "mean")
    assert L.item() == pytest.approx(math.log(2)) and scale == 1
    assert torch.equal(o, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


def test_the_same_answer_whatever_the_threads(device_kernels):
    o, bias, target, class_weight, row_weight = sample(999, 257, torch.float32)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        G = o.clone()
        answers.append((*kernels.cross_entropy_(G, bias, target, class_weight, row_weight, 0.1, IGNORED, "mean"), G))
    torch.set_num_threads(before)
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


DEVICE_ASSERT = r"device-side assert: .*target must hold labels in \[0, q\)"  # nothing is asked of a GPU beforehand


@pytest.mark.parametrize("bad", [5, -1, 2**40, -(2**63)])
def test_bad_labels_raise_before_o_is_written(backend, device, bad):
    if device != "cpu":
        pytest.skip(
            "to look at labels before the kernel runs would wait for the device: find_bad_label does, on request"
        )
    o = torch.randn(40, 5)
    before = o.clone()
    y = torch.randint(5, (40,))
    y[31] = bad
    told = rf"labels in \[0, 5\) or -100; got {bad} at row 31"
    with pytest.raises((ValueError, RuntimeError), match=DEVICE_ASSERT if backend == "cuda_on_cpu" else told):
        kernels.cross_entropy_(o, None, y, None, None, 0.0, IGNORED, "mean")
    assert torch.equal(o, before) or backend == "cuda_on_cpu"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"o": torch.zeros(4, 3).t()}, r"o must be contiguous, got strides \(1, 3\)"),
        ({"bias": torch.zeros(4)}, r"bias must have shape \(3\), got \(4\)"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, r"target must have shape \(4\), got \(5\)"),
        ({"target": torch.zeros(4, dtype=torch.int32)}, "target must be Long, got Int"),
        ({"class_weight": torch.zeros(3).double()}, "class_weight must be Float, got Double"),
        ({"row_weight": torch.zeros(3)}, r"row_weight must have shape \(4\), got \(3\)"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
    ],
)
def test_compiled_op_checks_before_it_writes(compiled, change, message):
    given = dict(o=torch.zeros(4, 3), bias=None, target=torch.zeros(4, dtype=torch.int64), class_weight=None)
    given |= dict(row_weight=None, label_smoothing=0.0, ignore_index=IGNORED, reduction="mean") | change
    with pytest.raises(RuntimeError, match=message):
        kernels.cross_entropy_(**given)
    assert not given["o"].any()


def test_opcheck(device_kernels):
    for with_weights in (True, False):
        o, bias, target, class_weight, row_weight = sample(5, 11, torch.float32)
        extra = (bias, target, class_weight, row_weight) if with_weights else (None, target, None, None)
        torch.library.opcheck(device_kernels.cross_entropy_.default, (o, *extra, 0.1, IGNORED, True))
