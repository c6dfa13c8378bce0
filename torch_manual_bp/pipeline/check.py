"""What a pipe refuses, by name, before anything is sent."""

import torch
from torch import Tensor, nn

from ..autograd import check, state
from ..equations import Loss
from ..nn.mlp import is_untouched
from .agreement import DTYPES
from .part import Part

SCHEDULES = ("gpipe", "1f1b", "zero_bubble")


def microbatches(op: str, schedule: str, number: int, stages: int) -> None:
    """Raise unless the schedule takes so many microbatches.

    Raises:
        TypeError: no integer.
        ValueError: an unknown schedule, or a number that it does not take; the message says which it does.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"{op}: schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}")
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{op}: microbatches must be an int, got {number!r}")
    if number < 1:
        raise ValueError(f"{op}: microbatches must be at least 1, got {number}")
    if not takes(schedule, number, stages):
        near = sorted(range(1, 2 * number + 2 * stages), key=lambda n: (abs(n - number), n))
        would = sorted([n for n in near if takes(schedule, n, stages)][:4])
        raise ValueError(
            f"{op}: {schedule} over {stages} stages does not take {number} microbatches; "
            f"{', '.join(map(str, would))} would do"
        )


def takes(schedule: str, number: int, stages: int) -> bool:
    """Whether upstream's schedule takes so many microbatches."""
    if schedule == "zero_bubble":
        return number % max(1, number // stages) == 0  # rounds of equal length
    return number >= stages or (schedule == "gpipe" and torch.__version__ >= "2.11")


def equal_parts(op: str, rows: int, number: int) -> None:
    """Raise unless a batch can be cut into so many microbatches of the same size.

    Raises:
        ValueError: it cannot; the message says which numbers would do.
    """
    if rows and rows % number == 0:
        return
    below, above = rows // number * number, -(-max(rows, 1) // number) * number
    enough = " or ".join(str(n) for n in (below, above) if n)
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    near = sorted(sorted(divisors, key=lambda n: abs(n - number))[:4])
    fewer = f", or {', '.join(map(str, near))} microbatches" if near else ""
    raise ValueError(
        f"{op}: the batch must be divisible by {number} microbatches, got {rows} rows; {enough} rows would do{fewer}"
    )


def inputs(op: str, x: Tensor | None, part: Part) -> Tensor:
    """Raise unless x (..., d) fits the first stage.

    Raises:
        TypeError: no tensor, or another dtype than the parameters'.
        ValueError: another width or device, or a gradient by x is asked for.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be a tensor on the first stage, got {type(x).__name__}")
    d = part.columns[0]
    if x.dim() < 1 or x.shape[-1] != d:
        raise ValueError(f"{op}: x must have shape (..., {d}), got {tuple(x.shape)}")
    if x.dtype is not part.dtype:
        raise TypeError(f"{op}: x must have the parameters' dtype {part.dtype}, got {x.dtype}")
    if x.device != part.device:
        raise ValueError(f"{op}: x must be on its stage's device {part.device}, got {x.device}")
    if op == "step" and x.requires_grad:
        raise ValueError(f"{op}: x must not require a gradient: a pipeline makes none by its inputs")
    return x


def targets(
    op: str, y: Tensor | None, row_weight: Tensor | None, part: Part, loss: Loss, class_weight: Tensor | None,
    validate: bool,
) -> int:  # fmt: skip
    """Raise unless y and the row weights fit the last stage's logits; how many rows they have.

    Raises:
        TypeError, ValueError: as of `torch_manual_bp.Objective`.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{op}: y must be a tensor on the last stage, got {type(y).__name__}")
    lead = y.shape if loss.takes_classes else y.shape[:-1]
    like = torch.empty(0, dtype=part.dtype, device=part.device)
    look = validate or y.device.type == "cpu"
    check.loss_arguments(op, loss, y, class_weight, row_weight, lead, part.columns[1], like, look)
    return lead.numel()


def same_rows(op: str, of_x: int, of_y: int) -> int:
    """Raise unless x and y have as many rows.

    Raises:
        ValueError: they have not.
    """
    if of_x != of_y:
        raise ValueError(f"{op}: y must have x's {of_x} rows, got {of_y}")
    return of_x


def rows_forward(op: str, rows: int) -> None:
    """Raise unless a microbatch of prediction has rows.

    Raises:
        TypeError: no integer.
        ValueError: not positive.
    """
    if not isinstance(rows, int) or isinstance(rows, bool):
        raise TypeError(f"{op}: rows must be an int, got {rows!r}")
    if rows < 1:
        raise ValueError(f"{op}: rows must be at least 1, got {rows}")


def part(op: str, mine: Part, replicas: int = 1) -> None:
    """Raise unless the stage's own Functions do all that its modules do.

    Raises:
        RuntimeError: layers or parameters with hooks, sharded on their own, compiled, or autocast is on.
    """
    if state.autocasting(mine.device.type):
        raise RuntimeError(f"{op}: a pipeline computes in its parameters' dtype, autocast must be off; mlp.to(dtype)")
    if mine.dtype not in DTYPES:
        raise RuntimeError(f"{op}: parameters must have one of {', '.join(map(str, DTYPES))}, got {mine.dtype}")
    if any(module._compiled_call_impl is not None for module in mine.module.modules()):
        raise RuntimeError(f"{op}: a stage must not be compiled: its weight gradients wait outside of the graph")
    for layers in mine.layers():
        for name, layer in layers.named_children():
            if type(layer) is not nn.Linear or not is_untouched(layer):
                raise RuntimeError(
                    f"{op}: {name} must be a plain nn.Linear without hooks, since it is not called; "
                    f"got {type(layer).__name__}"
                )
    if mine.sharded and replicas == 1:
        raise RuntimeError(f"{op}: a sharded stage has replicas, whose rows count too: build(…, data_group= or mesh=)")
    for name, p in mine.module.named_parameters():
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            raise RuntimeError(f"{op}: {name} has hooks on its gradient, which a deferred gradient passes by")
        mesh = getattr(p, "device_mesh", None)
        if mine.sharded and (mesh is None or mesh.size() != replicas):
            raise RuntimeError(f"{op}: {name} must be sharded over the {replicas} replicas of the stage, got {mesh}")
        if mesh is not None and not mine.sharded:
            raise RuntimeError(f"{op}: {name} is sharded by itself; shard the whole stage: fully_shard(pipe.module)")


def device(op: str, given: torch.device | str | int) -> torch.device:
    """The device with its number.

    Raises:
        ValueError: there is no such device.
    """
    place = torch.device(given)
    if place.type == "cpu":
        return place
    module = getattr(torch, place.type, None)
    there = module.device_count() if module is not None and hasattr(module, "device_count") else 0
    index = place.index or 0 if there == 0 or place.index is not None else module.current_device()
    if index >= there:
        raise ValueError(f"{op}: device must be there, got {place}; there are {there} {place.type} devices")
    return torch.device(place.type, index)
