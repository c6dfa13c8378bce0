"""Equations derived from equations: the tangent tX of X by the product rule, in forward mode.

tX is the derivative of X along given directions tx, tw1, tb1, tw2, tb2. The tangents of the forward equations give a
Jacobian–vector product; those of the backward equations, in which φ″ and the loss's curvature come up, a
Hessian–vector product: Pearlmutter's R-operator, "Fast Exact Multiplication by the Hessian", 1994.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from .mlp import Table
from .symbols import tangent_of
from .terms import Equation, Factor, Function, Term

Slopes = Mapping[tuple[str, str], Function]  # φ′ by the name of φ and its argument: ("φ", "z")


def tangents(table: Table) -> tuple[Equation, ...]:
    """An equation tX = … for each forward equation X = …, in the table's order.

    φ′ comes from the backward equations. Where a function stands for which they have no derivative (the softmax inside
    a loss), the tangent is read off the adjoint: tL = Σ ∂J/∂o ⊙ to, since J = L + s.

    Raises:
        ValueError: a function whose derivative the table has in no form.
    """
    adjoints = {equation.symbol[1:]: equation.lhs for equation in table if equation.direction == "backward"}
    forward = [equation for equation in table if equation.direction == "forward"]
    reads = Counter(name for equation in forward for name in equation.tensors)
    moving, known = {given.name for given in table.givens if given.name in adjoints}, slopes(table)
    made = []
    for equation in forward:
        moving_here = [symbol for name, symbol in equation.tensors.items() if name in moving]
        by_adjoint = equation.shape == () and all(s.name in adjoints and reads[s.name] == 1 for s in moving_here)
        terms = _terms(equation, moving, known)
        if terms is None and by_adjoint:
            terms = tuple(Term((Factor(adjoints[s.name]), Factor(tangent_of(s))), fold="sum") for s in moving_here)
        if terms is None:
            raise ValueError(f"tangents: the table has no derivative of {equation.text}")
        if terms:
            made.append(Equation(tangent_of(equation.lhs), terms, "", "tangent"))
            moving.add(equation.symbol)
    return tuple(made)


def tangent(equation: Equation, moving: Collection[str], known: Slopes, label: str = "") -> Equation:
    """TX = … for X = …, by the product rule.

    Args:
        equation: what gives X.
        moving: the names of the symbols that depend on the directions, or have one.
        known: the derivatives of the functions in it.
        label: as of `Equation`.

    Raises:
        ValueError: nothing in it moves, or a derivative is not known.
    """
    terms = _terms(equation, moving, known)
    if not terms:
        problem = "nothing moves" if terms == () else "a derivative is not known"
        raise ValueError(f"tangent: {problem} in {equation.text}")
    return Equation(tangent_of(equation.lhs), terms, label, "tangent", equation.indices)


def slopes(equations: Iterable[Equation]) -> dict[tuple[str, str], Function]:
    """Every φ′ that stands in the equations."""
    functions = [(f.function, f.symbol) for e in equations for term in e.terms for f in term.factors if f.function]
    return {(g.text.removesuffix("′"), symbol.name): g for g, symbol in functions if g.text.endswith("′")}


def _terms(equation: Equation, moving: Collection[str], known: Slopes) -> tuple[Term, ...] | None:
    parts = [_product_rule(term, moving, known) for term in equation.terms]
    return None if None in parts else tuple(term for part in parts if part for term in part)


def _product_rule(term: Term, moving: Collection[str], known: Slopes) -> tuple[Term, ...] | None:
    """The term's tangent, a term for each factor that moves; None where a derivative is not known."""
    made = []
    for at, factor in enumerate(term.factors):
        if factor.symbol.name not in moving:
            continue
        before, after = term.factors[:at], term.factors[at + 1 :]
        moved = replace(factor, symbol=tangent_of(factor.symbol), function=None)
        if term.fold == "norm²":
            if before or after or factor.function:
                return None
            doubled = replace(term.coefficient, number=2 * term.coefficient.number)
            made.append(Term((factor, moved), doubled, fold="sum"))
        elif factor.function:
            slope = known.get((factor.function.text, factor.symbol.name))
            if slope is None or term.join == "matmul":
                return None
            made.append(replace(term, factors=(*before, replace(factor, function=slope), moved, *after)))
        else:
            made.append(replace(term, factors=(*before, moved, *after)))
    return tuple(made)
