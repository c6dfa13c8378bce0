"""Tensors as they come and go: what a plan is made of."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Shape = tuple[str | int, ...]

KINDS = (
    "parameter", "batch", "optimizer state", "gradient", "activation", "upstream gradient", "temporary", "scratch",
)  # fmt: skip


@dataclass
class Planned:
    """A tensor of a plan.

    Attributes:
        name: in the notation of the equations, where it has one there.
        kind: one of `KINDS`. An activation comes from the forward pass (z, h, o); an upstream gradient is ∂J/∂o, ∂J/∂h
            or ∂J/∂z; scratch is what an op takes for itself while it runs.
        shape: in the names of sizes, B, d, h, q and c, k of a tile; numbers where there are no names.
        dtype: of its numbers.
        bytes: what it takes.
        born: when it comes, counted in events; 0 for what stands before the step.
        died: when it goes; None for what stands after it.
    """

    name: str
    kind: str
    shape: Shape
    dtype: torch.dtype
    bytes: int
    born: int
    died: int | None = None


class Ledger:
    """Notes each tensor; ``sizes`` says how long each name of a size is."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.tensors: list[Planned] = []
        self.phases: dict[str, int] = {}
        self._now = 0

    def stands(self, name: str, shape: Shape, dtype: torch.dtype, kind: str) -> None:
        """Note what is there before the step."""
        self.tensors.append(Planned(name, kind, shape, dtype, self._bytes(shape, dtype), 0))

    def begin(self, phase: str) -> None:
        """Note that a part of the step begins."""
        self.phases[phase] = self._now

    def new(self, name: str, shape: Shape, dtype: torch.dtype, kind: str = "temporary") -> Planned:
        """Note a tensor that comes now."""
        self._now += 1
        tensor = Planned(name, kind, shape, dtype, self._bytes(shape, dtype), self._now)
        self.tensors.append(tensor)
        return tensor

    def free(self, *tensors: Planned | None) -> None:
        """Note that these go now."""
        self._now += 1
        for tensor in tensors:
            if tensor is not None:
                tensor.died = self._now

    @contextmanager
    def held(self, name: str, shape: Shape, dtype: torch.dtype, kind: str = "temporary") -> Iterator[Planned]:
        """A tensor for as long as the block runs."""
        tensor = self.new(name, shape, dtype, kind)
        yield tensor
        self.free(tensor)

    def brief(self, name: str, shape: Shape, dtype: torch.dtype, kind: str = "temporary") -> None:
        """A tensor that goes before anything else comes."""
        self.free(self.new(name, shape, dtype, kind))

    def length(self, size: str | int) -> int:
        """A size as a number."""
        return size if isinstance(size, int) else self.sizes[size]

    def _bytes(self, shape: Shape, dtype: torch.dtype) -> int:
        count = dtype.itemsize
        for size in shape:
            count *= self.length(size)
        return count
