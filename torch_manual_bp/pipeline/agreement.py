"""What the processes tell each other before a batch is sent: an error on one of them is then one on all, at once."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CALLS = ("step", "predict", "evaluate")
UNKNOWN = -1


class Facts(NamedTuple):
    """What one process knows of a call.

    Attributes:
        replica: which pipeline it is in, of those that take other rows of the same batch.
        stage: which stage of it it has.
        call: a number of `CALLS`.
        fine: 0 where its checks failed.
        rows: of its batch; `UNKNOWN` where it is given none.
        dtype: of its parameters, a number of `DTYPES`.
        trained: how many of its parameters require a gradient.
        sharded: whether FSDP holds them.
    """

    replica: int
    stage: int
    call: int
    fine: int
    rows: int
    dtype: int
    trained: int
    sharded: int


class Agreed(NamedTuple):
    """What all know of a call that none of them refuses.

    Attributes:
        rows: of this pipeline's batch.
        rows_through: that prediction sends through the stages: as many on all replicas where FSDP gathers the weights
            for each microbatch anew.
        trains: by stage, whether it has parameters that require a gradient.
    """

    rows: int
    rows_through: int
    trains: tuple[bool, ...]


def control_group(group: "dist.ProcessGroup", data_group: "dist.ProcessGroup | None") -> "dist.ProcessGroup":
    """All processes of all replicas' pipelines, passing CPU tensors: nobody waits for a GPU to hear of an error."""
    replicas = [dist.get_rank()] if data_group is None else dist.get_process_group_ranks(data_group)
    members = sorted(rank for of_stage in exchange_objects(group, replicas) for rank in of_stage)
    for known in (group, dist.group.WORLD):
        assert known is not None
        if sorted(dist.get_process_group_ranks(known)) == members and "cpu" in dist.get_backend_config(known):
            return known
    return dist.new_group(members, timeout=_timeout(group), backend="gloo", use_local_synchronization=True)


def _timeout(group: "dist.ProcessGroup") -> Any:
    """The group's, which nothing public tells; None for torch's default."""
    device = group._device_types[0]
    return getattr(getattr(group._get_backend(device), "options", None), "_timeout", None)


def exchange(group: "dist.ProcessGroup", mine: Sequence[int]) -> list[list[int]]:
    """As many integers of each process, in order."""
    told = [torch.empty(len(mine), dtype=torch.int64, device="cpu") for _ in range(dist.get_world_size(group))]
    dist.all_gather(told, torch.tensor(mine, dtype=torch.int64, device="cpu"), group=group)
    return [of_one.tolist() for of_one in told]


def exchange_objects(group: "dist.ProcessGroup", mine: Any) -> list[Any]:
    """An object of each process, in order."""
    told: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(told, mine, group=group)
    return told


def disagreement(facts: list[Facts]) -> Exception | None:
    """The error, the same on each process, of processes that do not call the same, or not with one batch a pipeline."""
    op = CALLS[facts[0].call]
    if len({fact.call for fact in facts}) > 1:
        return RuntimeError(f"{op}: all stages must make the same call, got {_each(facts, lambda f: CALLS[f.call])}")
    for replica in {fact.replica for fact in facts}:
        known = [fact for fact in facts if fact.replica == replica and fact.rows != UNKNOWN]
        if len({fact.rows for fact in known}) > 1:
            return ValueError(f"{op}: all stages must be given one batch, got rows: {_each(known, lambda f: f.rows)}")
    if len({fact.dtype for fact in facts}) > 1:
        found = _each(facts, lambda f: DTYPES[f.dtype])
        return ValueError(f"{op}: all stages must have parameters of one dtype, got {found}")
    for stage in {fact.stage for fact in facts}:
        same = [fact for fact in facts if fact.stage == stage]
        if len({fact.trained for fact in same}) > 1:
            found = _each(same, lambda f: f.trained)
            return ValueError(f"{op}: the same parameters must be trained on all replicas, got as many: {found}")
    if op == "step" and not any(fact.trained for fact in facts):
        return RuntimeError("step: no parameter of any stage requires a gradient; evaluate(x, y) gives J alone")
    return None


def place(fact: Facts, facts: Iterable[Facts]) -> str:
    """The name of a process among these."""
    replica = f" of replica {fact.replica}" if any(f.replica for f in facts) else ""
    return f"stage {fact.stage}{replica}"


def _each(facts: list[Facts], what: Any) -> str:
    return ", ".join(f"{what(fact)} on {place(fact, facts)}" for fact in facts)


def agreed(facts: list[Facts], replica: int) -> Agreed:
    """What follows for one replica."""
    mine = sorted(fact for fact in facts if fact.replica == replica)
    rows = max(fact.rows for fact in mine)
    most = max(fact.rows for fact in facts) if any(fact.sharded for fact in facts) else rows
    return Agreed(rows, most, tuple(fact.trained > 0 for fact in mine))
