"""The paths by which the derived net takes its steps: the usual loop, the same in tiles of rows, the lean step."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..nn import Objective


class TrainingPath(NamedTuple):
    """How J, its gradients and the update come about.

    Attributes:
        name: what settings call it.
        step_call: what takes a step, for readers.
        gradients_call: what computes gradients alone, for readers.
        tile_rows: of its `Objective`.
        step: takes one step: of an objective, its optimizer, and a batch x, y; returns J before the update.
        gradients: ∂J/∂p of each of an objective's parameters on a batch x, y; their ``.grad`` must be None.
    """

    name: str
    step_call: str
    gradients_call: str
    tile_rows: str | None
    step: Callable[[Objective, Optimizer, Tensor, Tensor], float]
    gradients: Callable[[Objective, Tensor, Tensor], tuple[Tensor, ...]]


def usual_step(objective: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    """J and its gradients, then the update, unless J is NaN or infinite: the parameters stay as they are then."""
    optimizer.zero_grad()
    J = objective(x, y)
    J.backward()
    value = J.item()
    if math.isfinite(value):
        optimizer.step()
    return value


def usual_gradients(objective: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """∂J/∂p of each parameter, as ``J.backward()`` computes them."""
    return torch.autograd.grad(objective(x, y), tuple(objective.parameters()))


def _lean_step(objective: Objective, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    """Gradients and update in one; whether J is finite is known only afterwards."""
    return objective.step(x, y, optimizer).item()


def _lean_gradients(objective: Objective, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    objective.accumulate_grad(x, y)
    return tuple(parameter.grad for parameter in objective.parameters() if parameter.grad is not None)


PATHS = {
    path.name: path
    for path in (
        TrainingPath("autograd", "J.backward(), optimizer.step()", "J.backward()", None, usual_step, usual_gradients),
        TrainingPath(
            "tiles",
            "J.backward() in tiles of rows, optimizer.step()",
            "J.backward() in tiles of rows",
            "auto",
            usual_step,
            usual_gradients,
        ),
        TrainingPath(
            "step",
            "objective.step(x, y, optimizer)",
            "objective.accumulate_grad(x, y)",
            None,
            _lean_step,
            _lean_gradients,
        ),
    )
}
