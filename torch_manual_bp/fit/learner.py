"""One net under training: its objective, its optimizer, and the curve it leaves behind."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MLP
from .settings import Settings


class Diverged(RuntimeError):
    """J became NaN or infinite."""


@dataclass
class Curve:
    """What one net's run looked like.

    Attributes:
        losses: J of each step's batch, before its update.
        seconds: what each step took: J, its gradient and the update.
        scores: the held-out score after each epoch.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class Learner:
    """A net with its objective, its optimizer, its curve, and what takes its steps, see `TrainingPath`."""

    def __init__(
        self, name: str, mlp: MLP, objective: nn.Module, settings: Settings, take_step: Callable[..., float]
    ) -> None:
        self.name, self.mlp, self.objective, self.take_step = name, mlp, objective, take_step
        self.optimizer = settings.make_optimizer(objective)
        self.curve = Curve()

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step of training; J before it.

        Raises:
            Diverged: J is NaN or infinite. The curve ends before this step; so do the parameters, but for the lean
                step, which has updated them by then.
        """
        start = perf_counter()
        J = self.take_step(self.objective, self.optimizer, x, y)
        if not math.isfinite(J):
            raise Diverged(f"train: J ({self.name}) became {J} at step {len(self.curve.losses)}; try a smaller lr")
        self.curve.seconds.append(perf_counter() - start)
        self.curve.losses.append(J)
        return J

    def state_dict(self) -> dict[str, Any]:
        """Parameters, the optimizer's state of each, and the curve, in tensors and numbers on any device."""
        return {
            "parameters": self.mlp.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "curve": {name: torch.tensor(values, dtype=torch.float64) for name, values in vars(self.curve).items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be as the learner was whose `state_dict` this is; learning rate and the like stay those of the settings.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another net.
        """
        self.mlp.load_state_dict(state["parameters"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.curve = Curve(**{item.name: state["curve"][item.name].tolist() for item in fields(Curve)})
