"""A pipe over several processes: its groups, its device, and that all of them build the same."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..nn import MLP, Objective
from . import check
from .agreement import control_group, exchange_objects
from .part import Part, on
from .pipe import Pipe
from .position import Position
from .stages import deal, widths
from .upstream import Stage

OP = "build"


def build_distributed(
    objective: Objective, net: MLP | nn.Sequential, microbatches: int, schedule: str,
    device: torch.device | str | int | None, groups: tuple[Any, Any, Any], stage_class: type[Stage] | None,
) -> Pipe:  # fmt: skip
    """This process's stage; see `torch_manual_bp.pipeline.build`."""
    group, data_group = _groups(*groups)
    n, index = dist.get_world_size(group), dist.get_rank(group)
    _check_processes(net, n)
    stages = deal(net, n, OP)
    check.microbatches(OP, schedule, microbatches, n)
    place = _device(device, group)
    columns = widths(stages)
    with on(place):
        control = control_group(group, data_group)
        _check_same(control, {
            "schedule": schedule, "microbatches": microbatches, "widths": columns, "loss": objective.loss,
            "activations": [module.activation for module in net.modules() if isinstance(module, MLP)],
            "weight_decay": objective.weight_decay, "dtype": next(net.parameters()).dtype,
        })  # fmt: skip
        part = Part(stages[index], place, (columns[index], columns[index + 1]), objective.weight_decay)
        if data_group is not None:
            first = dist.get_global_rank(data_group, 0)
            for p in part.module.parameters():
                dist.broadcast(p.detach(), src=first, group=data_group)
    position = Position(index, n, schedule, microbatches, group, data_group, control, stage_class or Stage)
    return Pipe(part, position, objective)


def _groups(process_group: Any, data_group: Any, mesh: Any) -> tuple[Any, Any]:
    """The pipeline's group and that of the replicas of a stage, or None."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"{OP}: no process group is initialised: start the script with `torchrun --nproc-per-node 2` and call "
            "torch.distributed.init_process_group() in it; or give devices=(…, …) to one process"
        )
    if mesh is None:
        return process_group or dist.group.WORLD, data_group
    if process_group is not None or data_group is not None:
        raise ValueError(f"{OP}: give mesh or process_group and data_group, not both")
    if mesh.ndim not in (1, 2):
        raise ValueError(f"{OP}: mesh must have dimensions (pipeline) or (pipeline, data), got {mesh.ndim} dimensions")
    return mesh.get_group(0), mesh.get_group(1) if mesh.ndim == 2 else None


def _check_processes(net: MLP | nn.Sequential, n: int) -> None:
    if isinstance(net, MLP) and n != 2:
        raise ValueError(
            f"{OP}: an MLP is cut into 2 stages, one a process; the group has {n} processes: "
            "run torchrun --nproc-per-node 2, or give process_group= or mesh="
        )


def _device(device: torch.device | str | int | None, group: "dist.ProcessGroup") -> torch.device:
    backends = dist.get_backend_config(group)
    if device is None:
        local_rank = os.environ.get("LOCAL_RANK")  # torchrun's
        gpu = "cuda" if local_rank is None else f"cuda:{local_rank}"
        device = gpu if "nccl" in backends else "cpu"
    place = check.device(OP, device)
    if place.type not in backends:
        raise ValueError(f"{OP}: the process group must pass {place.type} tensors, its backends are {backends}")
    return place


def _check_same(control: "dist.ProcessGroup", mine: dict[str, Any]) -> None:
    """Raise unless all processes build the same.

    Raises:
        ValueError: they do not.
    """
    everyones = exchange_objects(control, mine)
    for name in mine:
        values = [of_one[name] for of_one in everyones]
        if any(value != values[0] for value in values):
            found = ", ".join(f"{value} on process {i}" for i, value in enumerate(values))
            raise ValueError(f"{OP}: all processes must build the same pipeline, {name} differs: {found}")
