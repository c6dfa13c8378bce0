"""What can be cut into stages: an objective, or a stack of MLPs with a loss."""

from typing import Any

from torch import nn

from ..nn import MLP, Objective
from ..nn.mlp import is_untouched
from .agreement import DTYPES
from .stages import blocks_of


def objective_of(model: nn.Module, loss: dict[str, Any], op: str) -> tuple[Objective, MLP | nn.Sequential]:
    """The objective, of a stack that of its last block with these options, and the net to be cut.

    Raises:
        TypeError: neither an objective nor a stack, or options beside an objective.
        ValueError: an objective in tiles, options that do not fit, parameters of several dtypes.
        RuntimeError: what a stage would pass by: wrappers, hooks, compiled modules.
    """
    _refuse_wrapped(model, op)
    net: MLP | nn.Sequential
    if isinstance(model, Objective):
        if loss:
            raise TypeError(f"{op}: {', '.join(loss)} belong to a stack; the objective has its own loss")
        objective, net = model, model.mlp
        blocks_of(net, op)
    elif isinstance(model, nn.Sequential):
        objective, net = Objective(blocks_of(model, op)[-1], **loss), model
    else:
        raise TypeError(f"{op}: model must be an Objective or an nn.Sequential of MLPs, got {type(model).__name__}")
    if objective.tile_rows is not None:
        raise ValueError(
            f"{op}: the objective must have tile_rows=None, got {objective.tile_rows!r}: "
            "a pipeline cuts the batch into microbatches"
        )
    dtypes = {p.dtype for p in net.parameters()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        found = " and ".join(sorted(map(str, dtypes)))
        raise ValueError(f"{op}: all parameters must have one dtype, one of {', '.join(map(str, DTYPES))}; got {found}")
    return objective, net


def _refuse_wrapped(model: nn.Module, op: str) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise RuntimeError(
            f"{op}: model must be the bare objective, got DistributedDataParallel, whose hooks a deferred gradient "
            "passes by (as zero bubble's own does, pytorch#144530); data_group= or mesh= sums over replicas"
        )
    if not isinstance(model, nn.Module):
        return
    if hasattr(model, "_orig_mod") or any(module._compiled_call_impl is not None for module in model.modules()):
        raise RuntimeError(f"{op}: model must not be compiled: weight gradients wait outside of a compiled graph")
    if any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise RuntimeError(f"{op}: model must not be sharded; after build: fully_shard(pipe.module, mesh=…)")
    own_forward = isinstance(model, Objective) and type(model).forward is not Objective.forward
    if own_forward or not is_untouched(model):
        raise RuntimeError(f"{op}: model must not carry hooks or a forward of its own: its layers are called alone")
