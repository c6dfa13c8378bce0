"""A trace of a few calls for TensorBoard, with its memory view."""

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.autograd import profiler
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from .snapshot import History

SNAPSHOT = "snapshot.pickle"


def trace(fn: Callable[[], object], folder: str | Path, steps: int = 3, worker: str | None = None) -> Path:
    """Call ``fn`` a few times under `torch.profiler`, and write what TensorBoard's profiler plugin shows.

    The folder gets a ``*.pt.trace.json`` (``tensorboard --logdir folder``, with torch-tb-profiler: overview, operators,
    memory; it draws its charts with a library of Google's, so without a network its tables are left) and, where CUDA is
    in use, ``snapshot.pickle``, the allocator's history, for https://pytorch.org/memory_viz.

    Args:
        fn: a training step, a prediction; called once more, before, to warm up.
        folder: made if it is not there; a second trace stands beside the first.
        steps: how often fn is called.
        worker: under which name TensorBoard shows it; of several processes that trace into one folder each its own.

    Returns:
        The folder.

    Raises:
        TypeError: fn cannot be called.
        ValueError: no steps.
        RuntimeError: a profiler is running already, or CUDA's memory history is being recorded.
    """
    if not callable(fn):
        raise TypeError(f"trace: fn must be callable, got {type(fn).__name__}")
    if steps < 1:
        raise ValueError(f"trace: steps must be at least 1, got {steps}")
    if profiler._is_profiler_enabled:
        raise RuntimeError("trace: a profiler is running already")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    history = History(torch.cuda.current_device(), context="all") if on_cuda else None
    with (
        history or nullcontext(),
        profile(
            activities=activities, profile_memory=True, record_shapes=True, with_stack=True,
            schedule=schedule(wait=0, warmup=1, active=steps, repeat=1),
            on_trace_ready=tensorboard_trace_handler(str(folder), worker),
        ) as recorded,
    ):  # fmt: skip
        for _ in range(1 + steps):
            fn()
            recorded.step()
    if history is not None:
        (folder / SNAPSHOT).write_bytes(pickle.dumps(history.snapshot))
    return folder
