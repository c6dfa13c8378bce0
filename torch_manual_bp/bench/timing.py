"""Timing of several candidates in turn (A B C A B C …), so that a drifting machine drifts under all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

NOISE = 1.3  # the floor's median over its minimum above which a run says nothing


class BusyMachineError(RuntimeError):
    """Something else was running: the figures of this run mean nothing."""


@dataclass(frozen=True)
class Timings:
    """Seconds of each call, by candidate; entry i of each list was taken in round i."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """A candidate's median in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """The median over the rounds of the two candidates' ratios."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def noise(self, name: str) -> float:
        """A candidate's median over its minimum."""
        return self.median(name) / min(self.seconds[name])

    def require_quiet(self, name: str) -> None:
        """Raise if a candidate that always does the same took very different times.

        Raises:
            BusyMachineError: its median exceeds 1.3 times its minimum.
        """
        if self.noise(name) > NOISE:
            raise BusyMachineError(
                f"{name}: the median is {self.noise(name):.2f} times the minimum (at most {NOISE} on a quiet machine); "
                "something else is running: measure again"
            )


def time_in_turn(
    candidates: Mapping[str, Callable[[], object]], rounds: int = 100, budget: float = 10.0, sync: bool = False
) -> Timings:
    """Time each candidate once a round.

    A round's entry is one call, or for calls of a few microseconds the mean of several, so that a clock's tick does not
    show.

    Args:
        candidates: what is called, by name.
        rounds: how many rounds at most.
        budget: seconds after which no further round begins; at least five are made.
        sync: wait for the CUDA device before each reading of the clock.
    """
    repeats = {}
    for name, call in candidates.items():
        for _ in range(3):  # warm up: allocator, caches, compilers
            call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(200e-6 / max(time.perf_counter() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for round_ in range(rounds):
        if round_ >= 5 and time.perf_counter() - begin > budget:
            break
        for name, call in candidates.items():
            if sync:
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            if sync:
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return Timings(seconds)
