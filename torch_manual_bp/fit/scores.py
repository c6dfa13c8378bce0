"""How good outputs are on rows that were not trained on: one number a task, larger is better."""

import torch
from torch import Tensor


def accuracy(o: Tensor, y: Tensor) -> float:
    """Share of the rows of o (B, q) whose largest output is at the class y (B,)."""
    return (o.argmax(1) == y).double().mean().item()


def multilabel_accuracy(o: Tensor, y: Tensor) -> float:
    """Share of all outputs o (B, q) on the same side of 0 as their label y (B, q) is of ½."""
    return ((o > 0) == (y > 0.5)).double().mean().item()


def r_squared(o: Tensor, y: Tensor) -> float:
    """R² = 1 − Σ(o−y)² / Σ(y−ȳ)² over rows and targets, ȳ a mean over the rows; NaN where y does not vary."""
    o, y = o.to("cpu", torch.float64), y.to("cpu", torch.float64)
    spread = (y - y.mean(0)).square().sum().item()
    return 1 - (o - y).square().sum().item() / spread if spread else float("nan")


_SCORES = {"classification": accuracy, "multilabel": multilabel_accuracy, "regression": r_squared}


def score(task: str, o: Tensor, y: Tensor) -> float:
    """The score that goes with a task, of outputs o (B, q) against y."""
    return _SCORES[task](o, y)
