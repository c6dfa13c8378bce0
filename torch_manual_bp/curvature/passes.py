"""All rows: in one pass that is kept or tile by tile, and over several processes; what is asked for are sums."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..autograd import state
from ..training.problem import Batch, Goal, Net
from .rows import Rows, Weighted, pass_over

T = TypeVar("T")
Write = Callable[[Tensor, Tensor], Tensor]  # Tensor.copy_ for the first rows, Tensor.add_ for all others


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
        self._net, self._goal, self._group = net, goal, group
        size = max(1, len(batch.x))  # (of no rows there is one empty tile)
        self._tiles = [slice(at, at + (tile_rows or size)) for at in range(0, size, tile_rows or size)]
        self._kept: Rows | None = None
        self._device_type = net.w1.device.type
        with torch.no_grad(), state.without_autocast(self._device_type):
            self._batch = self._weighted(batch)
            if tile_rows is None:
                self._kept = pass_over(net, goal, self._batch)

    def sum(self, term: Callable[[Rows], T]) -> T:
        """The sum over all rows, of all processes, of what ``term`` makes of some of them: a tensor or a tuple."""
        with torch.no_grad(), state.without_autocast(self._device_type):
            first, *others = self._tiles
            total = term(self._rows(first))
            for tile in others:
                total = _added(total, term(self._rows(tile)))
            return self._of_all_processes(total)

    def into(self, total: Tensor, add: Callable[[Tensor, Rows, Write], None], most_rows: int) -> Tensor:
        """``total`` with the sum over all rows, of all processes.

        Args:
            total: what is written to; its values are not read.
            add: writes what some rows are worth to it.
            most_rows: how many rows ``add`` takes at a time.
        """
        write: Write = Tensor.copy_
        with torch.no_grad(), state.without_autocast(self._device_type):
            for tile in self._tiles:
                for rows in self._rows(tile).parts(most_rows):
                    add(total, rows, write)
                    write = Tensor.add_
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
        x, y, weight = self._batch
        return pass_over(self._net, self._goal, Weighted(x[tile], y[tile], weight[tile]))

    def _of_all_processes(self, total: T) -> T:
        if self._group is None:
            return total
        if isinstance(total, Tensor):
            total = total.contiguous()  # type: ignore[assignment]
            dist.all_reduce(total, group=self._group)
            return total
        parts = (None if part is None else self._of_all_processes(part) for part in total)  # type: ignore[attr-defined]
        return type(total)(*parts)

    def _weighted(self, batch: Batch) -> Weighted:
        """The rows with their weights in L; a mean's N counts the rows of all processes."""
        (x, y, row_weight), loss, class_weight = batch, self._goal.loss, self._goal.class_weight
        if loss.takes_classes:
            kept = y != loss.ignore_index
            y = y.where(kept, 0)
            weight = kept.to(x.dtype) if row_weight is None else row_weight * kept
        else:
            weight = x.new_ones(len(x)) if row_weight is None else row_weight
        if loss.reduction == "mean":
            N = self._of_all_processes((weight if class_weight is None else weight * class_weight[y]).sum())
            weight = weight.where(weight == 0, weight / N)  # N is 0 where no row counts, and so is every weight
            if (terms := loss.terms(self._net.sizes[2])) > 1:
                weight /= terms
        return Weighted(x, y, weight)


def _added(total: T, more: T) -> T:
    """``total`` + ``more``, in place, part by part."""
    if isinstance(total, Tensor):
        return total.add_(more)  # type: ignore[arg-type, return-value]
    pairs = zip(total, more, strict=True)  # type: ignore[call-overload]
    return type(total)(*(None if a is None else _added(a, b) for a, b in pairs))
