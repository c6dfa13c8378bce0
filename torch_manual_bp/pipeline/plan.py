"""What is fixed when a pipe is built."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Plan:
    """Where one process stands in a pipeline.

    Attributes:
        index: of its stage.
        stages: how many there are.
        schedule: our name of it.
        microbatches: into how many a batch is cut.
        group: the processes of the pipeline, one a stage.
        control: the same ones, passing CPU tensors.
        data_group: the processes that hold the same stage and other rows, or None.
        data_control: the same ones, passing CPU tensors.
        stage_class: `torch_manual_bp.pipeline.upstream.Stage`, or a subclass.
    """

    index: int
    stages: int
    schedule: str
    microbatches: int
    group: "dist.ProcessGroup"
    control: "dist.ProcessGroup"
    data_group: "dist.ProcessGroup | None"
    data_control: "dist.ProcessGroup | None"
    stage_class: type[Any]

    @property
    def is_first(self) -> bool:
        """Whether x goes in here."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether the loss is here."""
        return self.index == self.stages - 1
