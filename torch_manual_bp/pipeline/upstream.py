"""What is taken from `torch.distributed.pipelining`: stages and schedules. Imported late, since it takes a second."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleavedZeroBubble

from .gradients import WeightGradients


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
    stage_class: type[PipelineStage], module: nn.Module, index: int, stages: int, device: torch.device,
    shapes: tuple[tuple[int, int], tuple[int, int]], dtype: torch.dtype, differentiated: tuple[bool, bool],
    group: "dist.ProcessGroup", gradients: WeightGradients | None,
) -> PipelineStage:  # fmt: skip
    """A stage whose shapes are given: inferred at run time, they would leave weight gradients of a dry run waiting.

    Args:
        stage_class: `Stage`, or a subclass.
        module: what it runs.
        index: which it is.
        stages: of how many.
        device: where.
        shapes: of a microbatch that goes in and of one that comes out.
        dtype: of both.
        differentiated: whether a gradient comes back for what goes in, and for what comes out.
        group: one process a stage.
        gradients: of the module's parameters; None for prediction.
    """
    given, made = (
        torch.empty(shape, dtype=dtype, device="meta", requires_grad=needs)
        for shape, needs in zip(shapes, differentiated, strict=True)
    )
    return stage_class(
        module, index, stages, device, input_args=(given,), output_args=(made,), group=group,
        dw_builder=None if gradients is None else gradients.runner,
    )  # fmt: skip


def new_schedule(name: str, stage: PipelineStage, microbatches: int, loss: Callable[..., Tensor]) -> Any:
    """Upstream's schedule by our name; it leaves the gradients' scale alone, which is the loss's."""
    if name == "zero_bubble":
        return ScheduleInterleavedZeroBubble([stage], microbatches, loss, scale_grads=False)
    schedule = ScheduleGPipe if name == "gpipe" else Schedule1F1B
    return schedule(stage, microbatches, loss, scale_grads=False)


def forward_only(stage: PipelineStage, microbatches: int) -> Any:
    """The schedule without a backward pass."""
    return ScheduleGPipe(stage, microbatches, scale_grads=False)
