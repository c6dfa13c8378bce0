"""What is fixed when a pipe is built."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

ROWS = 1024  # of a microbatch of prediction, at most


@dataclass(frozen=True)
class Position:
    """Where one process stands in a pipeline.

    Attributes:
        index: of its stage.
        stages: how many there are.
        schedule: our name of it.
        microbatches: into how many a batch is cut.
        group: the processes of the pipeline, one a stage.
        data_group: the processes that hold the same stage and other rows, or None.
        control: all of them, stages and replicas, passing CPU tensors.
        stage_class: `torch_manual_bp.pipeline.upstream.Stage`, or a subclass.
    """

    index: int
    stages: int
    schedule: str
    microbatches: int
    group: "dist.ProcessGroup"
    data_group: "dist.ProcessGroup | None"
    control: "dist.ProcessGroup"
    stage_class: type[Any]

    @property
    def replicas(self) -> int:
        """How many processes hold the same stage."""
        return 1 if self.data_group is None else dist.get_world_size(self.data_group)

    @property
    def replica(self) -> int:
        """Which of them this one is."""
        return 0 if self.data_group is None else dist.get_rank(self.data_group)

    @property
    def is_first(self) -> bool:
        """Whether x goes in here."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether the loss is here."""
        return self.index == self.stages - 1
