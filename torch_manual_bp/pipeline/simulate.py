"""When each rank of a pipeline computes what, and when it waits, from how long each part takes.

    end(r, i)   = begin(r, i) + duration(r, i)
    begin(r, i) = max(end(r, i−1), arrival(r, i), departure(r, i−1))

An action i of rank r begins when the one before it has ended, when what it needs has come from a neighbour (h from the
rank before for F, dh from the rank behind for I and B), and, at 1F1B's changes between forward and backward, when what
was just computed has left: torch sends it and receives the other in one exchange, and waits for both.

A message needs both sides. In GPipe and 1F1B a rank asks for it when it has nothing else to do, so the message begins
to travel at ``max(its action's end, the receiver's readiness)``; in zero bubble it is asked for long before, and
travels while the receiver computes.
"""

from collections.abc import Sequence
from math import isfinite

from .orders import Action, order
from .timeline import Durations, Span, Timeline

_WAITS_FOR_SENDS = {"1f1b"}
_ASKS_EARLY = {"zero_bubble"}


def simulate(
    schedule: str, microbatches: int, durations: Sequence[Durations | tuple[float, float, float]], send: float = 0.0
) -> Timeline:
    """The timeline of one step, one stage a rank.

    With two ranks, F = I = W = 1 and M microbatches the makespan is 3M + 3 (GPipe, 1F1B) and 3M + 1 (zero bubble); with
    R ranks 3(M + R − 1) and 3M + R − 1.

    Args:
        schedule: "gpipe", "1f1b" or "zero_bubble".
        microbatches: M.
        durations: for each rank how long F, I and W of one microbatch take, in any unit; a whole backward takes I + W.
            Of an MLP's first stage I is φ′(z) ⊙ dh alone, since nobody asks for ∂J/∂x.
        send: how long a message between neighbours takes, in the same unit.

    Returns:
        The timeline, in the durations' unit.

    Raises:
        ValueError: durations that are negative, not finite, or not three a rank; and all of `orders.order`.
    """
    checked = [_checked(rank, given) for rank, given in enumerate(durations)]
    if not isfinite(send) or send < 0:
        raise ValueError(f"simulate: send must be finite and not negative, got {send}")
    programs = [order(schedule, rank, len(checked), microbatches) for rank in range(len(checked))]
    if not programs:
        raise ValueError("simulate: durations must be given for at least one rank, got none")
    run = _Run(programs, checked, send, schedule in _WAITS_FOR_SENDS, schedule in _ASKS_EARLY)
    return Timeline(schedule, tuple(run.spans()))


class _Run:
    """Programs that run beside each other; an action's place is (rank, position in the rank's program)."""

    def __init__(
        self,
        programs: Sequence[tuple[Action, ...]],
        durations: Sequence[Durations],
        send: float,
        waits_for_sends: bool,
        asks_early: bool,
    ):
        self.programs, self.durations, self.send = programs, durations, send
        self.waits_for_sends, self.asks_early = waits_for_sends, asks_early
        self.ends: list[list[float]] = [[] for _ in programs]
        self.places = [
            {(_direction(action), action.microbatch): i for i, action in enumerate(program) if action.kind != "W"}
            for program in programs
        ]

    def spans(self) -> list[Span]:
        """All spans, by rank and then by time."""
        lanes: list[list[Span]] = [[] for _ in self.programs]
        while any(len(lane) < len(program) for lane, program in zip(lanes, self.programs, strict=True)):
            before = sum(map(len, lanes))
            for rank, lane in enumerate(lanes):
                while len(lane) < len(self.programs[rank]) and (begin := self._begin(rank, len(lane))) is not None:
                    action = self.programs[rank][len(lane)]
                    end = begin + self.durations[rank].of(action.kind)
                    self.ends[rank].append(end)
                    lane.append(Span(rank, *action, begin, end))
            assert sum(map(len, lanes)) > before, "the ranks wait for each other"
        return [span for lane in lanes for span in lane]

    def _begin(self, rank: int, i: int) -> float | None:
        """When the next action of a rank begins; None while something it waits for has no time yet."""
        begins = [self._ready(rank, i)]
        if (source := self._source(rank, i)) is not None:
            begins.append(self._arrival(source, (rank, i)))
        if self._is_exchange(rank, i) and (target := self._target(rank, i - 1)) is not None:
            begins.append(self._arrival((rank, i - 1), target))
        known = [begin for begin in begins if begin is not None]
        return max(known) if len(known) == len(begins) else None

    def _arrival(self, source: tuple[int, int], target: tuple[int, int]) -> float | None:
        """When the message from one action has come to the other."""
        sent = self._end(*source)
        asked = 0.0 if self.asks_early else self._ready(*target)
        return None if sent is None or asked is None else max(sent, asked) + self.send

    def _ready(self, rank: int, i: int) -> float | None:
        return self._end(rank, i - 1) if i else 0.0

    def _end(self, rank: int, i: int) -> float | None:
        return self.ends[rank][i] if i < len(self.ends[rank]) else None

    def _is_exchange(self, rank: int, i: int) -> bool:
        program = self.programs[rank]
        return self.waits_for_sends and i > 0 and _direction(program[i]) != _direction(program[i - 1])

    def _source(self, rank: int, i: int) -> tuple[int, int] | None:
        """The neighbour's action whose result this one needs."""
        return self._neighbour(rank, i, {"forward": -1, "backward": 1})

    def _target(self, rank: int, i: int) -> tuple[int, int] | None:
        """The neighbour's action that needs this one's result."""
        return self._neighbour(rank, i, {"forward": 1, "backward": -1})

    def _neighbour(self, rank: int, i: int, side: dict[str, int]) -> tuple[int, int] | None:
        action = self.programs[rank][i]
        neighbour = rank + side[_direction(action)]
        if action.kind == "W" or not 0 <= neighbour < len(self.programs):
            return None
        return neighbour, self.places[neighbour][_direction(action), action.microbatch]


def _direction(action: Action) -> str:
    return "forward" if action.kind == "F" else "backward"


def _checked(rank: int, given: Sequence[float]) -> Durations:
    if len(given) != 3 or not all(isfinite(duration) and duration >= 0 for duration in given):
        raise ValueError(
            f"simulate: durations must be three finite numbers (F, I, W) ≥ 0 for each rank, "
            f"got {tuple(given)} for rank {rank}"
        )
    return Durations(*given)
