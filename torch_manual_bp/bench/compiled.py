"""torch.compile of a loss, and of a whole training step: loss, gradient and update in one graph.

The whole step is the fastest of the formulations we tried on the CPU: parameters in one list, autograd inside the graph
(torch.func where this torch cannot trace it), updates in place, the C++ wrapper.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, _dynamo
from torch.nn import functional as F

from ..equations import ACTIVATIONS
from .problem import Problem

Gradients = Callable[[list[Tensor], Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]
_TRACES_AUTOGRAD = hasattr(_dynamo.config, "trace_autograd_ops")  # torch 2.11 and later


def gradients_of(problem: Problem) -> Gradients:
    """A function of (w1, b1, w2, b2), x and y, to be compiled: L and its gradients."""
    phi = ACTIVATIONS[problem.activation].phi

    def loss(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        w1, b1, w2, b2 = p
        return F.cross_entropy(F.linear(phi(F.linear(x, w1, b1)), w2, b2), y)

    def by_autograd(p: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        L = loss(p, x, y)
        return L.detach(), torch.autograd.grad(L, p)

    def by_transform(p: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        gradients, L = torch.func.grad_and_value(loss)([parameter.detach() for parameter in p], x, y)
        return L, gradients

    return by_autograd if _TRACES_AUTOGRAD else by_transform


def compile_loss(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The usual loop's compiled forward pass, for this problem alone.

    What was compiled before is forgotten: Dynamo would take the second problem's sizes for dynamic ones, and leave the
    ninth problem to eager.
    """
    _dynamo.reset()
    return torch.compile(loss, fullgraph=True, dynamic=False)


def compile_whole(
    step: Callable[..., Any], problem: Problem, backend: str, *state: Sequence[Tensor]
) -> Callable[[], Any]:
    """The call of ``step(*state, x, y)``, compiled for this problem alone, once, on copies of the state."""
    x, y = problem.batch
    _dynamo.reset()
    options: dict[str, Any] | None = None
    if backend == "inductor" and problem.device == "cpu":
        options = {"cpp_wrapper": True}
    run = torch.compile(step, fullgraph=True, dynamic=False, backend=backend, options=options)
    with _dynamo.config.patch(trace_autograd_ops=True) if _TRACES_AUTOGRAD else nullcontext():
        run(*copy.deepcopy(state), x, y)
    return lambda: run(*state, x, y)
