"""How much memory did a call take, when, and which ops asked for it: exact to the byte, by the allocator's own events.

Watching costs half a millisecond to two milliseconds to start and stop the profiler, and inside of it about 1 µs an op:
a call of 24 µs takes 50 µs while it is watched, one of 5 ms as long as ever. A profiler of somebody else that is still
warming up cannot be seen from outside, and watching ends it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.autograd import profiler

from .measurement import Event, Measurement, blocks_of
from .snapshot import History


def measure(fn: Callable[[], object], device: str | torch.device | None = None) -> Measurement:
    """The memory that ``fn()`` takes above what stood before: peak, what is left, and each block with its op.

    >>> import torch
    >>> a, d = torch.ones(1000), torch.ones(1000)
    >>> print(measure(lambda: d.mul_(a > 0)).peak_bytes)  # the mask: 1000 bytes, and its float copy: 4000
    5000

    What is seen: every block of torch's allocator, temporaries inside of operators included, in fn's thread and in
    those of the backward pass. What is not:

    - on the CPU, blocks that other threads take, be they Python's own or OpenMP's workers inside of an operator
      (operators allocate before they go parallel; a block that another thread gives back stands to the end);
    - memory that comes from elsewhere: oneDNN's and MKL's buffers, NumPy's, pinned and shared memory, CUDA's context;
    - what the allocator keeps for later without anybody holding it.

    What fn returns is held until the recording ends, so that it counts as left, and is then let go: the measurement
    keeps no memory alive. Warm fn up before, if its first call is not the question.

    Args:
        fn: what is measured; called once.
        device: ``"cpu"`` or a CUDA device. None: the CPU and, where CUDA is in use, its current device, added up;
            `Measurement.on` tells them apart.

    Raises:
        TypeError: fn cannot be called.
        ValueError: another kind of device, or one that is not there.
        RuntimeError: a profiler is running already (another `measure`, or torch's own), or CUDA's memory history is
            being recorded.
    """
    if not callable(fn):
        raise TypeError(f"measure: fn must be callable, got {type(fn).__name__}")
    on_cpu, cuda = _places(device)
    if profiler._is_profiler_enabled:
        raise RuntimeError("measure: a profiler is running already (measure within measure, or torch.profiler)")
    history = None if cuda is None else History(cuda)
    watching = profiler.profile(use_kineto=True, profile_memory=True)
    with history or nullcontext(), watching:
        start = time.time_ns()
        result = fn()
        if cuda is not None:
            torch.cuda.synchronize(cuda)
        end = time.time_ns()
    del result
    assert watching.kineto_results is not None
    seen = list(_events(watching.kineto_results.experimental_event_tree()))
    events = [event for event in seen if on_cpu and event.device == "cpu"]
    if history is not None:
        events += history.events(seen)
    return Measurement(blocks_of(events, start), end - start)


def _places(device: str | torch.device | None) -> tuple[bool, int | None]:
    """Whether the CPU is measured, and the number of the CUDA device that is."""
    if device is None:
        return True, torch.cuda.current_device() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    place = torch.device(device)
    if place.type == "cpu":
        return True, None
    if place.type != "cuda":
        raise ValueError(f"measure: device must be a CPU or a CUDA device, got {str(place)!r}")
    if (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"measure: device {str(place)!r} is not there: {torch.cuda.device_count()} CUDA devices are")
    return False, torch.cuda.current_device() if place.index is None else place.index


def _events(tree: Iterable[Any], path: tuple[str, ...] = ()) -> Iterator[Event]:
    """The allocator's events in a tree of the profiler's, each thread's in its order."""
    for event in tree:
        if event.tag == _EventType.Allocation:
            block = event.extra_fields
            yield Event(event.start_time_ns, str(block.device), block.ptr, block.alloc_size, path)
        yield from _events(event.children, (*path, event.name) if event.tag == _EventType.TorchOp else path)
