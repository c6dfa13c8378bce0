"""What is taken from `torch.distributed.pipelining`: stages and schedules. Imported late, since it takes a second."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleavedZeroBubble

from .part import Part
from .position import Position


class Stage(PipelineStage):
    """Upstream's stage, which lets the graph of a loss go once its backward pass is done.

    A schedule keeps the losses of all microbatches to its end, and with them what their graphs hold.
    """

    def backward_one_chunk(self, bwd_chunk_id: int, loss: Tensor | None = None, *args: Any, **kwargs: Any) -> None:
        """As of `torch.distributed.pipelining.PipelineStage`."""
        super().backward_one_chunk(bwd_chunk_id, loss, *args, **kwargs)
        if loss is not None:
            loss.detach_()


def new_stage(
    part: Part, position: Position, rows: int, differentiated: tuple[bool, bool], deferring: bool
) -> PipelineStage:
    """A stage whose shapes are given: inferred at run time, they would leave weight gradients of a dry run waiting.

    Args:
        part: what it runs, and where.
        position: which stage of how many it is, and the group.
        rows: of a microbatch.
        differentiated: whether a gradient comes back for what goes in, and for what comes out.
        deferring: whether the schedule is to make the weights' gradients.
    """
    given, made = (
        torch.empty(rows, columns, dtype=part.dtype, device="meta", requires_grad=needs)
        for columns, needs in zip(part.columns, differentiated, strict=True)
    )
    stage: PipelineStage = position.stage_class(
        part.module, position.index, position.stages, part.device, input_args=(given,), output_args=(made,),
        group=position.group, dw_builder=part.gradients.runner if deferring else None,
    )  # fmt: skip
    return stage


def new_schedule(name: str, stage: PipelineStage, microbatches: int, loss: Callable[..., Tensor]) -> Any:
    """Upstream's schedule by our name; it leaves the gradients' scale alone, which is the loss's."""
    if name == "zero_bubble":
        return ScheduleInterleavedZeroBubble([stage], microbatches, loss, scale_grads=False)
    schedule = ScheduleGPipe if name == "gpipe" else Schedule1F1B
    return schedule(stage, microbatches, loss, scale_grads=False)


def forward_only(stage: PipelineStage, microbatches: int) -> Any:
    """The schedule without a backward pass."""
    return ScheduleGPipe(stage, microbatches, scale_grads=False)
