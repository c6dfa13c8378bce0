"""A pipeline that one process drives over several devices: for a quick try, and for tests."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..autograd import pure
from ..nn import Objective
from . import check
from .loss import MicrobatchLoss
from .part import Part, on
from .position import ROWS
from .stages import widths


class OneProcess:
    """All stages of a model in one process, a device each; `torch_manual_bp.pipeline.build` makes it with ``devices``.

    As many microbatches are on their way as there are stages, and no more. On accelerators the devices work at the
    same time, since calls do not wait for them; on CPUs one after another.

    Attributes:
        module: the stages, one after another.
        microbatches: into how many a batch is cut.
    """

    def __init__(
        self, objective: Objective, stages: list[nn.Module], devices: Sequence[torch.device], microbatches: int
    ) -> None:
        columns = widths(stages)
        self._parts = [
            Part(stage, device, (columns[i], columns[i + 1]), objective.weight_decay)
            for i, (stage, device) in enumerate(zip(stages, devices, strict=True))
        ]
        self.module = nn.ModuleList(part.module for part in self._parts)
        self.microbatches = microbatches
        self._validate = objective.validate
        self._loss = MicrobatchLoss(objective.loss, objective.class_weight, self._parts[-1].device)

    def step(self, x: Tensor, y: Tensor, row_weight: Tensor | None = None) -> Tensor:
        """J of a batch, 0-dim, and ∂J/∂p added to ``.grad`` of all parameters.

        Args:
            x: inputs (..., d) on the first device. B rows, the same number in each microbatch.
            y: labels (...) or targets (..., q) on the last device.
            row_weight: weight of each row (...), on the last device, or None.

        Raises:
            TypeError, ValueError, RuntimeError: as of `torch_manual_bp.pipeline.Pipe.step`.
        """
        x = self._checked("step", x, (y, row_weight))
        check.equal_parts("step", len(x), self.microbatches)
        if not any(part.trained for part in self._parts):
            raise RuntimeError("step: no parameter requires a gradient; evaluate(x, y) gives J alone")
        rows = len(x) // self.microbatches
        losses: list[Tensor] = []
        with self._running(), torch.enable_grad():
            self._begin_loss(y, row_weight, rows)
            under_way: deque[Tensor] = deque()
            for part in self._parts:
                part.gradients.begin()
            for i, microbatch in enumerate(x.split(rows)):
                under_way.append(self._loss(self._through(microbatch), i))
                if len(under_way) == len(self._parts):
                    losses.append(self._backward(under_way.popleft()))
            losses += [self._backward(L) for L in under_way]
            for part in self._parts:
                part.finish(None)
            return self._J(losses)

    def predict(self, x: Tensor, *, rows: int = ROWS) -> Tensor:
        """The outputs o (B,q) on the last device.

        Args:
            x: inputs (..., d) on the first device, of B rows in all.
            rows: of a microbatch, at most.

        Raises:
            TypeError, ValueError, RuntimeError: as of `step`.
        """
        check.rows_forward("predict", rows)
        x = self._checked("predict", x)
        last = self._parts[-1]
        o = torch.empty(len(x), last.columns[1], dtype=x.dtype, device=last.device)
        with self._running(), torch.no_grad():
            for into, microbatch in zip(o.split(rows), x.split(rows), strict=True):
                into.copy_(self._through(microbatch))
        return o

    def evaluate(self, x: Tensor, y: Tensor, row_weight: Tensor | None = None, *, rows: int = ROWS) -> Tensor:
        """J of a batch, without a gradient.

        Args:
            x: as of `step`; B need not be a multiple of anything.
            y: as of `step`.
            row_weight: as of `step`.
            rows: as of `predict`.

        Raises:
            TypeError, ValueError, RuntimeError: as of `step`.
        """
        check.rows_forward("evaluate", rows)
        x = self._checked("evaluate", x, (y, row_weight))
        with self._running(), torch.no_grad():
            self._begin_loss(y, row_weight, rows)
            return self._J([self._loss(self._through(microbatch), i) for i, microbatch in enumerate(x.split(rows))])

    def _checked(self, op: str, x: Tensor, targets: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """The inputs as (B,d)."""
        for part in self._parts:
            check.part(op, part)
        x = pure.matrix(check.inputs(op, x, self._parts[0]))
        if targets is not None:
            y, row_weight = targets
            of_y = check.targets(
                op, y, row_weight, self._parts[-1], self._loss.loss, self._loss.class_weight, self._validate
            )  # fmt: skip
            check.same_rows(op, len(x), of_y)
        return x

    @contextmanager
    def _running(self) -> Iterator[None]:
        for part in self._parts:
            part.gradients.active = True
        try:
            yield
        finally:
            for part in self._parts:
                part.gradients.active = False

    def _begin_loss(self, y: Tensor, row_weight: Tensor | None, rows: int) -> None:
        last = self._parts[-1]
        self._loss.begin(y, row_weight, rows, last.columns[1], last.dtype, None)

    def _through(self, x: Tensor) -> Tensor:
        for part in self._parts:
            with on(part.device):
                x = part.module(x.to(part.device, non_blocking=True))
        return x

    def _backward(self, L: Tensor) -> Tensor:
        L.backward()
        for part in reversed(self._parts):
            with on(part.device):
                part.gradients.runner()()
        return L.detach()

    def _J(self, losses: list[Tensor]) -> Tensor:
        """J = Σ_i L_i + s."""
        self._loss.end()
        last = self._parts[-1]
        J = torch.stack(losses).sum() if losses else last.penalty().zero_()
        for part in self._parts:
            J = J + part.penalty().to(last.device)
        return J

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of all stages."""
        return chain.from_iterable(part.module.parameters() for part in self._parts)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of all stages, under the names that they have in the model."""
        return chain.from_iterable(part.module.named_parameters() for part in self._parts)

    def state_dict(self) -> dict[str, Any]:
        """The model's."""
        return {name: value for part in self._parts for name, value in part.module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the model's state.

        Raises:
            RuntimeError: a parameter is not in it, or has another shape.
        """
        for part in self._parts:
            part.load(state)

    def __repr__(self) -> str:
        devices = ", ".join(str(part.device) for part in self._parts)
        return f"OneProcess({len(self._parts)} stages on {devices}, microbatches={self.microbatches})"
