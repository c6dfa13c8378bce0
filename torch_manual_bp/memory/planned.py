"""A plan: what stands when, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .budget import bytes_of
from .formula import formula
from .ledger import Planned
from .setting import Setting
from .table import table

if TYPE_CHECKING:
    from .advice import Advice

GIVEN = ("parameter", "batch")  # what the user has brought; the rest is what the step takes


@dataclass(frozen=True)
class Plan:
    """The tensors of a step or of a prediction.

    Attributes:
        setting: the net, the objective, the batch, the path; ``setting.choice`` says which way the code goes on it.
        tensors: all of them, in the order of their births; those born at 0 stand before the step. Of more than
            two equal tiles there are two: the others take the same again.
        phases: after which event "forward pass", "backward pass" and "update" begin, where a path has them apart.
        notes: what the plan does not hold for.
    """

    setting: Setting
    tensors: tuple[Planned, ...]
    phases: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @cached_property
    def timeline(self) -> tuple[int, ...]:
        """The bytes that are held after each event, above parameters and batch."""
        taken = [tensor for tensor in self.tensors if tensor.kind not in GIVEN]
        changes = [0] * (1 + max((max(tensor.born, tensor.died or 0) for tensor in taken), default=0))
        for tensor in taken:
            changes[tensor.born] += tensor.bytes
            if tensor.died is not None:
                changes[tensor.died] -= tensor.bytes
        held, line = 0, []
        for change in changes:
            held += change
            line.append(held)
        return tuple(line)

    @property
    def peak_bytes(self) -> int:
        """The most that is held at one time, above parameters and batch: gradients, optimizer state, all else."""
        return max(self.timeline)

    @property
    def call_bytes(self) -> int:
        """The part of `peak_bytes` that the call allocates itself: all but the optimizer's state.

        It is what `measure` sees of a step that is not the first, before which gradients and workspace were given back
        (``optimizer.zero_grad()``, ``objective.release_workspace()``).
        """
        return self.peak_bytes - self.timeline[0]

    @property
    def left_bytes(self) -> int:
        """What the call leaves behind: gradients, J, workspace, predictions."""
        return self.timeline[-1] - self.timeline[0]

    @property
    def kept_bytes(self) -> int:
        """What waits for the backward pass: in a stack of nets each keeps its own, and ``save="input"`` makes it less.

        On a path with a forward pass of its own; 0 on the others.
        """
        begin = self.phases.get("backward pass")
        return 0 if begin is None else self.timeline[begin] - self.timeline[0]

    @property
    def given_bytes(self) -> int:
        """Parameters and batch."""
        return sum(tensor.bytes for tensor in self.tensors if tensor.kind in GIVEN)

    @property
    def total_bytes(self) -> int:
        """`peak_bytes`, parameters and batch: what a device needs to have free beside its own context."""
        return self.peak_bytes + self.given_bytes

    @cached_property
    def at_peak(self) -> tuple[Planned, ...]:
        """The tensors that make `peak_bytes`, the first time it is reached."""
        when = self.timeline.index(self.peak_bytes)
        return tuple(
            tensor
            for tensor in self.tensors
            if tensor.kind not in GIVEN and tensor.born <= when and (tensor.died is None or tensor.died > when)
        )

    @property
    def formula(self) -> str:
        """`peak_bytes` in the sizes B, d, h, q; c rows and k classes of a tile, where there are several."""
        return formula(self.at_peak, self._names)

    @property
    def _names(self) -> dict[str, str]:
        sizes = self.setting.sizes
        rows = "B" if sizes["c"] == sizes["B"] else "c"
        classes = "q" if sizes["k"] == sizes["q"] else "k"
        return {"c": rows, "rows": rows, "k": classes, "classes": classes}

    def fits(self, budget: int | str) -> bool:
        """Whether `total_bytes` is within so many bytes, ``"8GB"`` for one.

        Raises:
            TypeError, ValueError: no number of bytes.
        """
        return self.total_bytes <= bytes_of(budget)

    def advice(self, budget: int | str) -> "tuple[Advice, ...]":
        """What would make `total_bytes` smaller, and at what cost; what brings it within so many bytes comes first.

        Changes are tried alone, and where none is enough, on top of each other. Empty: there is nothing.
        """
        from .advice import advise
        from .plan import planned

        return advise(self, bytes_of(budget), planned)

    def save_picture(self, path: str | Path) -> None:
        """The tensors over the steps of the code as a picture, stacked by kind (needs matplotlib)."""
        from .timeline import Span, picture

        spans = [
            Span(tensor.name, tensor.kind, tensor.bytes, tensor.born, tensor.died)
            for tensor in self.tensors
            if tensor.kind not in GIVEN
        ]
        title = f"{self.setting}\npeak {self.peak_bytes:,} bytes above parameters and batch"
        picture(spans, path, "tensors come and go", end=len(self.timeline), title=title)

    def __str__(self) -> str:
        lines = [str(self.setting), "", *table(self.tensors, self.at_peak, self._names), ""]
        for label, size in (
            ("parameters and batch", self.given_bytes), ("above them, at the peak", self.peak_bytes),
            ("together", self.total_bytes), ("kept for the backward pass", self.kept_bytes),
            ("left after the call", self.left_bytes),
        ):  # fmt: skip
            lines.append(f"{label:26} {size:>16,} bytes")
        lines += ["", f"at the peak, in bytes: {self.formula}"]
        named = {self._names.get(size) for tensor in self.at_peak for size in tensor.shape if isinstance(size, str)}
        sizes = {name: self.setting.sizes[name] for name in ("c", "k") if name in named}
        if sizes:
            meanings = {"c": "rows", "k": "classes"}
            lines.append("with " + " and ".join(f"{n} = {size} {meanings[n]} of a tile" for n, size in sizes.items()))
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
