"""In which order each rank of a pipeline takes its actions, as torch.distributed.pipelining runs them.

F is a microbatch's forward pass (on the last rank with its loss), I the part of its backward pass that makes the
gradient by the stage's input, which the rank before waits for, W the part that makes the gradients by the weights, for
which nobody waits, and B both at once. With two ranks and four microbatches:

    gpipe         rank 0   F0 F1 F2 F3    B0 B1 B2 B3        all forward, then all backward: M microbatches are kept
                  rank 1   F0 F1 F2 F3    B0 B1 B2 B3
    1f1b          rank 0   F0 F1 B0 F2 B1 F3 B2 B3           a forward for each backward: rank r keeps R − r of them
                  rank 1   F0 B0 F1 B1 F2 B2 F3 B3
    zero_bubble   rank 0   F0 F1 I0 W0 F2 I1 W1 F3 I2 W2 I3 W3      W where the rank would wait
                  rank 1   F0 I0 F1 I1 W0 F2 I2 W1 F3 I3 W2 W3
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

Kind = Literal["F", "I", "W", "B"]
MEANING: dict[Kind, str] = {
    "F": "forward",
    "I": "backward by the input",
    "W": "backward by the weights",
    "B": "backward",
}


class Action(NamedTuple):
    """What a rank does at one time: ``F``, ``I``, ``W`` or ``B`` of a microbatch."""

    kind: Kind
    microbatch: int


def gpipe(rank: int, ranks: int, microbatches: int) -> Iterator[Action]:
    """Forward of all microbatches, then backward of all (Huang et al. 2019)."""
    for m in range(microbatches):
        yield Action("F", m)
    for m in range(microbatches):
        yield Action("B", m)


def one_forward_one_backward(rank: int, ranks: int, microbatches: int) -> Iterator[Action]:
    """R − r forwards, then a backward before each further forward (PipeDream-flush, Narayanan et al. 2021)."""
    ahead = min(microbatches, ranks - rank)
    for m in range(ahead):
        yield Action("F", m)
    for m in range(microbatches):
        yield Action("B", m)
        if ahead + m < microbatches:
            yield Action("F", ahead + m)


def zero_bubble(rank: int, ranks: int, microbatches: int) -> Iterator[Action]:
    """1F1B with each backward cut in I and W; rank r is r microbatches behind with its W (ZB-H1, Qi et al. 2023)."""
    ahead = min(microbatches, ranks - 1 - rank)
    for m in range(ahead):
        yield Action("F", m)
    for m in range(microbatches):
        if ahead + m < microbatches:
            yield Action("F", ahead + m)
        yield Action("I", m)
        if m >= rank:
            yield Action("W", m - rank)
    for m in range(max(0, microbatches - rank), microbatches):
        yield Action("W", m)


ORDERS: dict[str, Callable[[int, int, int], Iterator[Action]]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "zero_bubble": zero_bubble,
}


def order(schedule: str, rank: int, ranks: int, microbatches: int) -> tuple[Action, ...]:
    """The actions of one rank, one stage a rank.

    Args:
        schedule: "gpipe", "1f1b" or "zero_bubble".
        rank: r, of the first stage 0.
        ranks: R.
        microbatches: M.

    Raises:
        ValueError: an unknown schedule, no rank or microbatch, or a number of microbatches with which torch does not
            run it: 1F1B needs M ≥ R, zero bubble an M divisible by max(1, ⌊M/R⌋).
    """
    if schedule not in ORDERS:
        raise ValueError(f"pipeline: schedule must be one of {', '.join(ORDERS)}; got {schedule!r}")
    if ranks < 1:
        raise ValueError(f"pipeline: there must be at least one rank, got {ranks}")
    if microbatches < 1:
        raise ValueError(f"pipeline: microbatches must be at least 1, got {microbatches}")
    if schedule == "1f1b" and microbatches < ranks:
        raise ValueError(f"pipeline: 1f1b on {ranks} ranks needs at least {ranks} microbatches, got {microbatches}")
    if schedule == "zero_bubble" and microbatches % (rounds := max(1, microbatches // ranks)):
        raise ValueError(
            f"pipeline: zero_bubble on {ranks} ranks takes microbatches in {rounds} rounds of the same length, got "
            f"{microbatches}; {microbatches - microbatches % ranks} or {microbatches + -microbatches % ranks} would do"
        )
    return tuple(ORDERS[schedule](rank, ranks, microbatches))
