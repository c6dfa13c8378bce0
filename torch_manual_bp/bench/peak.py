"""The peak of a call's memory, exact to the byte: what the allocator handed out above what stood before."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from .problem import Candidate


def candidate_peak(candidate: Candidate, device: str = "cpu") -> int:
    """`peak_bytes` of a warm candidate's call, gradients and workspace included: they are given back before."""
    candidate.call()
    _release(candidate)
    peak = peak_bytes(candidate.call, device)
    _release(candidate)
    return peak


def _release(candidate: Candidate) -> None:
    for parameter in candidate.parameters:
        parameter.grad = None
    candidate.release()


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that the call held at one time, beyond those that were there when it began.

    On the CPU they are the profiler's allocator events, which see temporaries inside of operators too. Memory that a
    library takes without torch's allocator is not among them, and what the call gives back of what stood before counts
    as standing to the end.

    Args:
        call: what is measured; warm it up before.
        device: where it allocates.
    """
    if device != "cpu":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.memory_stats(device)["requested_bytes.all.peak"] - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    return peak_of(_allocations(recorded.profiler.kineto_results.experimental_event_tree()))


def peak_of(events: Iterable[tuple[int, int, int]]) -> int:
    """The most that was held: of when, at what address, how many bytes, negative where they were given back.

    An address that was not allocated here stood before, even if the profiler, which may have been at work earlier, has
    a size for it.
    """
    sizes: dict[int, int] = {}
    held = peak = 0
    for _, address, size in sorted(events):
        if size > 0:
            sizes[address] = size
            held += size
            peak = max(peak, held)
        else:
            held -= sizes.pop(address, 0)
    return peak


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """The events of `peak_of` in a tree of the profiler's."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size
        yield from _allocations(event.children)
