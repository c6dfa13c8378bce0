"""The training loop, one step at a time, with the same net by autograd beside it."""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nn import MLP
from .compare import AutogradObjective, GradientCheck, check_gradients, parameters_by_symbol, relative_difference
from .dataset import Dataset
from .learner import Learner
from .paths import usual_step
from .prepare import Prepared, prepare
from .scores import score
from .settings import Settings

_CHECKS = 20  # how often in a run the gradients are compared,
_CHECK_ROWS = 256  # and on how many rows: always the same ones, so that the checks can be held beside each other
_ROWS_AT_ONCE = 8192  # of an evaluation, so that its memory does not grow with the data


class Step(NamedTuple):
    """A step that was made.

    Attributes:
        number: from 0, over all epochs.
        epoch: from 0.
        J: of its batch, before the update.
        ends_epoch: whether it was the last one of its epoch, so that there is a new score.
    """

    number: int
    epoch: int
    J: float
    ends_epoch: bool


class Training:
    """A seeded run on a data set; iterate over `steps` to make it happen, stop iterating to stop it, iterate to go on.

    The same data, settings, machine and number of threads give the same bits, in one go or with stops, in one process
    or carried into another by `state_dict`.

    Attributes:
        mlp: the net that learns by the derived equations, on the settings' path.
        learners: it, and unless ``compare`` is false the same net by autograd in the usual loop, from the same start.
        gradients: the comparisons of their gradients along the way.
        data: the tensors of both sides of the split.
        total_steps: how many steps there are.

    Args:
        dataset: what to learn.
        settings: how.
        compare: whether to train the same net by autograd beside it.

    Raises:
        ValueError: see `Settings`, `Dataset`, `prepare`.
    """

    def __init__(self, dataset: Dataset, settings: Settings, compare: bool = True) -> None:
        self.dataset, self.settings = dataset, settings
        self.data: Prepared = prepare(dataset, settings.held_out, settings.seed, settings.torch_dtype, settings.device)
        self.mlp = settings.make_mlp(dataset.x.shape[1], len(dataset.outputs))
        objective = settings.make_objective(self.mlp, dataset.loss)
        self.learners = [Learner("by hand", self.mlp, objective, settings, settings.training_path.step)]
        if compare:
            twin = copy.deepcopy(self.mlp)
            by_autograd = AutogradObjective.beside(twin, settings, dataset.loss)
            self.learners.append(Learner("by autograd", twin, by_autograd, settings, usual_step))
        self.gradients: list[GradientCheck] = []
        self.steps_per_epoch = math.ceil(len(self.data.x) / settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        self._order = torch.Generator().manual_seed(settings.seed)
        self._epoch_order = self._order.get_state()  # before it drew the order of the epoch that is under way

    @property
    def steps_made(self) -> int:
        """How many steps have been made."""
        return len(self.learners[0].curve.losses)

    def steps(self) -> Iterator[Step]:
        """Make the steps that are left, each once it is asked for.

        Raises:
            Diverged: J became NaN or infinite.
        """
        self._order.set_state(self._epoch_order)
        while (number := self.steps_made) < self.total_steps:
            epoch, made = divmod(number, self.steps_per_epoch)
            for x, y in _batches(self.data, self.settings.batch_size, self._order, skip=made):
                self._compare_gradients(number)
                J, *_ = [learner.step(x, y) for learner in self.learners]
                number += 1
                ends_epoch = number % self.steps_per_epoch == 0
                if ends_epoch:
                    self._epoch_order = self._order.get_state()
                    for learner in self.learners:
                        learner.curve.scores.append(self.evaluate(learner.mlp))
                yield Step(number - 1, epoch, J, ends_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What the run has come to after its last step, in tensors, numbers and strings; tensors are not copied."""
        return {
            "learners": {learner.name: learner.state_dict() for learner in self.learners},
            "gradients": [check._asdict() for check in self.gradients],
            "order": self._epoch_order,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Come to where the training was whose `state_dict` this is, of the same data and settings.

        It may have more epochs or fewer, as long as there are as many as were begun. Only the steps at which gradients
        are compared depend on how many there are.

        Raises:
            KeyError, TypeError, RuntimeError, ValueError: it does not fit; this training is of no use then.
        """
        for learner in self.learners:
            learner.load_state_dict(state["learners"][learner.name])
        self.gradients = [GradientCheck(**check) for check in state["gradients"]]
        self._order.set_state(state["order"])
        self._epoch_order = state["order"]

    @torch.no_grad()
    def evaluate(self, mlp: MLP) -> float:
        """The score of a net on the held-out rows."""
        outputs = torch.cat([mlp(rows) for rows in self.data.x_held_out.split(_ROWS_AT_ONCE)])
        return score(self.dataset.task, outputs, self.data.y_held_out)

    @property
    def largest_loss_difference(self) -> float:
        """The maximum over the steps of |J by hand − J by autograd|; 0 before the first step."""
        by_hand, by_autograd = (learner.curve.losses for learner in self.learners)
        return max((abs(a - b) for a, b in zip(by_hand, by_autograd, strict=True)), default=0.0)

    @property
    def parameter_differences(self) -> dict[str, float]:
        """The relative difference max |a − b| / max |b| between the two nets' parameters as they are now, by symbol."""
        by_hand, by_autograd = (parameters_by_symbol(learner.mlp) for learner in self.learners)
        return {symbol: relative_difference(by_hand[symbol], by_autograd[symbol]) for symbol in by_hand}

    def _compare_gradients(self, number: int) -> None:
        """At the first step, the last one, and evenly between."""
        every = max(1, self.total_steps // _CHECKS)
        if len(self.learners) > 1 and (number % every == 0 or number == self.total_steps - 1):
            x, y = self.data.x[:_CHECK_ROWS], self.data.y[:_CHECK_ROWS]
            check = check_gradients(number, self.mlp, self.settings, self.dataset.loss, x, y)
            self.gradients.append(check)


def _batches(data: Prepared, size: int, order: torch.Generator, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows in a new order, ``size`` at a time, but for the first ``skip`` batches."""
    rows = torch.randperm(len(data.x), generator=order).to(data.x.device)
    for some in rows.split(size)[skip:]:
        yield data.x[some], data.y[some]
