"""Where a whole backward pass first goes wrong, from the gradients that it returns.

Each visible value is compared with what follows from the values before it, as returned where they are visible: an error
there is not to be blamed here. Where several are off, one mistake in a hidden equation may explain them at once. Of all
mistakes in the catalogue that one is taken which explains most, then a second, as long as each explains more than one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .diagnose import UNKNOWN, glance, judge
from .mistakes import Catalogue, Mistake
from .mlp import Table
from .report import Finding, Report
from .student import Run
from .terms import Equation
from .trials import Trial
from .walk import Walk


def localise(
    title: str, table: Table, cases: Sequence[Trial], runs: Sequence[Run], given: Collection[str], catalogue: Catalogue
) -> Report:
    """The report on a whole backward pass.

    Args:
        title: of the report.
        table: what is right.
        cases: the trials.
        runs: what was returned in each, or the error that was raised.
        given: the symbols whose true values were handed over.
        catalogue: the table's mistakes.
    """
    returned = [(trial, run) for trial, run in zip(cases, runs, strict=True) if isinstance(run, dict)]
    raised = next((run for run in runs if isinstance(run, str)), "")
    failure = f"{'where sizes differ, ' if returned else ''}backward raises {raised}" if raised else ""
    backward = [e.symbol for e in table if e.direction == "backward" and e.symbol not in given]
    if not returned:
        return Report(title, (), tuple(backward), failure)
    walked = [trial for trial, _ in returned]
    walk = Walk(table, walked, [run for _, run in returned], given)
    search = _Search(walk, catalogue)
    if unexplained := search.run():  # something may be in float32, and right or wrong to its accuracy
        coarse = [{symbol: outcome.in_float32() for symbol, outcome in run.items()} for _, run in returned]
        again = _Search(Walk(table, walked, coarse, given), catalogue)
        search = again if len(again.run()) < len(unexplained) else search
    search.conclude()
    found = {finding.equation.symbol: finding for finding in search.findings()}
    found |= {s: Finding(table[s], "not filled in") for s in walk.unfilled}
    if not found:
        failure = failure or "not filled in: backward returns nothing"
    findings = tuple(found[e.symbol] for e in table if e.symbol in found)
    return Report(title, findings, tuple(s for s in backward if s not in found or s in walk.unfilled), failure)


@dataclass
class _Guess:
    symbol: str
    mistake: Mistake
    left: frozenset[str]  # the visible symbols that it leaves unexplained


@dataclass
class _Search:
    """The hidden equations that are to blame, with the mistakes that fit equally well."""

    walk: Walk
    catalogue: Catalogue
    blamed: dict[str, tuple[Mistake, ...]] = field(default_factory=dict)
    own: dict[str, Finding] = field(default_factory=dict)  # on each visible symbol, by the values before it
    off: frozenset[str] = frozenset()  # the visible symbols that are to blame themselves, or that nothing explains

    @property
    def _wrong(self) -> Mapping[str, Equation]:
        return {symbol: mistakes[0].equation for symbol, mistakes in self.blamed.items()}

    def _guesses(self, at_most: int) -> Iterator[_Guess]:
        """Each mistake in one more hidden equation that leaves at most so many visible symbols unexplained."""
        wrong = self._wrong
        for symbol in self.walk.hidden:
            for mistake in self.catalogue.mistakes(self.walk.table[symbol]) if symbol not in wrong else ():
                left = self.walk.off({**wrong, symbol: mistake.equation}, at_most)
                if len(left) <= at_most:
                    yield _Guess(symbol, mistake, left)

    def _blame(self, guesses: Sequence[_Guess]) -> None:
        """Take the best; among equals the first, which is nearest to the inputs."""
        best = min(guesses, key=lambda guess: len(guess.left))
        equals = [guess for guess in guesses if guess.left == best.left]
        self.blamed[best.symbol] = tuple(_seen_from(best.symbol, guess) for guess in equals)

    def run(self) -> set[str]:
        """Look for whom to blame; the visible symbols that stay off for no reason that is easy to find."""
        while guesses := self._step():
            self._blame(guesses)
        return {symbol for symbol in self.off if not self.own[symbol].mistakes}

    def _step(self) -> list[_Guess]:
        """The guesses that explain two visible symbols or more; else one that has no explanation of its own."""
        self.off = self.walk.off(self._wrong)
        if len(self.off) > 1 and (guesses := list(self._guesses(len(self.off) - 2))):
            return guesses
        self.own = self._judged(glance, self.walk.visible)
        guesses = list(self._guesses(len(self.off) - 1))
        for symbol in sorted(self.off):
            if not self.own[symbol].mistakes and (here := [g for g in guesses if g.left == self.off - {symbol}]):
                return here
        return []

    def conclude(self) -> None:
        """Look deeper into what is unexplained, and tell where a mistake may as well be in an earlier equation."""
        self.own |= self._judged(judge, [symbol for symbol in self.off if not self.own[symbol].mistakes])
        self.off = frozenset(symbol for symbol in self.off if self.own[symbol].verdict == "wrong")
        for guess in self._guesses(len(self.off) - 1):
            symbol, *more = self.off - guess.left
            if not more and self.own[symbol].mistakes:
                mistakes = (*self.own[symbol].mistakes, _seen_from(symbol, guess))
                self.own[symbol] = replace(self.own[symbol], mistakes=mistakes)

    def _judged(self, how: Callable[..., Finding], symbols: Collection[str]) -> dict[str, Finding]:
        contexts = self.walk.contexts(self._wrong)
        return {s: how(self.walk.table[s], contexts, self.walk.outcomes(s), self.catalogue) for s in symbols}

    def findings(self) -> Iterator[Finding]:
        """A verdict on each visible symbol, and on those hidden ones that can be seen in them."""
        walk, own, off, contexts = self.walk, self.own, self.off, self.walk.contexts(self._wrong)
        suspect, followers = self._suspect({s for s in off if own[s].kinds == UNKNOWN})
        wrong = {*self.blamed, *({suspect} if suspect else ()), *(s for s in off if s not in followers)}
        for symbol, mistakes in self.blamed.items():
            yield Finding(walk.table[symbol], "wrong", walk.error(symbol, contexts), mistakes)
        if suspect:
            note = f"what follows from it, {', '.join(followers)}, is wrong altogether"
            worst = max(own[symbol].error for symbol in followers)
            yield Finding(walk.table[suspect], "wrong", worst, otherwise=UNKNOWN, note=note)
        for symbol in [*walk.visible, *walk.hidden]:
            visible = symbol in walk.visible
            causes = [e.symbol for e in walk.table if e.symbol in wrong & walk.ancestors(symbol)]
            if symbol in wrong:
                if visible:
                    yield own[symbol]
            elif visible and any(outcome.unscaled for outcome in walk.outcomes(symbol)):
                note = "does not grow with the gradient that backward is sent (grad_output)"
                yield replace(own[symbol], verdict="wrong", mistakes=(), otherwise="wrong upstream", note=note)
            elif causes and not (visible and walk.is_true(symbol)):
                note = f"from {', '.join(causes)}"
                yield Finding(walk.table[symbol], "follows", walk.error(symbol, contexts), note=note)
            elif visible:
                yield own[symbol]
            elif walk.table[symbol].direction == "backward" and any(
                symbol in walk.near(s) and s not in off for s in walk.visible
            ):
                yield Finding(walk.table[symbol], "right", note="by what follows from it")

    def _suspect(self, unexplained: Collection[str]) -> tuple[str, list[str]]:
        """The hidden symbol whose followers are all wrong, in no known way, and are the most; and those followers."""
        best: tuple[str, list[str]] = ("", [])
        for symbol in self.walk.hidden:
            followers = [s for s in self.walk.visible if symbol in self.walk.near(s)]
            if set(followers) <= set(unexplained) and len(followers) >= max(2, len(best[1])):
                best = (symbol, followers)
        return best


def _seen_from(symbol: str, guess: _Guess) -> Mistake:
    """The guess's mistake, with its place where that is another one."""
    if guess.symbol == symbol:
        return guess.mistake
    return replace(guess.mistake, kind=f"{guess.mistake.kind} in {guess.symbol}")
