"""The equations of a whole backward pass, walked through with what it returned in the place of what follows."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from .mlp import Table
from .terms import Equation
from .trials import Outcome, Trial, agree, error, value_of


class Walk:
    """Values in order: what is given as it is, what is visible as it was returned, what is hidden as a guess has it.

    Attributes:
        visible: the symbols that were returned in every trial.
        hidden: those that some visible one follows from, and that are neither visible nor given.
        unfilled: those that were returned as nothing.
    """

    def __init__(
        self, table: Table, cases: Sequence[Trial], runs: Sequence[Mapping[str, Outcome]], given: Collection[str]
    ):
        self.table, self.cases, self.runs = table, cases, runs
        returned = [e.symbol for e in table if all(e.symbol in run for run in runs)]
        self.unfilled = [s for s in returned if all(run[s].unfilled for run in runs)]
        self.visible = [s for s in returned if s not in self.unfilled]
        self._given = {*given, *(symbol.name for symbol in table.givens)} - set(self.visible)
        ahead = {name for symbol in self.visible for name in self.near(symbol)}
        self.hidden = [e.symbol for e in table if e.symbol in ahead and e.symbol not in self.visible]

    def near(self, symbol: str) -> set[str]:
        """The symbols that this one follows from, back to the nearest visible ones, those included."""
        found: set[str] = set()
        for name in self.table[symbol].tensors:
            if name not in self._given and name not in found:
                found |= {name} if name in self.visible else {name, *self.near(name)}
        return found

    def ancestors(self, symbol: str) -> set[str]:
        """All symbols that this one follows from."""
        found: set[str] = set()
        for name in self.near(symbol):
            found |= {name, *self.ancestors(name)}
        return found

    @cached_property
    def _steps(self) -> list[Equation]:
        return [e for e in self.table if e.symbol in self.visible or e.symbol in self.hidden]

    def trial(self, index: int, wrong: Mapping[str, Equation]) -> tuple[Trial, set[str]]:
        """One trial's values under a guess, and the visible symbols that are not what follows from them."""
        true, run = self.cases[index], self.runs[index]
        known = {name: true.values[name] for name in ("weight_decay", "batch", *self._given)}
        here, off = Trial(true.sizes, known), set()
        for equation in self._steps:
            symbol = equation.symbol
            value = value_of(wrong.get(symbol, equation), here)
            if symbol in self.visible:
                outcome = run[symbol]
                if outcome.problem or not agree(outcome.value, value):
                    off.add(symbol)
                if outcome.value is not None and not outcome.problem:
                    value = outcome.value.double()
            if value is not None:
                known[symbol] = value
        return here, off

    def off(self, wrong: Mapping[str, Equation], at_most: int | None = None) -> frozenset[str]:
        """The visible symbols that a guess leaves unexplained; not all, once there are more than ``at_most``."""
        off: set[str] = set()
        for index in range(len(self.cases)):
            off |= self.trial(index, wrong)[1]
            if at_most is not None and len(off) > at_most:
                break
        return frozenset(off)

    def contexts(self, wrong: Mapping[str, Equation]) -> list[Trial]:
        """Every trial's values under a guess."""
        return [self.trial(index, wrong)[0] for index in range(len(self.cases))]

    def outcomes(self, symbol: str) -> list[Outcome]:
        """What was returned for a visible symbol, trial by trial."""
        return [run[symbol] for run in self.runs]

    def error(self, symbol: str, contexts: Sequence[Trial]) -> float:
        """How far a symbol's values are from the truth."""
        pairs = zip(contexts, self.cases, strict=True)
        return max(error(here.values.get(symbol), true.values[symbol]) for here, true in pairs)

    def is_true(self, symbol: str) -> bool:
        """Whether a visible symbol's values are the true ones, whatever led to them."""
        pairs = zip(self.outcomes(symbol), self.cases, strict=True)
        return all(not o.problem and agree(o.value, true.values[symbol]) for o, true in pairs)
