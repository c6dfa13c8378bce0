"""All rows: in one pass that is kept or tile by tile, and over several processes; what is asked for are sums."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd import state
from ..training.problem import Batch, Goal, Net
from .rows import Rows, pass_over

T = TypeVar("T")


class Passes:
    """The rows of a batch, one pass at a time.

    Args:
        net: the net.
        goal: the objective.
        batch: this process's rows.
        tile_rows: None keeps one pass over all rows. A number makes it anew, that many rows at a time, in each call:
            then memory does not grow with the batch.
        group: the processes whose rows make up the batch together, or None.
    """

    def __init__(self, net: Net, goal: Goal, batch: Batch, tile_rows: int | None, group: Any) -> None:
        self._net, self._goal, self._batch, self._group = net, goal, batch, group
        size = max(1, len(batch.x))  # (of no rows there is one empty tile)
        self._tiles = [slice(at, at + (tile_rows or size)) for at in range(0, size, tile_rows or size)]
        self._kept: Rows | None = None
        self._device_type = net.w1.device.type
        with torch.no_grad(), state.without_autocast(self._device_type):
            self._scale = self._scale_of_the_loss()
            if tile_rows is None:
                self._kept = pass_over(net, goal, batch, self._scale)

    def sum(self, term: Callable[[Rows], T]) -> T:
        """The sum over all rows, of all processes, of what ``term`` makes of some of them: a tensor or a tuple."""
        with torch.no_grad(), state.without_autocast(self._device_type):
            first, *others = self._tiles
            total = term(self._rows(first))
            for tile in others:
                total = _added(total, term(self._rows(tile)))
            return self._of_all_processes(total)

    def each(self, of: Callable[[Rows], Tensor]) -> Tensor:
        """What ``of`` makes of each of this process's rows."""
        with torch.no_grad(), state.without_autocast(self._device_type):
            parts = [of(self._rows(tile)) for tile in self._tiles]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def same_everywhere(self, t: Tensor) -> Tensor:
        """T of the group's first process."""
        if self._group is not None:
            dist.broadcast(t, dist.get_global_rank(self._group, 0), self._group)
        return t

    def _rows(self, tile: slice) -> Rows:
        """The pass over a tile; no name holds it, so that it is gone before the next is made."""
        if self._kept is not None:
            return self._kept
        batch = Batch(*(None if t is None else t[tile] for t in self._batch))  # type: ignore[arg-type]
        return pass_over(self._net, self._goal, batch, self._scale)

    def _of_all_processes(self, total: T) -> T:
        if self._group is None:
            return total
        if isinstance(total, Tensor):
            total = total.contiguous()  # type: ignore[assignment]
            dist.all_reduce(total, group=self._group)
            return total
        parts = (None if part is None else self._of_all_processes(part) for part in total)  # type: ignore[attr-defined]
        return type(total)(*parts)

    def _scale_of_the_loss(self) -> float | Tensor:
        """1/N for a mean, over all rows of all processes; 1 for a sum."""
        loss, (x, y, row_weight) = self._goal.loss, self._batch
        if loss.reduction == "sum":
            return 1.0
        N = loss.normalizer(y, self._goal.class_weight, row_weight)
        N = self._of_all_processes(torch.as_tensor(N, dtype=x.dtype, device=x.device).clone())
        return (N * loss.terms(self._net.sizes[2])).reciprocal()


def _added(total: T, more: T) -> T:
    """``total`` + ``more``, in place, part by part."""
    if isinstance(total, Tensor):
        return total.add_(more)  # type: ignore[arg-type, return-value]
    pairs = zip(total, more, strict=True)  # type: ignore[call-overload]
    return type(total)(*(None if a is None else _added(a, b) for a, b in pairs))
