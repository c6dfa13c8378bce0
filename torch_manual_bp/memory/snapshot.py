"""What CUDA's caching allocator did, by its own history: requested bytes, where a profiler sees rounded blocks."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch

from .measurement import Event


class History:
    """A context in which CUDA's history is recorded, of which the events of one device are of interest.

    Args:
        device: its number.
        context: ``"all"`` records the Python stack of each event as well.

    Attributes:
        snapshot: what was recorded, as `torch.cuda.memory._snapshot` returns it.

    Raises:
        RuntimeError: on entry, if somebody else records already: the two would end each other.
    """

    snapshot: Mapping[str, Any]

    def __init__(self, device: int, context: str | None = None) -> None:
        self.device, self._context = device, context

    def __enter__(self) -> "History":
        if torch._C._cuda_isHistoryEnabled():
            raise RuntimeError(
                "CUDA's memory history is being recorded already (torch.cuda.memory._record_memory_history)"
            )
        torch.cuda.synchronize(self.device)
        torch.cuda.memory._record_memory_history("all", self._context, "python", clear_history=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                torch.cuda.synchronize(self.device)
                self.snapshot = torch.cuda.memory._snapshot()
        finally:
            torch.cuda.memory._record_memory_history(None)

    def events(self, profiled: Iterable[Event] = ()) -> Iterator[Event]:
        """Blocks handed out and given back, by the path of ops that a profiler has for the same block.

        A block is given back when the last stream that uses it has gone past (``free_completed``), not when its tensor
        dies (``free_requested``): until then its memory serves nobody else.
        """
        device = f"cuda:{self.device}"
        trace = self.snapshot["device_traces"][self.device]
        paths = _paths(trace, (event for event in profiled if event.device == device and event.bytes > 0))
        for entry in trace:
            if entry["action"] == "alloc":
                waiting = paths.get(entry["addr"])
                path = waiting.popleft() if waiting else ()
                yield Event(1000 * entry["time_us"], device, entry["addr"], entry["size"], path)
            elif entry["action"] == "free_completed":
                yield Event(1000 * entry["time_us"], device, entry["addr"], -entry["size"])


def _paths(trace: Iterable[Mapping[str, Any]], profiled: Iterable[Event]) -> dict[int, deque[tuple[str, ...]]]:
    """The paths of each address's blocks, one after the other, where the profiler saw as many of them as were made."""
    made: dict[int, int] = defaultdict(int)
    paths: dict[int, deque[tuple[str, ...]]] = defaultdict(deque)
    for entry in trace:
        made[entry["addr"]] += entry["action"] == "alloc"
    for event in sorted(profiled, key=lambda event: event.time_ns):
        paths[event.address].append(event.path)
    return {address: seen for address, seen in paths.items() if len(seen) == made[address]}
