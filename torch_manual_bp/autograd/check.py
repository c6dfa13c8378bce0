"""Every check of what a user passes in, made once at the door, before anything is computed or written."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import kernels
from ..equations import Loss
from .keep import SAVE_POLICIES

Named = tuple[str, Tensor | None]

OWN_TYPES = (Tensor, nn.Parameter)  # subclasses mean something else by an operator: they get torch's own


def tensors(
    op: str, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, one_dtype: bool = True
) -> None:
    """Raise unless the MLP's tensors fit each other; under autocast x may have a dtype of its own.

    Raises:
        TypeError: not a tensor, not floating point, or dtypes that differ.
        ValueError: shapes or devices that do not fit.
    """
    named: Sequence[Named] = (("x", x), ("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2))
    for name, t in named:
        if not isinstance(t, Tensor) and not (t is None and name in ("b1", "b2")):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(t).__name__}")
    if torch.jit.is_tracing():
        return  # sizes are traced values there, and a trace's comparisons are frozen into it
    if w1.dim() != 2:
        raise ValueError(f"{op}: w1 must have shape (h, d), got {tuple(w1.shape)}")
    if w2.dim() != 2:
        raise ValueError(f"{op}: w2 must have shape (q, h), got {tuple(w2.shape)}")
    (h, d), q = w1.shape, w2.shape[0]
    if x.dim() < 1 or x.shape[-1] != d:
        raise ValueError(f"{op}: x must have shape (..., {d}) to fit w1 {tuple(w1.shape)}, got {tuple(x.shape)}")
    if w2.shape[1] != h:
        raise ValueError(f"{op}: w2 must have shape (q, {h}) to fit w1 {tuple(w1.shape)}, got {tuple(w2.shape)}")
    if b1 is not None and b1.shape != (h,):
        raise ValueError(f"{op}: b1 must have shape ({h},), got {tuple(b1.shape)}")
    if b2 is not None and b2.shape != (q,):
        raise ValueError(f"{op}: b2 must have shape ({q},), got {tuple(b2.shape)}")
    _same_kind(op, named, one_dtype)


def _same_kind(op: str, named: Sequence[Named], one_dtype: bool) -> None:
    """One floating dtype, one device."""
    first = named[0][1]
    assert first is not None
    dtype, device = first.dtype, first.device
    if not dtype.is_floating_point:
        raise TypeError(f"{op}: x must have a floating-point dtype, got {dtype}")
    if not one_dtype:
        named = named[1:]
        dtype = named[0][1].dtype  # type: ignore[union-attr]
    for name, t in named:
        if t is None:
            continue
        if t.dtype is not dtype:
            raise TypeError(f"{op}: {name} must have x's dtype {dtype}, got {t.dtype}")
        if t.device != device:
            raise ValueError(f"{op}: {name} must be on x's device {device}, got {t.device}")


def save_policy(op: str, save: str) -> None:
    """Raise unless ``save`` is known.

    Raises:
        ValueError: it is not.
    """
    if save not in SAVE_POLICIES:
        raise ValueError(f"{op}: save must be one of {', '.join(SAVE_POLICIES)}; got {save!r}")


def loss_arguments(
    op: str, loss: Loss, y: Tensor, class_weight: Tensor | None, row_weight: Tensor | None, lead: torch.Size, q: int,
    like: Tensor, look: bool,
) -> None:  # fmt: skip
    """Raise unless y and the weights fit logits (*lead, q) that are like ``like``.

    Labels are looked at where ``look`` says so.

    Raises:
        TypeError: no tensor, or a dtype that the loss does not take.
        ValueError: a shape, device or label that does not fit.
    """
    _targets(op, loss, y, lead, q, like)
    weights(op, "class_weight", class_weight, (q,), like)
    weights(op, "row_weight", row_weight, lead, like)
    if look and loss.takes_classes:
        _labels(op, loss, y.reshape(-1).contiguous(), q)


def _targets(op: str, loss: Loss, y: Tensor, lead: torch.Size, q: int, like: Tensor) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"{op}: y must be a tensor, got {type(y).__name__}")
    expected = lead if loss.takes_classes else torch.Size((*lead, q))
    if y.shape != expected:
        what = "class indices" if loss.takes_classes else "targets"
        raise ValueError(f"{op}: y must hold {what} of shape {tuple(expected)} for {loss.name}, got {tuple(y.shape)}")
    if y.device != like.device:
        raise ValueError(f"{op}: y must be on x's device {like.device}, got {y.device}")
    if loss.takes_classes:
        if y.dtype is not torch.int64:
            raise TypeError(f"{op}: y must hold class indices of dtype torch.int64 for {loss.name}, got {y.dtype}")
    elif y.dtype is not like.dtype and not (y.dtype is torch.float32 and like.dtype.itemsize == 2):
        raise TypeError(f"{op}: y must have the logits' dtype {like.dtype} for {loss.name}, got {y.dtype}")


def weights(op: str, name: str, w: Tensor | None, shape: Sequence[int], like: Tensor) -> None:
    """Raise unless the class or row weights fit.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: a shape or device that does not fit, or a gradient is asked for.
    """
    if w is None:
        return
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {getattr(w, 'dtype', type(w).__name__)}")
    if tuple(w.shape) != tuple(shape):
        raise ValueError(f"{op}: {name} must have shape {tuple(shape)}, got {tuple(w.shape)}")
    if w.device != like.device:
        raise ValueError(f"{op}: {name} must be on x's device {like.device}, got {w.device}")
    if w.requires_grad:
        raise ValueError(f"{op}: {name} must not require a gradient: none is derived for it")


def _labels(op: str, loss: Loss, y: Tensor, q: int) -> None:
    row = kernels.find_bad_label(y, q, loss.ignore_index)
    if row >= 0:
        expected = f"labels in [0, {q}) or ignore_index {loss.ignore_index}"
        raise ValueError(f"{op}: y must hold {expected}; got {int(y[row])} at row {row}")
