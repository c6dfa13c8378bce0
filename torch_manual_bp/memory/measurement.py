"""What a call's memory was made of: blocks with their births and deaths, and all that follows from them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_ROWS = 8  # of the table at the peak
_NO_OP = "(no op)"


class Event(NamedTuple):
    """The allocator handed a block out, or, where `bytes` is negative, took it back."""

    time_ns: int
    device: str
    address: int
    bytes: int
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allocation:
    """One block: handed out `born_ns` after the call began, and given back `died_ns` after it, or still there (None).

    `path` are the ops that were running then, the outermost first: ``("aten::linear", "aten::addmm")``. It is empty
    where no op ran, as in code that torch.compile generated.
    """

    bytes: int
    born_ns: int
    died_ns: int | None
    path: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def op(self) -> str:
        """The innermost op that is more than an ``empty``: for whose sake the block was allocated; "" for none."""
        outermost_last = self.path[::-1]
        return next((name for name in outermost_last if not _is_empty(name)), outermost_last[0] if self.path else "")


def _is_empty(name: str) -> bool:
    return name.startswith(("aten::empty", "aten::new_empty"))


@dataclass(frozen=True)
class Measurement:
    """The memory of a call, from its beginning to its end.

    Blocks that were born in the call are what is measured: one that stood before counts as standing to the end, even if
    the call gives it back, so that no figure depends on what the call found.

    Attributes:
        allocations: the blocks, in the order of their births.
        duration_ns: how long the call took, with the recording's own cost.
    """

    allocations: tuple[Allocation, ...]
    duration_ns: int

    @cached_property
    def timeline(self) -> tuple[tuple[int, int], ...]:
        """(nanoseconds since the call began, bytes held from then on) at each change, the first of them (0, 0)."""
        changes = [(block.born_ns, block.bytes) for block in self.allocations]
        changes += [(block.died_ns, -block.bytes) for block in self.allocations if block.died_ns is not None]
        held, steps = 0, [(0, 0)]
        for time, change in sorted(changes):
            held += change
            steps.append((time, held))
        return tuple(steps)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were held at one time, above what stood before the call."""
        return max(held for _, held in self.timeline)

    @property
    def left_bytes(self) -> int:
        """What is held at the end and was not before: results, gradients, caches."""
        return self.timeline[-1][1]

    @cached_property
    def at_peak(self) -> tuple[Allocation, ...]:
        """The blocks that made the peak (the first, if it was reached more than once): Σ bytes = `peak_bytes`."""
        peak, _ = max(self.timeline, key=lambda step: step[1])
        return tuple(
            block
            for block in self.allocations
            if block.born_ns <= peak and (block.died_ns is None or block.died_ns > peak)
        )

    def on(self, device: str) -> "Measurement":
        """The same call on one of the devices alone, ``"cpu"`` or ``"cuda:0"``."""
        return Measurement(tuple(block for block in self.allocations if block.device == device), self.duration_ns)

    def save_picture(self, path: str | Path) -> None:
        """Bytes over time as a PNG file, stacked by op (needs matplotlib)."""
        from .timeline import SEPARATOR, Span, picture

        def name(block: Allocation) -> str:  # the engine's own frame says no more than the one inside of it
            outer = [frame for frame in block.path if not frame.startswith("autograd::engine::")][:1]
            return SEPARATOR.join(dict.fromkeys([*outer, block.op or _NO_OP]))

        spans = [
            Span(name(block), block.op or _NO_OP, block.bytes, block.born_ns / 1e6, _ms(block.died_ns))
            for block in self.allocations
        ]
        picture(spans, path, "ms since the call began", end=self.duration_ns / 1e6)

    def __str__(self) -> str:
        lines = [
            f"peak {self.peak_bytes:,} bytes, left {self.left_bytes:,} bytes, "
            f"{len(self.allocations):,} blocks in {self.duration_ns / 1e6:.3g} ms"
        ]
        if self.at_peak:
            lines += ["", *_table(self.at_peak)]
        return "\n".join(lines)

    __repr__ = __str__


def _ms(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / 1e6


def _table(blocks: Iterable[Allocation]) -> list[str]:
    """The largest ops of some blocks, and what is left for the others."""
    sums: dict[str, list[int]] = defaultdict(list)
    for block in blocks:
        sums[block.op or _NO_OP].append(block.bytes)
    rows = sorted(((op, sum(sizes), len(sizes)) for op, sizes in sums.items()), key=lambda row: -row[1])
    if len(rows) > _ROWS:
        others = rows[_ROWS - 1 :]
        rows = rows[: _ROWS - 1]
        rows.append((f"{len(others)} other ops", sum(row[1] for row in others), sum(row[2] for row in others)))
    name = max(len("at the peak"), *(len(row[0]) for row in rows))
    number = max(len("bytes"), *(len(f"{row[1]:,}") for row in rows))
    return [
        f"{'at the peak':{name}}  {'bytes':>{number}}  blocks",
        *(f"{op:{name}}  {size:>{number},}  {count:>6,}" for op, size, count in rows),
    ]


def blocks_of(events: Iterable[Event], start_ns: int) -> tuple[Allocation, ...]:
    """The blocks that were born in these events, which come in each device's own order.

    A block that was given back but not born here stood before, even if the allocator, which may have been watched
    earlier, has a size for it. An address that is handed out a second time was given back in between, unseen: on a
    thread that is not watched. No two events share a time: the later of two is put a nanosecond later, so that births
    and deaths keep their order where the clock is coarse.
    """
    born: list[Allocation] = []
    standing: dict[tuple[str, int], int] = {}
    now = 0
    for event in sorted(events, key=lambda event: event.time_ns):
        place = event.device, event.address
        before = standing.pop(place, None)
        if before is not None:
            now = max(now + 1, event.time_ns - start_ns)
            block = born[before]
            born[before] = Allocation(block.bytes, block.born_ns, now, block.path, block.device)
        if event.bytes > 0:
            now = max(now + 1, event.time_ns - start_ns)
            standing[place] = len(born)
            born.append(Allocation(event.bytes, now, None, event.path, event.device))
    return tuple(born)
