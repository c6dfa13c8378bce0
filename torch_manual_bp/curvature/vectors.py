"""Vectors in the space of the parameters, in the three forms in which people hold them: flat, by name, as a list."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

Maybe = Tensor | None
Vector = Tensor | Mapping[str, Tensor] | Sequence[Tensor]

NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")  # as of mlp.named_parameters()


class Blocks(NamedTuple):
    """A part for each parameter, or k of them stacked in front: w1 (h,d), b1 (h,), w2 (q,h), b2 (q,)."""

    w1: Tensor
    b1: Maybe
    w2: Tensor
    b2: Maybe

    def present(self) -> list[Tensor]:
        """The parts of the parameters that there are."""
        return [part for part in self if part is not None]


class Space:
    """The parameters' space: how many numbers, under which names, of which shapes.

    Args:
        like: the parameters themselves.
    """

    def __init__(self, like: Blocks) -> None:
        self._absent = tuple(part is None for part in like)
        self.shapes = {name: part.shape for name, part in zip(NAMES, like, strict=True) if part is not None}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.dimension = sum(self.sizes)
        self.dtype, self.device = like.w1.dtype, like.w1.device

    def read(self, v: Vector, op: str, name: str, block: bool = False) -> tuple[Blocks, Callable[[Blocks], Any]]:
        """V as k stacked parts, and how to give a result back in the form that v had.

        Args:
            v: (n,), or parts by name or in order; with ``block`` (k,n), or each part with k in front.
            op: who asks, for the error's text.
            name: what v is called there.
            block: whether v holds k vectors or one.

        Raises:
            TypeError: no tensor, mapping or sequence of tensors; a dtype that is not the parameters'.
            ValueError: shapes, names or a device that do not fit.
        """
        if isinstance(v, Tensor):
            self._check(v, (self.dimension,), op, name, block)
            parts = v.split(self.sizes, -1)
            form: Callable[[list[Tensor]], Any] = partial(_flat, lead=int(block))
        elif isinstance(v, Mapping):
            if v.keys() != self.shapes.keys():
                raise ValueError(f"{op}: {name} must have the names {', '.join(self.shapes)}; got {', '.join(v)}")
            parts = tuple(v[key] for key in self.shapes)
            form = self._by_name
        elif isinstance(v, Sequence):
            if len(v) != len(self.shapes):
                raise ValueError(f"{op}: {name} must hold {len(self.shapes)} tensors, got {len(v)}")
            parts = tuple(v)
            form = list
        else:
            raise TypeError(f"{op}: {name} must be a tensor, a dict or a list of them, got {type(v).__name__}")
        if not isinstance(v, Tensor):
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True):
                self._check(part, shape, op, f"{name}[{key!r}]", block)
            if block and len({len(part) for part in parts}) > 1:
                counts = ", ".join(str(len(part)) for part in parts)
                raise ValueError(f"{op}: {name} must hold the same number of vectors in each part, got {counts}")
        stacked = self._blocks([
            part.reshape(part.shape[0] if block else 1, *shape)
            for part, shape in zip(parts, self.shapes.values(), strict=True)
        ])  # fmt: skip
        return stacked, lambda result: form([part if block else part[0] for part in result.present()])

    def named(self, blocks: Blocks) -> dict[str, Tensor]:
        """The parts by their parameters' names."""
        return self._by_name(blocks.present())

    def _by_name(self, parts: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.shapes, parts, strict=True))

    def _blocks(self, parts: list[Tensor]) -> Blocks:
        rest = iter(parts)
        return Blocks(*(None if absent else next(rest) for absent in self._absent))  # type: ignore[arg-type]

    def _check(self, t: Tensor, shape: Sequence[int], op: str, name: str, block: bool) -> None:
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(t).__name__}")
        if tuple(t.shape[int(block) :]) != tuple(shape) or t.dim() != len(shape) + block:
            expected = ", ".join(["k"] * block + [str(size) for size in shape]) + "," * (len(shape) + block == 1)
            raise ValueError(f"{op}: {name} must have shape ({expected}), got {tuple(t.shape)}")
        if t.dtype is not self.dtype:
            raise TypeError(f"{op}: {name} must have dtype {self.dtype}, got {t.dtype}")
        if t.device != self.device:
            raise ValueError(f"{op}: {name} must be on the parameters' device {self.device}, got {t.device}")


def _flat(parts: list[Tensor], lead: int) -> Tensor:
    """One vector of all parts, behind ``lead`` dimensions."""
    return torch.cat([part.flatten(lead) for part in parts], -1)
