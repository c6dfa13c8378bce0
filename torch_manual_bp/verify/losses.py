"""Checks: the ops of the losses, L and ∂L/∂o with every option, against their definition differentiated in float64."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..equations import Loss
from .finding import EXACT, Finding, agree, compare, holds, largest
from .setting import DTYPES, Samples, Setting

IGNORED = -100
# classes: a warp takes a row of up to 1024, a block a longer one; multiples of 8 are read as whole vectors
WIDTHS = (10, 64, 1000, 1032, 5003)


@dataclass(frozen=True)
class Options:
    """What a loss is given beside logits and targets."""

    bias: bool = True
    reduction: str = "mean"
    label_smoothing: float = 0.0
    class_weight: bool = False
    row_weight: bool = False

    def __str__(self) -> str:
        said = [self.reduction] + [f"label smoothing {self.label_smoothing}"] * (self.label_smoothing > 0)
        return ", ".join(said + [n for n in ("bias", "class_weight", "row_weight") if getattr(self, n)])


CLASS_OPTIONS = (
    Options(),
    Options(bias=False, reduction="sum"),
    Options(label_smoothing=0.1),
    Options(class_weight=True),
    Options(row_weight=True, reduction="sum"),
    Options(label_smoothing=0.1, class_weight=True, row_weight=True),
    Options(label_smoothing=1.0, class_weight=True),
)
TARGET_OPTIONS = (Options(), Options(bias=False, reduction="sum"), Options(row_weight=True))


class Batch(NamedTuple):
    """Arguments of a loss op."""

    o: Tensor
    bias: Tensor | None
    y: Tensor
    class_weight: Tensor | None
    row_weight: Tensor | None

    def logits(self, o: Tensor) -> Tensor:
        """O + 1 bᵀ, in o's dtype and where o is."""
        return o if self.bias is None else o + self.bias.to(o.device, o.dtype)


class Answer(NamedTuple):
    """L and ∂L/∂o."""

    L: Tensor
    do: Tensor


def check_cross_entropy(setting: Setting) -> Iterator[Finding]:
    """cross_entropy_ with each option, at widths that each of its kernels takes."""
    for dtype in DTYPES:
        for q in WIDTHS:
            for options in CLASS_OPTIONS:
                batch = _classes(setting, q, dtype, options)
                loss = _loss("cross_entropy", options)
                o = batch.o.clone()
                L, scale = kernels.loss_(o, *batch[1:], loss, options.reduction)
                yield from _compared(f"cross_entropy_: {q} classes, {options}", batch, loss, L, scale, o)


def check_target_losses(setting: Setting) -> Iterator[Finding]:
    """mse_ and bce_with_logits_ with each option."""
    for name in ("mse", "bce_with_logits"):
        for dtype in DTYPES:
            for q in (setting.sizes[3], 64):
                for options in TARGET_OPTIONS:
                    samples = Samples(f"{name} {q} {options}", setting.device, dtype)
                    B = setting.sizes[0]
                    o, bias, y = 3 * samples.normal(B, q), samples.normal(q), samples.uniform(B, q)
                    batch = _batch(samples, o, bias, y, options)
                    loss, o = _loss(name, options), batch.o.clone()
                    L, scale = kernels.loss_(o, *batch[1:], loss, options.reduction)
                    yield from _compared(f"{name}_: {q} outputs, {options}", batch, loss, L, scale, o)


def check_class_tiles(setting: Setting) -> Iterator[Finding]:
    """class_statistics_, class_loss and cross_entropy_classes_: the loss of logits that are never whole."""
    for dtype in DTYPES:
        for q, width in ((10, 3), (1000, 512), (5003, 2048)):
            for options in CLASS_OPTIONS:
                batch = _classes(setting, q, dtype, options)
                loss = _loss("cross_entropy", options)
                L, scale, o = _in_tiles(batch, loss, width)
                yield from _compared(f"classes in tiles of {width}: {q} classes, {options}", batch, loss, L, scale, o)


def check_scaled(setting: Setting) -> Iterator[Finding]:
    """The upstream gradient times ∂L/∂o: a factor that a short dtype does not hold is not rounded to it."""
    for dtype in DTYPES:
        for q in (setting.sizes[3], 64):
            samples = Samples(f"scaled {q}", setting.device, dtype)
            G = samples.normal(setting.sizes[0], q)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            factor = torch.tensor(1 / 3, dtype=wide, device=setting.device)
            truth = G.double().cpu() * float(factor)
            got, torchs = kernels.scaled(G, factor), (G.to(wide) * factor).to(dtype)
            yield compare(f"scaled: {q} columns", dtype, got, torchs, truth)


def check_labels(setting: Setting) -> Iterator[Finding]:
    """find_bad_label names the first bad row, and none where there is none."""
    rows, q = 100_000, 10
    good = Samples("labels", setting.device, torch.float32).labels(rows, q)
    good[::7] = IGNORED
    bad = good.clone()
    bad[[70_000, 99_999]] = q
    negative = good.clone()
    negative[rows - 1] = -1
    for name, labels, expected in (
        ("none", good, -1), ("two", bad, 70_000), ("a negative one", negative, rows - 1), ("no rows", good[:0], -1),
    ):  # fmt: skip
        found = kernels.find_bad_label(labels, q, IGNORED)
        yield holds(f"find_bad_label: {name}", found == expected, f"row {found}, expected {expected}")


def _classes(setting: Setting, q: int, dtype: torch.dtype, options: Options) -> Batch:
    samples = Samples(f"cross_entropy {q} {options}", setting.device, dtype)
    rows = min(setting.sizes[0], 2**17 // q)
    o, bias, y = 3 * samples.normal(rows, q), samples.normal(q), samples.labels(rows, q)
    y[1::5] = IGNORED
    return _batch(samples, o, bias, y, options)


def _batch(samples: Samples, o: Tensor, bias: Tensor, y: Tensor, options: Options) -> Batch:
    wide = torch.float64 if o.dtype == torch.float64 else torch.float32
    class_weight, row_weight = (samples.uniform(n).to(wide) + 0.1 for n in (o.shape[1], o.shape[0]))
    return Batch(
        o, bias if options.bias else None, y, class_weight if options.class_weight else None,
        row_weight if options.row_weight else None,
    )  # fmt: skip


def _loss(name: str, options: Options) -> Loss:
    return Loss(name, options.reduction, options.label_smoothing, IGNORED)


def _in_tiles(batch: Batch, loss: Loss, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """L, the scale and Ĝ, a tile of classes at a time."""
    o, bias, y, class_weight, row_weight = batch
    q = o.shape[1]
    statistics = kernels.new_statistics(len(o), o)
    tiles = [slice(first, min(first + width, q)) for first in range(0, q, width)]

    def of(tile: slice, t: Tensor | None) -> Tensor | None:
        return None if t is None else t[tile].contiguous()

    for tile in tiles:
        logits = o[:, tile].contiguous()
        kernels.class_statistics_(logits, of(tile, bias), y, of(tile, class_weight), tile.start, statistics)
    weighted, N = kernels.class_loss(statistics, y, row_weight, q, loss.label_smoothing, IGNORED)
    gradients = []
    for tile in tiles:
        G = o[:, tile].contiguous()
        kernels.cross_entropy_classes_(
            G, of(tile, bias), y, of(tile, class_weight), row_weight, tile.start, q, loss.label_smoothing, IGNORED,
            statistics,
        )  # fmt: skip
        gradients.append(G)
    mean = loss.reduction == "mean"
    return weighted / N if mean else weighted, 1 / N if mean else torch.ones_like(N), torch.cat(gradients, 1)


def _compared(what: str, batch: Batch, loss: Loss, L: Tensor, scale: Tensor, G: Tensor) -> Iterator[Finding]:
    dtype = batch.o.dtype
    truth, torchs = _truth(batch, loss), _eager(batch, loss)
    factor = float(scale)
    weights = [t for t in (batch.class_weight, batch.row_weight) if t is not None]
    size = max(1.0, largest(truth.do / factor))  # Ĝ of classes is a difference of terms that are at most 1 …
    for weight in weights:  # … times their weights
        size = max(size, largest(weight))
    yield compare(f"{what}, Ĝ", dtype, G, torchs.do.double() / factor, truth.do / factor, size)
    # L is one number, which eager may have right by luck: it owes four steps of the size of its terms, which are as
    # large as the logits, in float32 whatever their dtype
    terms = largest(batch.logits(batch.o.double().cpu())) * (1.0 if loss.reduction == "mean" else len(batch.o))
    tolerance = EXACT if dtype == torch.float64 else 4 * torch.finfo(torch.float32).eps
    yield agree(f"{what}, L", L.cpu(), truth.L, tolerance, max(terms, largest(truth.L)))


def _truth(batch: Batch, loss: Loss) -> Answer:
    o64, _, y, class_weight, row_weight = (
        None if t is None else t.cpu() if t.dtype == torch.int64 else t.double().cpu() for t in batch
    )
    assert o64 is not None and y is not None
    leaf = o64.requires_grad_()
    L = loss.value(batch.logits(leaf), y, class_weight, row_weight)
    return Answer(L.detach(), *torch.autograd.grad(L, leaf))


def _eager(batch: Batch, loss: Loss) -> Answer:
    """The same by `torch.nn.functional`, in o's dtype on its device."""
    leaf = batch.o.clone().requires_grad_()
    logits, dtype = batch.logits(leaf), leaf.dtype
    r = None if batch.row_weight is None else batch.row_weight.to(dtype)
    reduction = loss.reduction if r is None else "none"
    if loss.name == "cross_entropy":
        w = None if batch.class_weight is None else batch.class_weight.to(dtype)
        L = F.cross_entropy(
            logits, batch.y, w, ignore_index=IGNORED, label_smoothing=loss.label_smoothing, reduction=reduction
        )
    elif loss.name == "mse":
        L = F.mse_loss(logits, batch.y, reduction=reduction)
    else:
        L = F.binary_cross_entropy_with_logits(logits, batch.y, reduction=reduction)
    if r is not None:
        L = (L * (r if L.dim() == 1 else r[:, None])).sum()
        if loss.reduction == "mean":
            L = L / (loss.normalizer(batch.y, batch.class_weight, batch.row_weight) * loss.terms(logits.shape[1]))
    return Answer(L.detach(), *torch.autograd.grad(L, leaf))
