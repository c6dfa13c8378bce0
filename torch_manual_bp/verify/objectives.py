"""Checks: J and its gradients of first and second order, for every activation, loss, dtype and way to save."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ..equations import ACTIVATIONS, LOSSES
from .finding import Finding, compare
from .networks import Case, Graph, eager, gradients, ours, truth_of, values_of
from .setting import DTYPES, Setting


def check_first_order(setting: Setting) -> Iterator[Finding]:
    """J and each gradient against the equation table."""
    for activation, loss, save, dtype in itertools.product(ACTIVATIONS, LOSSES, ("auto", "input"), DTYPES):
        case = Case(activation, loss, save, dtype, setting.sizes)
        values = values_of(case, setting.device)
        truth = truth_of(case, values)
        got, torchs = (gradients(run(case, values)) for run in (ours, eager))
        for symbol in got:
            yield compare(f"{symbol}: {case}", dtype, got[symbol], torchs[symbol], truth[symbol])


def check_second_order(setting: Setting) -> Iterator[Finding]:
    """The gradients of ‖∂J/∂x‖² + ‖∂J/∂W1‖², which need the backward pass of every backward equation."""
    for activation, loss, save in itertools.product(ACTIVATIONS, LOSSES, ("auto", "input")):
        case = Case(activation, loss, save, torch.float64, setting.sizes)
        values = values_of(case, setting.device)
        got, torchs = (_penalty_gradients(run(case, values)) for run in (ours, eager))
        for symbol in got:
            truth = torchs[symbol].detach().cpu()
            yield compare(f"second order, {symbol}: {case}", case.dtype, got[symbol], torchs[symbol], truth)


def _penalty_gradients(graph: Graph) -> dict[str, Tensor]:
    first = torch.autograd.grad(graph.J, [graph.leaves["x"], graph.leaves["w1"]], create_graph=True)
    penalty = first[0].square().sum() + first[1].square().sum()
    gradients = torch.autograd.grad(penalty, list(graph.leaves.values()))
    return dict(zip(graph.leaves, gradients, strict=True))
