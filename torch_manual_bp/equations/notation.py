"""How values are handed to a student's function, and how its results come back into the table's notation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .terms import Shape, Symbol
from .trials import Outcome, Trial

# Which tensors stand turned in a notation: those of the batch where examples are columns; the weights where these are
# (inputs, outputs).
LAYOUTS: dict[str, Callable[[Symbol], bool]] = {
    "rows": lambda symbol: False,
    "columns": lambda symbol: symbol.shape[0] == "B",
    "in_out": lambda symbol: symbol.name.removeprefix("d") in ("w1", "w2"),
}
VALUES = ("torch", "numpy")


@dataclass(frozen=True)
class Notation:
    """How values are handed out, and how results are taken back."""

    layout: str = "rows"
    values: str = "torch"

    def shape(self, symbol: Symbol) -> Shape:
        """The shape that a result must have; where examples are columns, a bias is one too: ``b1 (h,1)``."""
        if len(symbol.shape) == 2 and LAYOUTS[self.layout](symbol):
            return symbol.shape[::-1]
        column = self.layout == "columns" and len(symbol.shape) == 1 and symbol.shape != ("B",)
        return (*symbol.shape, "1") if column else symbol.shape

    def hand_out(self, symbol: Symbol | None, value: Any) -> Any:
        """A copy, so that nothing that is done to it reaches the next equation."""
        if symbol is None:  # λ, B
            return value
        shape = self.shape(symbol)
        value = value.T if shape == symbol.shape[::-1] and len(shape) == 2 else value
        value = (value[:, None] if len(shape) > value.ndim else value).clone()
        return value.numpy() if self.values == "numpy" else value

    def take_back(self, symbol: Symbol, result: Any, trial: Trial) -> Outcome:
        """The result as the table writes it; axes of size 1 too many or too few are a matter of notation."""
        if result is None or result is ...:
            return Outcome(unfilled=True)
        try:
            got = torch.as_tensor(result).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            return Outcome(problem=f"expected a tensor, got {type(result).__name__}")
        if got.is_complex():
            return Outcome(problem="expected real numbers, got complex ones")
        shape = self.shape(symbol)
        sizes = tuple(trial.sizes.get(size, 1) for size in shape)
        problem = "" if _squeezed(got.shape) == _squeezed(sizes) else _of_shape(shape, sizes, tuple(got.shape))
        got = got if problem else got.reshape(sizes)
        got = got.T if shape != symbol.shape and got.ndim == 2 else got
        return Outcome(got if problem else got.reshape([trial.sizes[size] for size in symbol.shape]), problem)


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _of_shape(shape: Shape, sizes: tuple[int, ...], got: tuple[int, ...]) -> str:
    names = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"
    return f"expected shape {names} = {sizes}, got {got}"
