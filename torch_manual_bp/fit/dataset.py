"""A data set: features, labels, and what their columns mean.

Shapes: N rows, d features, q outputs (classes, or targets).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Task(NamedTuple):
    """What the labels are, and so which loss and which score go with them."""

    name: str
    loss: str
    score: str


TASKS = {
    task.name: task
    for task in (
        Task("classification", "cross_entropy", "accuracy"),
        Task("regression", "mse", "R²"),
        Task("multilabel", "bce_with_logits", "accuracy"),
    )
}


def task_named(name: str, op: str) -> Task:
    """The task of this name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise ValueError(f"{op}: task must be one of {', '.join(TASKS)}; got {name!r}")
    return TASKS[name]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Features and labels, checked: finite, at least two rows, and of shapes that fit.

    Attributes:
        name: what reports call it.
        x: features, shape (N, d), floating point.
        y: class indices (N,) int64 for classification; else targets (N, q) float64, in [0, 1] for multilabel.
        task: a name of `TASKS`.
        features: names of the d features.
        outputs: names of the q outputs: the classes, or the targets.

    Raises:
        TypeError: x or y is of another dtype.
        ValueError: shapes that do not fit, NaN or infinity, a label out of range, fewer than two rows or classes.
    """

    name: str
    x: Array
    y: Array
    task: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        task_named(self.task, "Dataset")
        x = self.x
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"Dataset: x must have shape (N, d) with d > 0, got {x.shape}")
        if x.dtype.kind != "f":
            raise TypeError(f"Dataset: x must have a floating-point dtype, got {x.dtype}")
        n, d = x.shape
        if n < 2:
            raise ValueError(f"Dataset: x must have at least two rows, one to train on and one to hold out, got {n}")
        if len(self.features) != d:
            raise ValueError(f"Dataset: features must name x's {d} columns, got {len(self.features)} names")
        _check_finite("x", x)
        if self.task == "classification":
            self._check_classes(n)
        else:
            self._check_targets(n)

    @property
    def loss(self) -> str:
        """The loss that goes with the task."""
        return TASKS[self.task].loss

    @cached_property
    def fingerprint(self) -> str:
        """A number of all that is learned from, in hexadecimal digits; the data set's name does not count."""
        digest = hashlib.sha256(repr((self.task, self.features, self.outputs)).encode())
        for array in (self.x, self.y):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _check_classes(self, n: int) -> None:
        y, q = self.y, len(self.outputs)
        if y.dtype != np.int64:
            raise TypeError(f"Dataset: y must hold class indices of dtype int64 for classification, got {y.dtype}")
        if y.shape != (n,):
            raise ValueError(f"Dataset: y must have shape ({n},) for classification, got {y.shape}")
        if q < 2:
            raise ValueError(f"Dataset: y must hold at least two classes, got {q}: {', '.join(self.outputs)}")
        wrong = np.flatnonzero((y < 0) | (y >= q))
        if wrong.size:
            raise ValueError(f"Dataset: y must hold labels in [0, {q}), got {y[wrong[0]]} in row {wrong[0]}")

    def _check_targets(self, n: int) -> None:
        y, q = self.y, len(self.outputs)
        if y.dtype != np.float64:
            raise TypeError(f"Dataset: y must hold targets of dtype float64 for {self.task}, got {y.dtype}")
        if y.shape != (n, q) or q == 0:
            raise ValueError(f"Dataset: y must have shape ({n}, {max(q, 1)}) for {self.task}, got {y.shape}")
        _check_finite("y", y)
        outside = np.argwhere((y < 0) | (y > 1))
        if self.task == "multilabel" and len(outside):
            row, column = outside[0]
            raise ValueError(f"Dataset: y must lie in [0, 1] for multilabel, got {y[row, column]} in row {row}")


def classes_of(labels: Sequence[str], op: str) -> tuple[tuple[str, ...], Array]:
    """The sorted class names and each row's index into them; whole numbers are sorted as numbers.

    Args:
        labels: one text for each of the N rows.
        op: who asks, for the message.

    Returns:
        Names (q of them) and indices, shape (N,), int64.

    Raises:
        ValueError: numbers of which most occur only once: they can hardly be classes.
    """
    distinct = set(labels)
    if len(distinct) > max(2, len(labels) // 2) and all(map(is_number, distinct)):
        raise ValueError(
            f"{op}: labels must be classes, got {len(distinct)} distinct ones in {len(labels)} rows; "
            "for numbers to be predicted the task is regression"
        )
    numeric = all(label.removeprefix("-").isdecimal() for label in distinct)
    names = sorted(distinct, key=int) if numeric else sorted(distinct)
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), np.fromiter(map(index.__getitem__, labels), np.int64, len(labels))


def is_number(text: str) -> bool:
    """Whether a cell holds a number; NaN and infinity, which `float` reads too, are found later."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_finite(name: str, values: Array) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise ValueError(f"Dataset: {name} must be finite, got {values[row, column]} in row {row}, column {column}")
