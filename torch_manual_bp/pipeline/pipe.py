"""A stage of a pipeline as its process uses it: one step, prediction, evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import pure
from ..nn import Objective
from ..training.problem import sum_dtype
from . import check
from .agreement import CALLS, DTYPES, UNKNOWN, Facts, disagreement, exchange, exchange_objects
from .loss import MicrobatchLoss
from .part import Part
from .plan import Plan
from .upstream import forward_only, new_schedule, new_stage

ROWS = 1024  # of a microbatch of prediction, at most
DEPTH = 4  # microbatches of prediction on their way at once, for each stage


class Pipe:
    """One process's stage of a model that is cut over several; `torch_manual_bp.pipeline.build` makes it.

    Attributes:
        module: this process's stage; its parameters have the names that they have in the model.
        index: which stage it is.
        device: where it is.
        microbatches: into how many a batch is cut.
    """

    def __init__(self, part: Part, plan: Plan, objective: Objective) -> None:
        self._part, self._plan, self._validate = part, plan, objective.validate
        self._loss = MicrobatchLoss(objective.loss, objective.class_weight, part.device)
        self.module, self.device = part.module, part.device
        self.index, self.microbatches = plan.index, plan.microbatches
        self._stage: Any = None
        self._schedule: Any = None
        self._made_for: Any = None
        self._predicting: dict[tuple[int, int], Any] = {}
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
        facts = self._agree("step", x, y, row_weight)
        rows = self._rows(facts) // self.microbatches
        with self._running("step"), torch.enable_grad():
            self._make(rows, tuple(fact.trained > 0 for fact in facts))
            L = self._run(x, y, row_weight, rows)
            self._part.finish(None if self._part.sharded else self._plan.data_group)
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
        B = self._rows(self._agree("predict", x, None, None))
        o: Tensor | None = None
        with self._running("predict"), torch.no_grad():
            for begin, end, part in self._forward(x, B, rows):
                if self._plan.is_last:
                    o = part.new_empty(B, self._part.columns[1]) if o is None else o
                    o[begin:end] = part
        return o

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
        B = self._rows(self._agree("evaluate", x, y, row_weight))
        with self._running("evaluate"), torch.no_grad():
            if self._plan.is_last:
                self._begin_loss(y, row_weight, self._piece(B, rows)[1])
            L = [self._loss(o, i) for i, (_, _, o) in enumerate(self._forward(x, B, rows)) if self._plan.is_last]
            return self._J(L)

    # -------------------------------------------------------------------------------------------------- before sending

    def _agree(self, op: str, x: Tensor | None, y: Tensor | None, row_weight: Tensor | None) -> list[Facts]:
        """The facts of all stages, where none of them refuses the call."""
        plan, part = self._plan, self._part
        if self._failure is not None:
            raise RuntimeError(f"{op}: since an error the stages are out of step, build the pipe anew: {self._failure}")
        rows, problem = UNKNOWN, None
        try:
            check.part(op, part)
            if plan.is_first:
                rows = check.inputs(op, x, part).shape[:-1].numel()
            if plan.is_last and op != "predict":
                loss, class_weight = self._loss.loss, self._loss.class_weight
                of_y = check.targets(op, y, row_weight, part, loss, class_weight, self._validate)
                rows = check.same_rows(op, rows, of_y) if plan.is_first else of_y
            if op == "step" and rows != UNKNOWN:
                check.equal_parts(op, rows, self.microbatches)
        except (TypeError, ValueError, RuntimeError) as error:
            problem = error
        fine = 0 if problem else 1
        mine = Facts(CALLS.index(op), fine, rows, DTYPES.index(part.dtype), part.trained)
        others, messages = [[fine, part.trained]], None
        with self._running(op):
            facts = [Facts(*numbers) for numbers in exchange(plan.control, mine)]
            wrong = disagreement(facts)
            fine = int(wrong is None and all(fact.fine for fact in facts))
            if plan.data_control is not None:
                others = exchange(plan.data_control, [fine, part.trained])
            if not all(fact.fine for fact in facts):
                messages = exchange_objects(plan.control, None if problem is None else str(problem))
        if problem is not None:
            raise problem
        if messages is not None:
            stage, message = next((i, message) for i, message in enumerate(messages) if message is not None)
            raise RuntimeError(f"{op}: stage {stage} refuses its part: {message}")
        if wrong is not None:
            raise wrong
        check.replicas(op, others)
        return facts

    def _rows(self, facts: list[Facts]) -> int:
        return max(fact.rows for fact in facts)

    # --------------------------------------------------------------------------------------------------------- running

    @contextmanager
    def _running(self, op: str) -> Iterator[None]:
        """Between these lines an error leaves the stages out of step: it is named, and the pipe is not used again."""
        self._part.gradients.active = True
        try:
            yield
        except BaseException as error:
            where = f"pipeline stage {self.index} of {self._plan.stages}"
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
        plan, part = self._plan, self._part
        self._stage = self._schedule = None  # their buffers go before the new ones come
        needs = any(trains[: plan.index]), any(trains[: plan.index + 1])
        self._stage = self._new_stage(rows, needs, part.gradients)
        self._schedule = new_schedule(plan.schedule, self._stage, plan.microbatches, self._loss)
        self._made_for = rows, trains

    def _new_stage(self, rows: int, needs: tuple[bool, bool], gradients: Any) -> Any:
        plan, part = self._plan, self._part
        shapes = (rows, part.columns[0]), (rows, part.columns[1])
        return new_stage(
            plan.stage_class, part.module, plan.index, plan.stages, self.device, shapes, part.dtype, needs, plan.group,
            gradients,
        )  # fmt: skip

    def _run(self, x: Tensor | None, y: Tensor | None, row_weight: Tensor | None, rows: int) -> list[Tensor]:
        """The losses of the microbatches, on the last stage."""
        plan, part = self._plan, self._part
        part.gradients.begin(plan.data_group is not None, part.sharded)
        if part.sharded:
            fsdp: Any = part.module
            fsdp.set_gradient_divide_factor(1.0)  # a sum over the replicas: the loss has the whole batch's N
        losses: list[Tensor] = []
        given: dict[str, Any] = {"return_outputs": False}
        if plan.is_last:
            given |= {"target": self._begin_loss(y, row_weight, rows), "losses": losses}
        self._schedule.step(*([pure.matrix(x)] if plan.is_first else []), **given)  # type: ignore[arg-type]
        return losses

    def _begin_loss(self, y: Tensor | None, row_weight: Tensor | None, rows: int) -> Tensor:
        assert y is not None
        part = self._part
        return self._loss.begin(y, row_weight, rows, part.columns[1], part.dtype, self._plan.data_group)

    def _J(self, losses: list[Tensor]) -> Tensor:
        """J = Σ_i L_i + s, which every process gets: L from the last stage, and of s each stage's share."""
        plan, part = self._plan, self._part
        L = torch.zeros((), dtype=sum_dtype(part.dtype), device=self.device)
        if plan.is_last:
            L = torch.stack(losses).sum() if losses else L
            self._loss.end()
            if plan.data_group is not None:
                dist.all_reduce(L, group=plan.data_group)
        J = L + part.penalty()
        dist.all_reduce(J, group=plan.group)
        return J

    # ------------------------------------------------------------------------------------------------------ prediction

    def _piece(self, B: int, rows: int) -> tuple[int, int]:
        """How many rows a microbatch has, and how many are on their way at once."""
        m = min(rows, -(-max(B, 1) // self._plan.stages))
        return m, m * DEPTH * self._plan.stages

    def _forward(self, x: Tensor | None, B: int, rows: int) -> Iterator[tuple[int, int, Any]]:
        """Begin and end of each piece of the batch, and its outputs on the last stage."""
        m, piece = self._piece(B, rows)
        for begin in range(0, B, piece):
            end = min(begin + piece, B)
            microbatches = max(-(-(end - begin) // m), self._plan.stages)
            given = []
            if self._plan.is_first:
                assert x is not None
                part = pure.matrix(x)[begin:end]
                missing = microbatches * m - len(part)  # of the last piece: rows that are dropped when they come out
                given = [F.pad(part, (0, 0, 0, missing)) if missing else part]
            stage, schedule = self._forward_schedule(m, microbatches)
            o = schedule.step(*given)
            stage.clear_runtime_states()  # upstream keeps what was computed until the next call
            yield begin, end, o[: end - begin] if self._plan.is_last else None

    def _forward_schedule(self, rows: int, microbatches: int) -> tuple[Any, Any]:
        kept = self._predicting
        if (rows, microbatches) not in kept:
            if len(kept) == 2:  # whole pieces and the last one
                kept.clear()
            stage = self._new_stage(rows, (False, False), None)
            kept[rows, microbatches] = stage, forward_only(stage, microbatches)
        return kept[rows, microbatches]

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

    def __repr__(self) -> str:
        plan = self._plan
        which = f"stage {self.index} of {plan.stages} on {self.device}"
        return f"Pipe({which}, {plan.schedule}, microbatches={self.microbatches})"
