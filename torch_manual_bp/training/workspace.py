"""The temporaries of a step, kept between calls: fresh memory costs a page fault for every 4 KiB of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Workspace:
    """Buffers by name, grown to the largest that was asked for."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @property
    def bytes(self) -> int:
        """What is held, in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device
    ) -> dict[str, Tensor]:
        """A contiguous tensor of each shape, its contents left over from before."""
        return {name: self._take(name, shape, dtype, device) for name, shape in shapes.items()}

    def _take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        size = 1
        for length in shape:
            size *= length
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype is not dtype or buffer.device != device:
            self._buffers.pop(name, None)  # the old one first: the two need not fit beside each other
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)


class WorkspaceSlot:
    """Where a module keeps its workspace: nothing of it is copied, pickled or shared between two calls at once."""

    def __init__(self) -> None:
        self._resting: Workspace | None = None

    @property
    def bytes(self) -> int:
        """What is held between calls, in bytes."""
        resting = self._resting
        return 0 if resting is None else resting.bytes

    def release(self) -> None:
        """Give the memory back."""
        self._resting = None

    @contextmanager
    def lend(self) -> Iterator[Workspace]:
        """The workspace for one call; a second call at the same time gets one of its own."""
        workspace, self._resting = self._resting or Workspace(), None
        try:
            yield workspace
        finally:
            self._resting = workspace

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return WorkspaceSlot, ()
