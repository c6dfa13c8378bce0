"""Every table there is, and every way of drawing it."""

import itertools

import torch

from torch_manual_bp.equations import LOSSES, table

BIASES = list(itertools.product((True, False), repeat=2))
PASSES = list(itertools.product((True, False), repeat=2))  # backward, tangent


def problem(loss, hidden_bias=True, output_bias=True, B=7, d=5, h=6, q=4):
    """Givens of a table, small and float64."""
    values = {name: torch.randn(shape, dtype=torch.float64) for name, shape in
              {"x": (B, d), "w1": (h, d), "b1": (h,), "w2": (q, h), "b2": (q,)}.items()}  # fmt: skip
    for name, there in (("b1", hidden_bias), ("b2", output_bias)):
        if not there:
            del values[name]
    values["y"] = torch.randint(q, (B,)) if loss == "cross_entropy" else torch.rand(B, q, dtype=torch.float64)
    return {**values, "weight_decay": 0.3}


def tables(activations=("tanh",)):
    """By an id."""
    return {
        f"{activation}, {loss}{', b1' * b1}{', b2' * b2}": table(activation, loss, b1, b2)
        for activation in activations
        for loss in LOSSES
        for b1, b2 in BIASES
    }
