"""What a derivation is tried on: true values of every symbol, and how a result is compared with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .mlp import Table
from .symbols import CLASSES, SYMBOLS
from .terms import Equation, Sizes, Symbol

# All sizes equal, so that a lost transpose shows in the values and not in an error; all different, so that a wrong size
# shows. None is the same in all trials, so that 1/B is no constant. Each trial has its own seed.
SHAPES: tuple[dict[str, int], ...] = (
    {"B": 5, "d": 5, "h": 5, "q": 5},
    {"B": 7, "d": 5, "h": 6, "q": 3},
    {"B": 3, "d": 3, "h": 3, "q": 3},
    {"B": 4, "d": 6, "h": 3, "q": 5},
)


@dataclass(frozen=True)
class Outcome:
    """What one equation of the student's came to in one trial: a value in the table's notation, or why there is none.

    Attributes:
        value: as it came, be its shape right or not; None where there is none.
        problem: an error it raised, or a shape that is not the expected one; "" if neither.
        unfilled: whether nothing was returned, as from a template.
        unscaled: whether a gradient does not grow with the gradient that is sent into the backward pass.
    """

    value: Tensor | None = None
    problem: str = ""
    unfilled: bool = False
    unscaled: bool = False

    def in_float32(self) -> "Outcome":
        """The same, to be held to float32's accuracy at most."""
        value = self.value
        return replace(self, value=value.float()) if value is not None and value.dtype == torch.float64 else self


@dataclass(frozen=True)
class Trial:
    """Sizes, and the value of every symbol, λ (``weight_decay``) and B (``batch``) with them."""

    sizes: Sizes
    values: Mapping[str, Any]


def trials(table: Table, weight_decay: float) -> list[Trial]:
    """A trial for each of the `SHAPES`, float64, the same ones at each call."""
    return [_trial(table, weight_decay, sizes, seed) for seed, sizes in enumerate(SHAPES)]


def _trial(table: Table, weight_decay: float, sizes: Sizes, seed: int) -> Trial:
    generator = torch.Generator("cpu").manual_seed(seed)
    values: dict[str, Any] = {"weight_decay": weight_decay, "batch": sizes["B"]}
    for given in table.givens:
        shape = [sizes[size] for size in given.shape]
        if given == CLASSES:
            value = torch.randint(sizes["q"], shape, generator=generator, device="cpu")
        else:
            value = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            value = value.sigmoid() if given.name == "y" else value  # targets of every loss may lie between 0 and 1
        values[given.name] = value
    return Trial(sizes, values | table.evaluate(values))


def symbols_of(table: Table) -> dict[str, Symbol]:
    """The table's symbols by name, in the order of `SYMBOLS`."""
    there = {symbol.name: symbol for symbol in (*table.givens, *(equation.lhs for equation in table))}
    return {name: there[name] for name in SYMBOLS if name in there}


def value_of(equation: Equation, trial: Trial) -> Tensor | None:
    """The right-hand side; None where it has none, as a product of shapes that do not fit or of what is not known."""
    try:
        return equation.evaluate(trial.values, trial.sizes)
    except (RuntimeError, IndexError, KeyError):
        return None


def error(got: Tensor | None, expected: Tensor | None) -> float:
    """The relative error max |got − expected| / max |expected|; infinite where there is nothing to compare."""
    if got is None or expected is None or got.shape != expected.shape:
        return torch.inf
    scale = float(expected.abs().max()) or 1.0
    off = float((got.double() - expected).abs().max()) / scale
    return torch.inf if off != off else off


def tolerance(got: Tensor) -> float:
    """ε^¾: 1.8e-12 in float64, 6.4e-6 in float32. Sums of a few terms lose digits, and no mistake is as small."""
    return float(torch.finfo(got.dtype).eps ** 0.75) if got.is_floating_point() else tolerance(got.double())


def agree(got: Tensor | None, expected: Tensor | None) -> bool:
    """Whether the two are the same to the accuracy of the dtype in which the first was returned."""
    return got is not None and error(got, expected) <= tolerance(got)


def explains(equation: Equation, cases: Sequence[Trial], outcomes: Sequence[Outcome]) -> bool:
    """Whether the equation gives what came out, in every trial; and no value where there was none."""
    seen = False
    for trial, outcome in zip(cases, outcomes, strict=True):
        value = value_of(equation, trial)
        if outcome.value is None and value is None:
            continue
        if not agree(outcome.value, value):
            return False
        seen = True
    return seen
