"""Forward passes alone, in pieces of a batch: however large it is, a few microbatches are in memory."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..autograd import pure
from .agreement import Agreed
from .part import Part
from .position import Position
from .upstream import forward_only, new_stage

DEPTH = 4  # microbatches on their way at once, for each stage


class Prediction:
    """Sends batches through the stages, and makes upstream's stages and schedules for it.

    Args:
        part: this process's stage.
        position: where it stands.
    """

    def __init__(self, part: Part, position: Position) -> None:
        self._part, self._position = part, position
        self._made: dict[tuple[int, int], Any] = {}

    def sizes(self, call: Agreed, rows: int) -> tuple[int, int]:
        """How many rows a microbatch has, and how many are on their way at once, a piece."""
        m = min(rows, -(-max(call.rows_through, 1) // self._position.stages))
        return m, m * DEPTH * self._position.stages

    def pieces(self, x: Tensor | None, call: Agreed, rows: int) -> Iterator[tuple[int, Tensor]]:
        """On the last stage: where each piece of the batch begins, and its outputs.

        Args:
            x: on the first stage: the batch.
            call: what all stages know of it.
            rows: of a microbatch, at most.
        """
        m, piece = self.sizes(call, rows)
        for begin in range(0, call.rows_through, piece):
            microbatches = max(-(-min(call.rows_through - begin, piece) // m), self._position.stages)
            given = []
            if self._position.is_first:
                assert x is not None
                part = pure.matrix(x)[begin : begin + piece]
                missing = microbatches * m - len(part)  # of the last piece: rows that are dropped when they come out
                given = [F.pad(part, (0, 0, 0, missing)) if missing else part]
            stage, schedule = self._schedule(m, microbatches)
            o = schedule.step(*given)
            stage.clear_runtime_states()  # upstream keeps what was computed until the next call
            if self._position.is_last and begin < call.rows:
                yield begin, o[: call.rows - begin]

    def _schedule(self, rows: int, microbatches: int) -> tuple[Any, Any]:
        """Stage and schedule for so many microbatches of so many rows; those of the last call are kept."""
        made = self._made
        if (rows, microbatches) not in made:
            if len(made) == 2:  # whole pieces and the last one
                made.clear()
            stage = new_stage(self._part, self._position, rows, (False, False), deferring=False)
            made[rows, microbatches] = stage, forward_only(stage, microbatches)
        return made[rows, microbatches]
