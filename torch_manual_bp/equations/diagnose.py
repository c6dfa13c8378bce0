"""The verdict on one equation: whether its values are right, and which mistake explains them if not."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from math import inf

from .mistakes import Catalogue, Mistake
from .report import Finding
from .terms import Equation, Term
from .trials import Outcome, Trial, agree, error, explains, value_of

FEW = 4  # pairs of mistakes that are worth telling
UNKNOWN = "a mistake that is not in the catalogue"


def judge(equation: Equation, cases: Sequence[Trial], outcomes: Sequence[Outcome], catalogue: Catalogue) -> Finding:
    """Compare what came out with the equation, evaluated on the same values, and explain the difference.

    What has no explanation may have one to float32's accuracy, as where integer labels were divided; or may be two
    mistakes at once.
    """
    finding = glance(equation, cases, outcomes, catalogue)
    if finding.kinds == UNKNOWN:
        coarse = glance(equation, cases, [outcome.in_float32() for outcome in outcomes], catalogue)
        if coarse.kinds != UNKNOWN:
            return replace(coarse, error=finding.error, note="to float32's accuracy: something is in float32")
    if finding.verdict == "wrong" and not finding.mistakes:
        return replace(finding, mistakes=tuple(islice(_fitting(catalogue.pairs(equation), cases, outcomes), FEW)))
    return finding


def glance(equation: Equation, cases: Sequence[Trial], outcomes: Sequence[Outcome], catalogue: Catalogue) -> Finding:
    """The verdict as far as one mistake explains it, to the accuracy of the values."""
    if all(outcome.unfilled for outcome in outcomes):
        return Finding(equation, "not filled in")
    expected = [value_of(equation, trial) for trial in cases]
    errors = (error(outcome.value, value) for outcome, value in zip(outcomes, expected, strict=True))
    off = max((e for e in errors if e < inf), default=inf)
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if not problems and all(agree(outcome.value, value) for outcome, value in zip(outcomes, expected, strict=True)):
        return Finding(equation, "right", off)
    mistakes: tuple[Mistake, ...] = ()
    for simpler in (catalogue.mistakes(equation), catalogue.others(equation), _factors(equation, cases, outcomes)):
        mistakes = mistakes or tuple(_fitting(simpler, cases, outcomes))
    raised = all(outcome.value is None for outcome in outcomes)
    otherwise = "raises an error" if raised else "wrong shape" if problems else UNKNOWN
    return Finding(equation, "wrong", off, mistakes, otherwise, problems[0] if problems else "")


def _fitting(candidates: Iterable[Mistake], cases: Sequence[Trial], outcomes: Sequence[Outcome]) -> Iterator[Mistake]:
    """Those that give the same values in every trial, each once."""
    if all(outcome.value is None for outcome in outcomes):
        return
    seen = set()
    for mistake in candidates:
        if explains(mistake.equation, cases, outcomes) and (key := (mistake.kind, mistake.text)) not in seen:
            seen.add(key)
            yield mistake


def _factors(equation: Equation, cases: Sequence[Trial], outcomes: Sequence[Outcome]) -> Iterable[Mistake]:
    """Each term, times the number that brings the equation nearest to what came out, fitted in the first trial."""
    trial, got = cases[0], outcomes[0].value
    expected = value_of(equation, trial)
    if got is None or expected is None or got.shape != expected.shape:
        return
    for i, term in enumerate(equation.terms):
        part = term.evaluate(trial.values, trial.sizes)
        if not (norm := float((part * part).sum())):
            continue
        exact = 1 + float(((got.double() - expected) * part).sum()) / norm
        if exact != exact or abs(exact) == inf:
            continue
        simple = Fraction(exact).limit_denominator(1000)
        factor = simple if abs(simple - exact) < 1e-9 else Fraction(exact)
        terms = (*equation.terms[:i], _scaled(term, factor), *equation.terms[i + 1 :])
        kind = "factor of one term" if len(equation.terms) > 1 else "factor"
        yield Mistake(kind, replace(equation, terms=terms), f"{float(factor):.6g} times the term {term.text}")


def _scaled(term: Term, factor: Fraction) -> Term:
    return replace(term, coefficient=replace(term.coefficient, number=term.coefficient.number * factor))
