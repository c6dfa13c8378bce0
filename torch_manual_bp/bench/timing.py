"""Timing of several candidates in turn (A B C B A C …), so that a drifting machine drifts under all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

NOISE = 1.3  # the floor's median over its minimum above which a run says nothing
SHORT = 200e-6  # seconds: shorter calls are repeated until they last as long, so that a clock's tick does not show


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
    candidates: Mapping[str, Callable[[], object]], rounds: int = 100, budget: float = 10.0, device: str = "cpu"
) -> Timings:
    """Time each candidate once a round.

    A round's entry is one call, after one that is not timed, or for calls of a few microseconds the mean of several. On
    a CUDA device it is the time between two events around the calls, so that what the host does beside them does not
    show.

    Args:
        candidates: what is called, by name.
        rounds: how many rounds at most.
        budget: seconds after which no further round begins; at least five are made.
        device: where the candidates compute.
    """
    seconds_of = _seconds_on_host if device == "cpu" else _seconds_on_device
    repeats = {}
    for name, call in candidates.items():
        begin = time.perf_counter()
        for _ in range(3):  # warm up: allocator, caches, compilers
            call()
            if time.perf_counter() - begin > budget:
                break
        repeats[name] = max(1, int(SHORT / max(seconds_of(call, 1), 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order = random.Random(0)  # another one each round
    begin = time.perf_counter()
    for round_ in range(rounds):
        if round_ >= 5 and time.perf_counter() - begin > budget:
            break
        for name in order.sample(list(candidates), len(candidates)):
            candidates[name]()  # as in a training loop, where a step finds the caches as it left them
            seconds[name].append(seconds_of(candidates[name], repeats[name]))
    return Timings(seconds)


def _seconds_on_host(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _seconds_on_device(call: Callable[[], object], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / repeats
