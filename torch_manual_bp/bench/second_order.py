"""The ways to the second derivatives of L that the questions about them compare; λ = 0, and all give the same numbers.

A gradient here is one by autograd, forward pass included: what a step costs anyway, and the unit of the others.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..curvature import Curvature
from .problem import Candidate, Problem

GRADIENT = "gradient"
DIAGONAL, TRACE, PRODUCT, CACHED = "diagonal with gradient", "trace", "H v", "H v, pass kept"
DOUBLE, RETAINED, BACKPACK = "double backward", "double backward, graph kept", "BackPACK's DiagHessian"
DENSE, FUNC, CURVLINOPS = "whole matrix", "torch.func.hessian", "curvlinops' Hessian"
FUNCTIONAL, ONE_PASS = "torch.autograd.functional.hessian", "one pass of n"


def curvature(problem: Problem) -> Curvature:
    """The closed forms for the problem's net and batch."""
    return Curvature(problem.mlp(), *problem.batch)


def gradient(problem: Problem) -> Candidate:
    """∂L/∂θ by autograd."""
    loss, parameters = _by_autograd(problem)
    return Candidate(GRADIENT, lambda: torch.autograd.grad(loss(), parameters))


def closed_forms(problem: Problem) -> Iterator[Candidate]:
    """Diagonal with gradient, trace, a product with its pass, and one with a pass that is kept."""
    mlp, (x, y) = problem.mlp(), problem.batch
    kept, v = curvature(problem), _direction(problem)

    def diagonal() -> tuple[Any, Any]:
        c = Curvature(mlp, x, y)
        return c.gradient(), c.diagonal()

    yield Candidate(DIAGONAL, diagonal)
    yield Candidate(TRACE, lambda: Curvature(mlp, x, y).trace())
    yield Candidate(PRODUCT, lambda: Curvature(mlp, x, y).hvp(v))
    yield Candidate(CACHED, lambda: kept.hvp(v))


def double_backward(problem: Problem) -> Iterator[Candidate]:
    """H v by a backward pass of the backward pass: with its graph, and through a graph that is kept."""
    loss, parameters = _by_autograd(problem)
    v = _direction(problem)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(), parameters, create_graph=True)

    kept = gradients()
    yield Candidate(DOUBLE, lambda: torch.autograd.grad(gradients(), parameters, v))
    yield Candidate(RETAINED, lambda: torch.autograd.grad(kept, parameters, v, retain_graph=True))


def backpack_diagonal(problem: Problem) -> Candidate:
    """The Hessian's diagonal with the gradient, by BackPACK.

    Raises:
        ImportError: it is not installed.
    """
    from backpack import backpack, extend
    from backpack.extensions import DiagHessian

    net, loss, (x, y) = extend(problem.eager_mlp()), extend(nn.CrossEntropyLoss()), problem.batch
    parameters = list(net.parameters())

    def diagonal() -> tuple[list[Tensor | None], list[Tensor]]:
        for parameter in parameters:
            parameter.grad = None
        with backpack(DiagHessian()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # x needs no gradient: as it is here
            loss(net(x), y).backward()
        found = [parameter.diag_h for parameter in parameters]
        for parameter in parameters:
            del parameter.diag_h
        return [parameter.grad for parameter in parameters], found

    return Candidate(BACKPACK, diagonal, parameters)


def matrices(problem: Problem, chunks: Sequence[int] = (64, 256, 1024)) -> Iterator[Candidate]:
    """The whole Hessian (n,n) by the ways that there are here, ours first.

    Args:
        problem: the net and the batch.
        chunks: how many rows at a time ``torch.func`` makes at a time, beside all at once.
    """
    mlp, (x, y) = problem.mlp(), problem.batch
    yield Candidate(DENSE, lambda: Curvature(mlp, x, y).dense())
    theta, L = _flat(problem)
    yield Candidate(FUNC, lambda: torch.func.hessian(L)(theta))
    for chunk in chunks:
        by_rows = torch.func.jacrev(torch.func.jacrev(L), chunk_size=chunk)
        yield Candidate(f"torch.func, {chunk} rows at a time", partial(by_rows, theta))
    for vectorize in (False, True):
        name = f"{FUNCTIONAL}{', vectorized' if vectorize else ''}"
        yield Candidate(name, partial(torch.autograd.functional.hessian, L, theta, vectorize=vectorize))
    try:
        yield _curvlinops(problem)
    except ImportError:  # a dependency of development
        return


def one_pass_of_n(problem: Problem) -> Candidate:
    """One of the n backward passes that the textbook has for H: a row, through the graph of the gradient."""
    theta, L = _flat(problem)
    theta.requires_grad_()
    (g,) = torch.autograd.grad(L(theta), theta, create_graph=True)
    one = torch.zeros_like(g)
    one[0] = 1
    return Candidate(ONE_PASS, lambda: torch.autograd.grad(g, theta, one, retain_graph=True))


def _curvlinops(problem: Problem, columns: int = 512) -> Candidate:
    from curvlinops import HessianLinearOperator

    net, (x, y) = problem.eager_mlp(), problem.batch
    parameters = list(net.parameters())

    def matrix() -> Tensor:
        H = HessianLinearOperator(net, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
        identity = torch.eye(H.shape[0], dtype=problem.dtype, device=problem.device)
        return torch.cat([H @ some for some in identity.split(columns, 1)], 1)

    return Candidate(CURVLINOPS, matrix)


def _by_autograd(problem: Problem) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    """L of torch's own modules, and what it is differentiated by."""
    net, (x, y) = problem.eager_mlp(), problem.batch
    return lambda: F.cross_entropy(net(x), y), list(net.parameters())


def _flat(problem: Problem) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The parameters as one vector, and L of it."""
    net, (x, y) = problem.eager_mlp(), problem.batch
    phi, parameters = net[1], list(net.parameters())
    sizes, shapes = [p.numel() for p in parameters], [p.shape for p in parameters]

    def L(theta: Tensor) -> Tensor:
        w1, b1, w2, b2 = (part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True))
        return F.cross_entropy(F.linear(phi(F.linear(x, w1, b1)), w2, b2), y)

    return torch.nn.utils.parameters_to_vector(parameters).detach(), L


def _direction(problem: Problem) -> list[Tensor]:
    """A direction, in the form that autograd has them in: a list of tensors like the parameters."""
    torch.manual_seed(2)
    return [torch.randn_like(parameter) for parameter in problem.mlp().parameters()]
