"""From an objective to this process's stage of it: every check that can be made before a batch is there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..nn import Objective
from . import check
from .model import objective_of
from .one_process import OneProcess
from .stages import deal

OP = "build"


def build(
    model: Objective | nn.Sequential, microbatches: int, schedule: str = "1f1b", *,
    device: torch.device | str | int | None = None, devices: Sequence[torch.device | str | int] | None = None,
    process_group: Any = None, data_group: Any = None, mesh: Any = None, stage_class: Any = None, **loss: Any,
) -> Any:  # fmt: skip
    """The stage of this process, ready to take steps; every process calls it, with the same model and options.

    An objective's MLP is cut between its layers, over two processes. A stack, ``nn.Sequential`` of MLPs, is dealt out
    over as many processes as it has blocks or fewer, or over twice as many, a layer each; its J = L + λ/2 Σ ‖W‖² over
    all blocks. Process r of the group keeps stage r and lets the rest of the model go.

    Args:
        model: an objective, whose loss and λ are the pipeline's, or a stack.
        microbatches: into how many parts of the same size each batch is cut.
        schedule: "gpipe" (all forward, then all backward), "1f1b" (fewer microbatches in memory), or "zero_bubble"
            (weight gradients wait until there is nothing else to do).
        device: of this process's stage; None: the CPU, or with NCCL the GPU of its LOCAL_RANK.
        devices: one for each stage, all driven by this one process, for a quick try: no process group then, and the
            order is 1f1b's.
        process_group: the pipeline's processes, one a stage; None: all processes.
        data_group: the processes that hold the same stage and take other rows of the same batch: J, its normaliser and
            gradients are those of all their rows. Their parameters are made those of the first.
        mesh: instead of both groups, a DeviceMesh of dimensions (pipeline) or (pipeline, data).
        stage_class: a subclass of `torch_manual_bp.pipeline.upstream.Stage`.
        **loss: of a stack: ``loss``, ``weight_decay`` and the other options of `torch_manual_bp.Objective`.

    Returns:
        A `torch_manual_bp.pipeline.Pipe`; with ``devices`` its like for one process.

    Raises:
        TypeError, ValueError: options and sizes that do not fit, a device that is not there.
        RuntimeError: no process group; hooks, replaced, sharded or compiled layers; processes that build different
            pipelines.
    """
    objective, net = objective_of(model, loss, OP)
    if devices is None:
        from .distributed import build_distributed  # imports torch.distributed.pipelining, which takes a second

        groups = process_group, data_group, mesh
        return build_distributed(objective, net, microbatches, schedule, device, groups, stage_class)
    given = {"device": device, "process_group": process_group, "data_group": data_group, "mesh": mesh,
             "stage_class": stage_class}  # fmt: skip
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{OP}: {name} belongs to several processes, devices to one; give one of them")
    check.microbatches(OP, schedule, microbatches, len(devices))
    if schedule != "1f1b":
        raise ValueError(f"{OP}: devices= runs the order of 1f1b, got schedule {schedule!r}; processes run any")
    places = [check.device(OP, place) for place in devices]
    return OneProcess(objective, deal(net, len(places), OP), places, microbatches)
