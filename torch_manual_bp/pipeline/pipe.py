"""A stage of a pipeline as its process uses it: one step, prediction, evaluation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..autograd import pure
from ..nn import Objective
from ..training.problem import sum_dtype
from . import check
from .agreement import (
    CALLS,
    DTYPES,
    UNKNOWN,
    Agreed,
    Facts,
    agreed,
    disagreement,
    exchange,
    exchange_objects,
    place,
)
from .loss import MicrobatchLoss
from .part import Part, on
from .position import ROWS, Position
from .prediction import Prediction
from .upstream import new_schedule, new_stage


class Pipe:
    """One process's stage of a model that is cut over several; `torch_manual_bp.pipeline.build` makes it.

    Attributes:
        module: this process's stage; its parameters have the names that they have in the model.
        index: which stage it is.
        device: where it is.
        microbatches: into how many a batch is cut.
    """

    def __init__(self, part: Part, position: Position, objective: Objective) -> None:
        self._part, self._position, self._validate = part, position, objective.validate
        self._loss = MicrobatchLoss(objective.loss, objective.class_weight, part.device)
        self.module, self.device = part.module, part.device
        self.index, self.microbatches = position.index, position.microbatches
        self._stage: Any = None
        self._schedule: Any = None
        self._made_for: Any = None
        self._prediction = Prediction(part, position)
        self._failure: str | None = None

    def step(self, x: Tensor | None = None, y: Tensor | None = None, row_weight: Tensor | None = None) -> Tensor:
        """J of a batch, 0-dim, on every process, and ∂J/∂p added to ``.grad`` of this stage's parameters.

        As ``objective(x, y).backward()`` on one process, microbatch by microbatch as the schedule has it. All stages
        call it together, each with what it needs; what it does not need is not looked at. A batch that one of them
        refuses is refused on all before anything is sent. After an error on the way ``.grad`` may hold a part of it.

        Args:
            x: on the first stage: inputs (..., d), on its device. B rows, the same number in each microbatch.
            y: on the last stage: labels (...) or targets (..., q), on its device.
            row_weight: on the last stage: weight of each row (...), or None.

        Raises:
            TypeError, ValueError: what does not fit; rows that cannot be cut into the microbatches.
            RuntimeError: hooks or layers that a stage would pass by, another stage's error, or one that is lost.
        """
        call = self._agree("step", x, y, row_weight)
        rows = call.rows // self.microbatches
        with self._running("step"), torch.enable_grad():
            self._make(rows, call.trains)
            L = self._run(x, y, row_weight, rows)
            self._part.finish(None if self._part.sharded else self._position.data_group)
            return self._J(L)

    def predict(self, x: Tensor | None = None, *, rows: int = ROWS) -> Tensor | None:
        """The outputs o (B,q) on the last stage, None on the others; nothing is kept for a backward pass.

        Args:
            x: on the first stage: inputs (..., d), of B rows in all.
            rows: of a microbatch, at most: beside x and o memory holds a few of them, however large the batch.

        Raises:
            TypeError, ValueError, RuntimeError: as of `step`.
        """
        check.rows_forward("predict", rows)
        call, part = self._agree("predict", x, None, None), self._part
        with self._running("predict"), torch.no_grad():
            B = call.rows if self._position.is_last else 0
            o = torch.empty(B, part.columns[1], dtype=part.dtype, device=self.device)
            for begin, piece in self._prediction.pieces(x, call, rows):
                o[begin : begin + len(piece)] = piece
        return o if self._position.is_last else None

    def evaluate(
        self, x: Tensor | None = None, y: Tensor | None = None, row_weight: Tensor | None = None, *, rows: int = ROWS
    ) -> Tensor:
        """J of a batch on every process, without a gradient, in the memory of `predict`.

        Args:
            x: as of `step`; B need not be a multiple of anything.
            y: as of `step`.
            row_weight: as of `step`.
            rows: as of `predict`.

        Raises:
            TypeError, ValueError, RuntimeError: as of `step`.
        """
        check.rows_forward("evaluate", rows)
        call = self._agree("evaluate", x, y, row_weight)
        with self._running("evaluate"), torch.no_grad():
            if self._position.is_last:
                self._begin_loss(y, row_weight, self._prediction.sizes(call, rows)[1])
            return self._J([self._loss(o, i) for i, (_, o) in enumerate(self._prediction.pieces(x, call, rows))])

    # -------------------------------------------------------------------------------------------------- before sending

    def _agree(self, op: str, x: Tensor | None, y: Tensor | None, row_weight: Tensor | None) -> Agreed:
        """What all processes know of the call, where none of them refuses it."""
        position, part = self._position, self._part
        if self._failure is not None:
            raise RuntimeError(f"{op}: since an error the stages are out of step, build the pipe anew: {self._failure}")
        rows = UNKNOWN
        problem: Exception | None = None
        try:
            check.part(op, part, position.replicas)
            if position.is_first:
                rows = check.inputs(op, x, part).shape[:-1].numel()
            if position.is_last and op != "predict":
                loss, class_weight = self._loss.loss, self._loss.class_weight
                of_y = check.targets(op, y, row_weight, part, loss, class_weight, self._validate)
                rows = check.same_rows(op, rows, of_y) if position.is_first else of_y
            if op == "step" and rows != UNKNOWN:
                check.equal_parts(op, rows, self.microbatches)
        except Exception as error:  # whatever it is: the others are waiting to hear of it
            problem = error
        dtype = DTYPES.index(part.dtype) if part.dtype in DTYPES else UNKNOWN
        mine = Facts(
            position.replica, position.index, CALLS.index(op), int(problem is None), rows, dtype, part.trained,
            int(part.sharded),
        )  # fmt: skip
        messages: list[Any] = []
        with self._running(op):
            facts = [Facts(*numbers) for numbers in exchange(position.control, mine)]
            if not all(fact.fine for fact in facts):
                messages = exchange_objects(position.control, None if problem is None else str(problem))
        if problem is not None:
            raise problem
        for fact, message in zip(facts, messages, strict=False):
            if message is not None:
                raise RuntimeError(f"{op}: {place(fact, facts)} refuses its part: {message}")
        wrong = disagreement(facts)
        if wrong is not None:
            raise wrong
        return agreed(facts, position.replica)

    # --------------------------------------------------------------------------------------------------------- running

    @contextmanager
    def _running(self, op: str) -> Iterator[None]:
        """Between these lines an error leaves the stages out of step: it is named, and the pipe is not used again."""
        self._part.gradients.active = True
        try:
            with on(self.device):
                yield
        except BaseException as error:
            where = f"pipeline stage {self.index} of {self._position.stages}"
            self._failure = f"{op}: {where} failed: {type(error).__name__}: {error}"
            self._part.gradients.abandon()
            if isinstance(error, Exception):
                raise RuntimeError(self._failure) from error
            raise
        finally:
            self._part.gradients.active = False

    def _make(self, rows: int, trains: tuple[bool, ...]) -> None:
        """Stage and schedule for microbatches of so many rows; the last ones are kept."""
        if self._made_for == (rows, trains):
            return
        position, part = self._position, self._part
        self._stage = self._schedule = None  # their buffers go before the new ones come
        needs = any(trains[: position.index]), any(trains[: position.index + 1])
        self._stage = new_stage(part, position, rows, needs, deferring=True)
        self._schedule = new_schedule(position.schedule, self._stage, position.microbatches, self._loss)
        self._made_for = rows, trains

    def _run(self, x: Tensor | None, y: Tensor | None, row_weight: Tensor | None, rows: int) -> list[Tensor]:
        """The losses of the microbatches, on the last stage."""
        position, part = self._position, self._part
        part.gradients.begin(position.replicas, part.sharded)
        losses: list[Tensor] = []
        given: dict[str, Any] = {"return_outputs": False}
        if position.is_last:
            given |= {"target": self._begin_loss(y, row_weight, rows), "losses": losses}
        self._schedule.step(*([pure.matrix(x)] if position.is_first else []), **given)  # type: ignore[arg-type]
        return losses

    def _begin_loss(self, y: Tensor | None, row_weight: Tensor | None, rows: int) -> Tensor:
        assert y is not None
        part = self._part
        return self._loss.begin(y, row_weight, rows, part.columns[1], part.dtype, self._position.data_group)

    def _J(self, losses: list[Tensor]) -> Tensor:
        """J = Σ_i L_i + s, which every process gets: L from the last stage, and of s each stage's share."""
        position, part = self._position, self._part
        L = torch.zeros((), dtype=sum_dtype(part.dtype), device=self.device)
        if position.is_last:
            L = torch.stack(losses).sum() if losses else L
            self._loss.end()
            if position.data_group is not None:
                dist.all_reduce(L, group=position.data_group)
        J = L + part.penalty()
        dist.all_reduce(J, group=position.group)
        return J

    # ------------------------------------------------------------------------------------------------- what lies inside

    @property
    def schedule(self) -> Any:
        """The schedule of `torch.distributed.pipelining` that the last step ran.

        Raises:
            RuntimeError: before the first step, which tells how many rows a microbatch has.
        """
        return self._made("schedule", self._schedule)

    @property
    def stage(self) -> Any:
        """The `torch.distributed.pipelining.PipelineStage` that the last step ran; see `schedule`."""
        return self._made("stage", self._stage)

    def _made(self, name: str, thing: Any) -> Any:
        if thing is None:
            raise RuntimeError(f"{name}: it is made in the first step, for the rows of its microbatches")
        return thing

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of this process's stage, for its optimizer."""
        return self.module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of this process's stage, under the names that they have in the model."""
        return self.module.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        """This stage's; those of all stages make up the model's."""
        return self.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this stage's part of the model's state, or of this stage's own.

        Raises:
            RuntimeError: a parameter is not in it, or has another shape.
        """
        self._part.load(state)

    def __repr__(self) -> str:
        position = self._position
        which = f"stage {self.index} of {position.stages} on {self.device}"
        return f"Pipe({which}, {position.schedule}, microbatches={self.microbatches})"
