"""What the ranks of a pipeline did, or would do, with their time."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .orders import MEANING, Kind


class Span(NamedTuple):
    """An action of a rank, from ``begin`` to ``end``."""

    rank: int
    kind: Kind
    microbatch: int
    begin: float
    end: float


class Durations(NamedTuple):
    """How long a rank's three parts of a microbatch take; a whole backward B takes ``input + weight``."""

    forward: float
    input: float
    weight: float

    def of(self, kind: Kind) -> float:
        """The duration of an action."""
        return {"F": self.forward, "I": self.input, "W": self.weight, "B": self.input + self.weight}[kind]


@dataclass(frozen=True)
class Timeline:
    """The spans of one step.

    Attributes:
        schedule: its name.
        spans: ordered by rank, then by time. Recorded ones are in seconds; simulated ones in the unit of the durations.
    """

    schedule: str
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, schedule: str, spans: Iterable[Span]) -> "Timeline":
        """The timeline of spans in any order, with the first of them beginning at 0."""
        ordered = sorted(spans, key=lambda span: (span.rank, span.begin, span.end))
        zero = min((span.begin for span in ordered), default=0.0)
        return cls(schedule, tuple(span._replace(begin=span.begin - zero, end=span.end - zero) for span in ordered))

    @cached_property
    def lanes(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each rank."""
        ranks = 1 + max((span.rank for span in self.spans), default=-1)
        return tuple(tuple(span for span in self.spans if span.rank == rank) for rank in range(ranks))

    @property
    def microbatches(self) -> int:
        """How many a step had."""
        return 1 + max((span.microbatch for span in self.spans), default=-1)

    @cached_property
    def makespan(self) -> float:
        """From the first begin to the last end, over all ranks."""
        return max((span.end for span in self.spans), default=0.0) - min(
            (span.begin for span in self.spans), default=0.0
        )

    @cached_property
    def busy(self) -> tuple[float, ...]:
        """The time of each rank's actions."""
        return tuple(sum(span.end - span.begin for span in lane) for lane in self.lanes)

    @cached_property
    def idle(self) -> tuple[float, ...]:
        """The share of the makespan in which a rank computes nothing, 1 − busy/makespan, in [0, 1]."""
        return tuple(1 - busy / self.makespan if self.makespan else 0.0 for busy in self.busy)

    @property
    def durations(self) -> tuple[Durations, ...]:
        """Of each rank's F, I and W, see `typical_durations`."""
        return typical_durations([self])

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "schedule": self.schedule,
            "ranks": len(self.lanes),
            "microbatches": self.microbatches,
            "makespan": self.makespan,
            "busy": list(self.busy),
            "idle": list(self.idle),
            "spans": [span._asdict() for span in self.spans],
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Timeline":
        """What `as_dict` saved."""
        return cls(saved["schedule"], tuple(Span(**span) for span in saved["spans"]))

    def chart(self, width: int = 72) -> str:
        """A line for each rank: ``F0--F1--B0------`` drawn to scale on ``width`` characters, ``.`` where it is idle."""
        scale = width / self.makespan if self.makespan else 0.0
        return "\n".join(
            f"rank {rank}  {_line(lane, scale, width)}  idle {share:4.0%}"
            for rank, (lane, share) in enumerate(zip(self.lanes, self.idle, strict=True))
        )

    def __str__(self) -> str:
        head = f"{self.schedule}, {len(self.lanes)} ranks, {self.microbatches} microbatches: "
        return f"{head}makespan {self.makespan:.4g}\n{self.chart()}"


def typical_durations(timelines: Iterable[Timeline]) -> tuple[Durations, ...]:
    """Each rank's durations: of each action the median over the steps, and of these the mean over the microbatches.

    So a step that was disturbed does not count, and what is regularly slower, as a first action with cold caches, does.
    A backward that was made in one piece counts as ``input``: with such durations GPipe and 1F1B can be simulated, and
    zero bubble cannot, since nobody knows how B would be cut.

    Raises:
        ValueError: no spans, or a rank without a forward or a backward.
    """
    taken: dict[tuple[int, Kind], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for timeline in timelines:
        for span in timeline.spans:
            taken[span.rank, span.kind][span.microbatch].append(span.end - span.begin)
    if not taken:
        raise ValueError("typical_durations: there must be at least one span, got none")
    means = {key: statistics.fmean(map(statistics.median, of.values())) for key, of in taken.items()}
    result = []
    for rank in range(1 + max(rank for rank, _ in means)):
        found = {kind: means[rank, kind] for kind in MEANING if (rank, kind) in means}
        if "F" not in found or not {"B", "I"} & set(found):
            what = ", ".join(MEANING[kind] for kind in found) or "nothing"
            raise ValueError(f"typical_durations: rank {rank} must have a forward and a backward, got {what}")
        result.append(Durations(found["F"], found.get("I", found.get("B", 0.0)), found.get("W", 0.0)))
    return tuple(result)


def middle(timelines: Iterable[Timeline]) -> Timeline:
    """The one whose makespan is the median, the lower one of two.

    Raises:
        ValueError: there is none.
    """
    ordered = sorted(timelines, key=lambda timeline: timeline.makespan)
    if not ordered:
        raise ValueError("middle: there must be at least one timeline, got none")
    return ordered[(len(ordered) - 1) // 2]


def _line(lane: tuple[Span, ...], scale: float, width: int) -> str:
    cells = ["."] * width
    for span in lane:
        begin, end = round(span.begin * scale), min(round(span.end * scale), width)
        label = f"{span.kind}{span.microbatch}".ljust(end - begin, "-")
        cells[begin:end] = label[: end - begin]
    return "".join(cells)
