"""What the stages tell each other before a batch is sent: then an error on one of them is an error on all, at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CALLS = ("step", "predict", "evaluate")
UNKNOWN = -1


class Facts(NamedTuple):
    """What one stage knows of a call.

    Attributes:
        call: a number of `CALLS`.
        fine: 0 where its checks failed.
        rows: of the batch; `UNKNOWN` where it is given none.
        dtype: of its parameters, a number of `DTYPES`.
        trained: how many of its parameters require a gradient.
    """

    call: int
    fine: int
    rows: int
    dtype: int
    trained: int


def control_group(group: "dist.ProcessGroup") -> "dist.ProcessGroup":
    """A group of the same processes that passes CPU tensors: nobody has to wait for a GPU to hear of an error."""
    if "cpu" in dist.get_backend_config(group):
        return group
    return dist.new_group(dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True)


def exchange(group: "dist.ProcessGroup", mine: Sequence[int]) -> list[list[int]]:
    """As many integers of each process, in order."""
    told = [torch.empty(len(mine), dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(told, torch.tensor(mine), group=group)
    return [of_one.tolist() for of_one in told]


def exchange_objects(group: "dist.ProcessGroup", mine: Any) -> list[Any]:
    """An object of each process, in order."""
    told: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, mine, group=group)
    return told


def disagreement(facts: list[Facts]) -> Exception | None:
    """The error, the same on each stage, of stages that do not call the same, or not with the same batch."""
    op = CALLS[facts[0].call]
    if len({fact.call for fact in facts}) > 1:
        calls = ", ".join(f"{CALLS[fact.call]} on stage {i}" for i, fact in enumerate(facts))
        return RuntimeError(f"{op}: all stages must make the same call, got {calls}")
    known = {i: fact.rows for i, fact in enumerate(facts) if fact.rows != UNKNOWN}
    if len(set(known.values())) > 1:
        rows = ", ".join(f"{rows} on stage {i}" for i, rows in known.items())
        return ValueError(f"{op}: all stages must be given the same batch, got rows: {rows}")
    if len({fact.dtype for fact in facts}) > 1:
        dtypes = ", ".join(f"{DTYPES[fact.dtype]} on stage {i}" for i, fact in enumerate(facts))
        return ValueError(f"{op}: all stages must have parameters of one dtype, got {dtypes}")
    if op == "step" and not any(fact.trained for fact in facts):
        return RuntimeError("step: no parameter of any stage requires a gradient; evaluate(x, y) gives J alone")
    return None
