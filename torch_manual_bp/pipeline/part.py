"""One stage's part of the model: its module, its parameters' gradients, its share of the penalty."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..training.problem import sum_dtype
from .gradients import WeightGradients
from .stages import Layers


def on(device: torch.device) -> AbstractContextManager[object]:
    """A context in which the device is the current one: NCCL sends from there, whatever the tensors' device."""
    return nullcontext() if device.type == "cpu" else getattr(torch, device.type).device(device)


class Part:
    """A stage as one process runs it.

    Args:
        module: of `torch_manual_bp.pipeline.stages`; it is moved to the device.
        device: where it is to be.
        columns: of what goes in and of what comes out.
        weight_decay: λ.
    """

    def __init__(self, module: nn.Module, device: torch.device, columns: tuple[int, int], weight_decay: float) -> None:
        self.module, self.device, self.columns, self.weight_decay = module.to(device), device, columns, weight_decay
        self.gradients = WeightGradients()
        for layers in self.layers():
            layers.gradients = self.gradients

    def layers(self) -> Iterator[Layers]:
        """The modules that compute."""
        return (module for module in self.module.modules() if isinstance(module, Layers))

    def weights(self) -> list[nn.Parameter]:
        """What λ acts on."""
        return [p for name, p in self.module.named_parameters() if name.endswith("weight")]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.module.parameters()).dtype

    @property
    def trained(self) -> int:
        """How many parameters require a gradient."""
        return sum(p.requires_grad for p in self.module.parameters())

    @property
    def sharded(self) -> bool:
        """Whether FSDP holds the parameters (it has been imported then, by whoever called it)."""
        fsdp = sys.modules.get("torch.distributed.fsdp")
        return fsdp is not None and isinstance(self.module, fsdp.FSDPModule)

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """λ/2 Σ ‖W‖² over this stage, 0-dim, in the dtype that sums have."""
        dtype = sum_dtype(self.dtype)
        s = torch.zeros((), dtype=dtype, device=self.device)
        for w in self.weights() if self.weight_decay else ():
            # row by row, as the Objective sums it
            square = torch.linalg.vector_norm(w, dim=1, dtype=dtype).square().sum()
            s += square.full_tensor() if hasattr(square, "full_tensor") else square
        return s * (0.5 * self.weight_decay)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what belongs to this stage of the model's state."""
        mine = {name: value for name, value in state.items() if name in self.module.state_dict()}
        self.module.load_state_dict(mine)  # raises where one is missing

    def finish(self, group: "dist.ProcessGroup | None") -> None:
        """Leave this step's gradient in ``.grad``, summed over the group."""
        self.gradients.finish(self.module.parameters(), self.weights(), self.weight_decay, group)
