"""From a data set to tensors: the split into training and held-out rows, and the scaling.

Means and scales come from the training rows alone: nothing of the held-out rows leaks into training.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .dataset import Array, Dataset


@dataclass(frozen=True, eq=False)
class Scale:
    """v ↦ (v − mean) / spread, column by column; a constant column has spread 1.

    Attributes:
        mean, spread: shape (columns,), float64; spread is the standard deviation.
    """

    mean: Array
    spread: Array

    @classmethod
    def of(cls, values: Array) -> "Scale":
        """The scale that takes ``values``, shape (N, columns), to mean 0 and standard deviation 1."""
        values = values.astype(np.float64)
        mean, spread = values.mean(0), values.std(0)
        # the deviation of a constant column is rounding, of the order of ε times its value
        constant = spread <= 8 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, spread))

    def apply(self, values: Array) -> Array:
        """(v − mean) / spread, float64."""
        return (values - self.mean) / self.spread

    def undo(self, values: Array) -> Array:
        """V · spread + mean, float64."""
        return values * self.spread + self.mean


@dataclass(frozen=True, eq=False)
class Prepared:
    """Tensors to train on and to judge by, of one dtype and device.

    Attributes:
        x, y: training rows: (n, d), and class indices (n,) or scaled targets (n, q).
        x_held_out, y_held_out: the same for the held-out rows.
        x_scale: what was applied to the features.
        y_scale: what was applied to the targets, for regression.
    """

    x: Tensor
    y: Tensor
    x_held_out: Tensor
    y_held_out: Tensor
    x_scale: Scale
    y_scale: Scale | None


def split_rows(dataset: Dataset, held_out: float, seed: int) -> tuple[Array, Array]:
    """Training and held-out row numbers, each sorted; the same for the same seed.

    For classification each class gives its share to the held-out rows, rounded, and keeps at least one row to train on.

    Raises:
        ValueError: held_out is not in (0, 1), or leaves one of the two sides empty.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"split_rows: held_out must lie in (0, 1), got {held_out}")
    generator = np.random.default_rng(seed)
    n = len(dataset.x)
    groups = [np.arange(n)]
    if dataset.task == "classification":
        groups = [np.flatnonzero(dataset.y == k) for k in range(len(dataset.outputs))]
    taken = []
    for rows in groups:
        count = min(round(held_out * len(rows)), len(rows) - 1)
        taken.append(generator.permutation(rows)[: max(count, 0)])
    out = np.sort(np.concatenate(taken))
    if not len(out):
        raise ValueError(f"split_rows: held_out must leave a row to judge by, got {held_out} of {n} rows")
    return np.setdiff1d(np.arange(n), out), out


def prepare(
    dataset: Dataset,
    held_out: float = 0.25,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Prepared:
    """Split, scale and move a data set.

    Args:
        dataset: the data.
        held_out: the share of rows that is kept from training, in (0, 1).
        seed: of the split.
        dtype: of features and targets.
        device: where the tensors go.

    Raises:
        ValueError: see `split_rows`.
    """
    train, out = split_rows(dataset, held_out, seed)
    x_scale = Scale.of(dataset.x[train])
    y_scale = Scale.of(dataset.y[train]) if dataset.task == "regression" else None

    def features(rows: Array) -> Tensor:
        return torch.as_tensor(x_scale.apply(dataset.x[rows])).to(device, dtype)

    def labels(rows: Array) -> Tensor:
        if dataset.task == "classification":
            return torch.as_tensor(dataset.y[rows]).to(device)
        y = dataset.y[rows] if y_scale is None else y_scale.apply(dataset.y[rows])
        return torch.as_tensor(y).to(device, dtype)

    return Prepared(features(train), labels(train), features(out), labels(out), x_scale, y_scale)
