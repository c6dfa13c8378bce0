"""A whole training step with plain SGD and λ in the objective, W ← W − η (∂L/∂W + λW), by each of its opponents."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn import Objective
from .compiled import compile_whole, gradients_of
from .problem import WEIGHT_DECAY, Candidate, Problem, penalty

LEARNING_RATE = 1e-3
EAGER, FUSED, COMPILED, STEP = "eager", "eager, fused SGD", "torch.compile", "step"


def sgd_candidates(problem: Problem, compiled: bool = True, backend: str = "inductor") -> Iterator[Candidate]:
    """The opponents and `Objective.step`.

    Args:
        problem: the net and its batch.
        compiled: whether torch.compile is among them (it needs a C++ compiler at run time).
        backend: torch.compile's.
    """
    yield eager(problem)
    yield eager_fused(problem)
    if compiled:
        yield compiled_step(problem, backend)
    yield lean_step(problem)


def eager(problem: Problem) -> Candidate:
    """What one writes down: the penalty in the loss, autograd, torch.optim.SGD."""
    net, (x, y) = problem.eager_mlp(), problem.batch
    w1, _, w2, _ = parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        (F.cross_entropy(net(x), y) + penalty(w1, w2)).backward()
        optimizer.step()

    return Candidate(EAGER, step, parameters)


def eager_fused(problem: Problem) -> Candidate:
    """The best that stays eager: λ inside the fused SGD, for the weights only; no penalty in the loss."""
    net, (x, y) = problem.eager_mlp(), problem.batch
    w1, b1, w2, b2 = parameters = list(net.parameters())
    groups: list[dict[str, Any]] = [{"params": [w1, w2], "weight_decay": WEIGHT_DECAY}, {"params": [b1, b2]}]
    optimizer = torch.optim.SGD(groups, LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return Candidate(FUSED, step, parameters)


def compiled_step(problem: Problem, backend: str = "inductor") -> Candidate:
    """Loss, gradient and update in one compiled graph, λ as a factor of the update."""
    gradients_of_loss = gradients_of(problem)

    def step(p: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        L, gradients = gradients_of_loss(p, x, y)
        with torch.no_grad():
            for parameter, gradient in zip(p, gradients, strict=True):
                if parameter.dim() == 2:
                    parameter.mul_(1 - LEARNING_RATE * WEIGHT_DECAY)
                parameter.sub_(LEARNING_RATE * gradient)
        return L

    parameters = list(problem.eager_mlp().parameters())
    return Candidate(COMPILED, compile_whole(step, problem, backend, parameters), parameters)


def lean_step(problem: Problem) -> Candidate:
    """Ours: `Objective.step` as users call it."""
    mlp, (x, y) = problem.mlp(), problem.batch
    objective = Objective(mlp, "cross_entropy", WEIGHT_DECAY)
    parameters = list(mlp.parameters())
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE)
    return Candidate(STEP, lambda: objective.step(x, y, optimizer), parameters, objective.release_workspace)
