"""The peak of a call's memory, exact to the byte: what the allocator handed out above what stood before."""

from collections.abc import Callable

import torch
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
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
