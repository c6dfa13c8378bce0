"""One net under training: its objective, its optimizer, and the curve it leaves behind."""

import math
from dataclasses import dataclass, field
from time import perf_counter

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
    """A net with its objective, its optimizer and its curve."""

    def __init__(self, name: str, mlp: MLP, objective: nn.Module, settings: Settings) -> None:
        self.name, self.mlp, self.objective = name, mlp, objective
        self.optimizer = settings.make_optimizer(objective)
        self.curve = Curve()

    def step(self, x: Tensor, y: Tensor) -> float:
        """One step of training; J before it.

        Raises:
            Diverged: J is NaN or infinite; the parameters are left as they were.
        """
        start = perf_counter()
        self.optimizer.zero_grad()
        J = self.objective(x, y)
        J.backward()
        value = J.item()
        if not math.isfinite(value):
            raise Diverged(f"train: J ({self.name}) became {value} at step {len(self.curve.losses)}; try a smaller lr")
        self.optimizer.step()
        self.curve.seconds.append(perf_counter() - start)
        self.curve.losses.append(value)
        return value
