"""Two walks over tiles of classes give what cross_entropy_ gives of the whole logits."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_manual_bp import kernels

from .precision import assert_accurate, assert_loss_accurate
from .test_cross_entropy import IGNORED, doubled, sample, torch_loss

Q = 1100  # classes: more than two of the kernels' short sums
TILINGS = {"one tile": [Q], "one class a tile": [1] * 40, "uneven": [1, 600, 7, 33, 459], "even": [220] * 5}
INF, NAN = math.inf, math.nan


def walk(o, bias, target, class_weight, row_weight, smoothing, ignore_index, widths, backwards=False):
    """(Σ r l, Σ r w_y, Ĝ) of o (B,q) by two walks over tiles of these widths."""
    q = o.shape[1]
    assert sum(widths) == q
    spans = list(itertools.pairwise(itertools.accumulate(widths, initial=0)))
    statistics = kernels.new_statistics(o.shape[0], o)
    tiles = []
    for begin, end in reversed(spans) if backwards else spans:
        b, w = (None if t is None else t[begin:end].contiguous() for t in (bias, class_weight))
        tile = o[:, begin:end].clone(memory_format=torch.contiguous_format)
        kernels.class_statistics_(tile, b, target, w, begin, statistics)
        assert torch.equal(tile.nan_to_num(), o[:, begin:end].nan_to_num())
        tiles.append((begin, b, w, tile))
    sums = kernels.class_loss(statistics, target, row_weight, q, smoothing, ignore_index)
    G = torch.empty_like(o)
    for begin, b, w, tile in tiles:
        kernels.cross_entropy_classes_(tile, b, target, w, row_weight, begin, q, smoothing, ignore_index, statistics)
        G[:, begin : begin + tile.shape[1]] = tile
    return *sums, G


def whole(o, bias, target, class_weight, row_weight, smoothing, ignore_index):
    """(Σ r l, Σ r w_y, Ĝ) by the op on whole rows; the quotient of a sum and a mean is Σ r w_y."""
    G = o.clone()
    arguments = (bias, target, class_weight, row_weight, smoothing, ignore_index)
    L, _ = kernels.cross_entropy_(G, *arguments, "sum")
    _, scale = kernels.cross_entropy_(o.clone(), *arguments, "mean")
    return L, 1 / scale, G


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", ["none", "class", "row", "both"])
@pytest.mark.parametrize("tiling", TILINGS)
def test_tiles_of_classes_are_as_accurate_as_whole_rows(backend, dtype, tiling, weights, smoothing):
    widths = TILINGS[tiling]
    o, bias, target, class_weight, row_weight = sample(9, sum(widths), dtype)
    target[:2] = torch.tensor([0, sum(widths) - 1])
    arguments = (
        bias if weights != "row" else None,
        target,
        class_weight if weights in ("class", "both") else None,
        row_weight if weights in ("row", "both") else None,
        smoothing,
        IGNORED,
    )
    total, weight, G = walk(o, *arguments, widths)
    assert total.dtype == weight.dtype == torch.float64 and total.shape == weight.shape == ()

    one_total, one_weight, one_G = whole(o, *arguments)
    # two roundings of the same sums: the contract in float64; a few steps of what the short sums are taken in elsewhere
    rounding = 1e-12 if dtype == torch.float64 else 4 * torch.finfo(torch.float32).eps
    torch.testing.assert_close((total, weight), (one_total.double(), one_weight.double()), rtol=rounding, atol=0)
    torch.testing.assert_close(G, one_G, rtol=2 * torch.finfo(dtype).eps, atol=rounding)

    *tensors, smoothing, ignore_index = arguments
    truth, true_G = torch_loss(*doubled(o, *tensors), smoothing, ignore_index, "sum")
    _, own_G = torch_loss(o, *arguments, "sum")
    largest = math.prod(1.0 if t is None else t.max().item() for t in tensors[2:])
    assert_accurate(G, true_G, own_G, terms=torch.as_tensor(largest))
    logits = o.double() if arguments[0] is None else o.double() + bias.double()
    terms = float(largest * logits.abs().amax(1).sum() + truth)
    assert_loss_accurate(total if dtype == torch.float64 else total.float(), truth, terms)
    assert not G[target == IGNORED].any()


def test_worked_by_hand(backend):
    """p = (1/4, 3/4), y = 0, r = 2: Σ r l = 2 log 4, Σ r w_y = 2, Ĝ = 2 (p − (1, 0)), one class at a time."""
    o = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    y, r = torch.tensor([0]), torch.tensor([2.0], dtype=torch.float64)
    total, weight, G = walk(o, None, y, None, r, 0.0, IGNORED, [1, 1])
    assert total.item() == pytest.approx(2 * math.log(4)) and weight == 2
    torch.testing.assert_close(G, torch.tensor([[-1.5, 1.5]], dtype=torch.float64))


def test_statistics_are_what_they_are_called(backend):
    o, bias, target, class_weight, _ = sample(4, 30, torch.float64)
    target[:] = torch.tensor([0, 9, 10, 29])
    statistics = kernels.new_statistics(4, o)
    for begin in (0, 10, 20):
        span = slice(begin, begin + 10)
        arguments = (bias[span].contiguous(), target, class_weight[span].contiguous(), begin, statistics)
        kernels.class_statistics_(o[:, span].contiguous(), *arguments)
    x = o + bias
    below = x.amax(1, keepdim=True) - x
    columns = (x.amax(1), (-below).exp().sum(1), x.gather(1, target[:, None])[:, 0], class_weight[target])
    columns += (class_weight.sum().expand(4), (class_weight * below).sum(1))
    torch.testing.assert_close(statistics, torch.stack(columns, 1), rtol=1e-14, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(widths=st.lists(st.integers(1, 30), min_size=1, max_size=8), B=st.integers(1, 9), seed=st.integers(0, 99))
def test_neither_the_tiling_nor_the_order_of_the_tiles_matters(widths, B, seed):
    torch.manual_seed(seed)
    arguments = (*sample(B, sum(widths), torch.float64), 0.1, IGNORED)
    one = walk(*arguments, [sum(widths)])
    for backwards in (False, True):
        torch.testing.assert_close(walk(*arguments, widths, backwards), one, rtol=1e-12, atol=1e-13)


def test_rising_logits_do_not_cancel(backend):
    """The top moves with each tile, by far more than the logits of a tile differ; Σ_k w_k (top − x_k) moves along."""
    q, steps = 60, 12
    o = (torch.arange(q) // 5 * 1e4).double() + torch.rand(7, q, dtype=torch.float64) + 1e9
    w, y = torch.rand(q, dtype=torch.float64), torch.randint(q, (7,))
    truth, true_G = torch_loss(o - 1e9, None, y, w, None, 0.1, IGNORED, "sum")
    for backwards in (False, True):
        total, _, G = walk(o, None, y, w, None, 0.1, IGNORED, [q // steps] * steps, backwards)
        assert total.item() == pytest.approx(truth.item(), rel=1e-10)  # o's own rounding is 1e-7 of a tile's logits
        torch.testing.assert_close(G, true_G, rtol=1e-6, atol=1e-6)
        one_total, _, one_G = whole(o, None, y, w, None, 0.1, IGNORED)
        assert total.item() == pytest.approx(one_total.item(), rel=1e-14)
        torch.testing.assert_close(G, one_G, rtol=1e-12, atol=1e-14)


def test_huge_logits_are_safe(backend, dtype):
    o = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]]).to(dtype)
    y = torch.tensor([0, 1, 1])
    truth, true_G = torch_loss(o.double(), None, y, None, None, 0.1, IGNORED, "sum")
    for widths in ([1, 1, 1], [1, 2], [3]):
        total, _, G = walk(o, None, y, None, None, 0.1, IGNORED, widths)
        assert total.item() == pytest.approx(truth.item(), rel=1e-6)
        torch.testing.assert_close(G, true_G.to(dtype))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("widths", [[1, 1, 1, 1], [2, 2], [3, 1], [4]], ids=str)
@pytest.mark.parametrize(
    "row",
    [
        [-INF, -INF, 1.0, 2.0],
        [1.0, 2.0, -INF, -INF],
        [-INF, 1.0, -INF, 2.0],
        [-INF, -INF, -INF, -INF],
        [INF, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, INF],
        [INF, -INF, INF, 0.0],
        [NAN, 1.0, 2.0, 3.0],
        [1.0, 2.0, 3.0, NAN],
        [NAN, NAN, -INF, 0.0],
    ],
    ids=str,
)
def test_impossible_classes_and_nan_as_in_whole_rows(backend, dtype, row, widths, smoothing):
    """Whole tiles of −∞, first or last, an infinite loss at the label, NaN rows; the row beside is none the worse."""
    o = torch.tensor([[0.5, 1.0, 2.0, -1.0], row]).to(dtype)
    for y in range(4):
        target = torch.tensor([0, y])
        for class_weight in (None, torch.tensor([1.0, 0.5, 2.0, 3.0]).to(torch.promote_types(dtype, torch.float32))):
            arguments = (o, None, target, class_weight, None, smoothing, IGNORED)
            total, weight, G = walk(*arguments, widths)
            one_total, one_weight, one_G = whole(*arguments)
            assert G[0].isfinite().all()
            torch.testing.assert_close(
                (total, weight, G), (one_total.double(), one_weight.double(), one_G), equal_nan=True
            )


@pytest.mark.parametrize("ignore_index", [-7, 0, 2])
def test_ignored_rows_are_zero_whatever_they_hold(backend, ignore_index):
    """Also where the ignored label is a class."""
    o = torch.tensor([[NAN, 1.0, INF], [0.0, 0.0, 0.0]])
    target = torch.tensor([ignore_index, 1])
    total, weight, G = walk(o, None, target, None, None, 0.0, ignore_index, [2, 1])
    assert total.item() == pytest.approx(math.log(3)) and weight == 1
    torch.testing.assert_close(G, torch.tensor([[0.0, 0.0, 0.0], [1 / 3, -2 / 3, 1 / 3]]))


def test_nothing_to_do(backend):
    """No rows, rows that are all ignored, and a tile of no classes."""
    for B in (0, 4):
        total, weight, G = walk(torch.randn(B, 5), None, torch.full((B,), IGNORED), None, None, 0.1, IGNORED, [2, 3])
        assert total == weight == 0 and not G.any()
    o, bias, target, class_weight, row_weight = sample(4, 5, torch.float32)
    target[0] = 3
    arguments = (o, bias, target, class_weight, row_weight, 0.1, IGNORED)
    assert all(map(torch.equal, walk(*arguments, [0, 2, 0, 3, 0]), walk(*arguments, [2, 3])))


def test_a_walk_that_misses_the_labels_tile_says_so(backend):
    o, target = torch.randn(2, 4), torch.tensor([0, 3])
    statistics = kernels.new_statistics(2, o)
    kernels.class_statistics_(o, None, target, None, 0, statistics)
    kernels.class_statistics_(o, None, torch.tensor([9, 9]), None, 4, statistics)
    assert kernels.class_loss(statistics, target, None, 8, 0.0, IGNORED)[0].isfinite()
    missed = kernels.new_statistics(2, o)
    kernels.class_statistics_(o[:, :2].contiguous(), None, target, None, 0, missed)
    total, weight = kernels.class_loss(missed, target, None, 8, 0.0, IGNORED)
    assert total.isnan() and weight.isnan()


def test_the_same_answer_whatever_the_threads_and_the_rows_beside(device_kernels):
    o, bias, target, class_weight, row_weight = sample(999, 257, torch.float32)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        answers.append(walk(o, bias, target, class_weight, row_weight, 0.1, IGNORED, [100, 157]))
    torch.set_num_threads(before)
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))
    part = walk(o[500:510], bias, target[500:510], class_weight, row_weight[500:510], 0.1, IGNORED, [100, 157])
    assert torch.equal(part[2], answers[0][2][500:510])


STATISTICS, GRADIENT, LOSS = "class_statistics_", "cross_entropy_classes_", "class_loss"


@pytest.mark.parametrize(
    "op, change, message",
    [
        (STATISTICS, {"o": torch.zeros(4, 3).t().contiguous().t()}, r"o must be contiguous, got strides \(1, 4\)"),
        (STATISTICS, {"bias": torch.zeros(9)}, r"bias must have shape \(3\), got \(9\)"),
        (STATISTICS, {"target": torch.zeros(5, dtype=torch.int64)}, r"target must have shape \(4\), got \(5\)"),
        (STATISTICS, {"class_weight": torch.zeros(3).double()}, "class_weight must be Float, got Double"),
        (STATISTICS, {"statistics": torch.zeros(4, 6)}, "statistics must be Double, got Float"),
        (STATISTICS, {"first_class": -1}, "first_class must be at least 0, got -1"),
        (GRADIENT, {"statistics": torch.zeros(3, 6).double()}, r"statistics must have shape \(4, 6\), got \(3, 6\)"),
        (GRADIENT, {"row_weight": torch.zeros(3)}, r"row_weight must have shape \(4\), got \(3\)"),
        (GRADIENT, {"first_class": 7}, r"o must hold some of the 9 classes, got those in \[7, 10\)"),
        (GRADIENT, {"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
        (LOSS, {"row_weight": torch.zeros(4, dtype=torch.float16)}, "row_weight must be Double, got Half"),
        (LOSS, {"target": torch.zeros(5, dtype=torch.int64)}, r"statistics must have shape \(5, 6\), got \(4, 6\)"),
        (LOSS, {"label_smoothing": -0.5}, r"label_smoothing must be in \[0, 1\], got -0.5"),
    ],
)
def test_compiled_ops_check_before_they_write(compiled, op, change, message):
    taken = {
        STATISTICS: ("o", "bias", "target", "class_weight", "first_class", "statistics"),
        LOSS: ("statistics", "target", "row_weight", "classes", "label_smoothing", "ignore_index"),
    }
    given = dict(o=torch.ones(4, 3), bias=None, target=torch.zeros(4, dtype=torch.int64), class_weight=None)
    given |= dict(row_weight=None, first_class=0, classes=9, label_smoothing=0.0, ignore_index=IGNORED)
    given |= {"statistics": kernels.new_statistics(4, given["o"])} | change
    before = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
    with pytest.raises(RuntimeError, match=f"{op}: {message}"):
        getattr(kernels, op)(**{name: given[name] for name in taken.get(op, given)})
    for name, value in before.items():
        torch.testing.assert_close(given[name], value, rtol=0, atol=0, equal_nan=True)


def test_opcheck(device_kernels):
    for with_weights in (True, False):
        o, bias, target, class_weight, row_weight = sample(5, 11, torch.float32)
        target[:] = torch.arange(5) + 20
        b, w, r = (bias, class_weight, row_weight) if with_weights else (None, None, None)
        statistics = kernels.new_statistics(5, o)
        kernels.class_statistics_(o, b, target, w, 20, statistics)
        torch.library.opcheck(device_kernels.class_statistics_.default, (o, b, target, w, 20, statistics.clone()))
        torch.library.opcheck(device_kernels.class_loss.default, (statistics, target, r, 40, 0.1, IGNORED))
        arguments = (o, b, target, w, r, 20, 40, 0.1, IGNORED, statistics)
        torch.library.opcheck(device_kernels.cross_entropy_classes_.default, arguments)
