"""The tangent pass (forward mode), derived from the table by the product rule.

tX is the derivative of X along given directions tx, tw1, tb1, tw2, tb2. φ′ comes from the table's backward equations.
Where a function stands for which they have no derivative (the softmax inside a loss), the tangent is read off the
adjoint: tL = Σ ∂J/∂o ⊙ to, since J = L + s.
"""

from collections import Counter
from dataclasses import replace

from ..equations import Equation, Factor, Symbol, Table, Term


def tangent_of(symbol: Symbol) -> Symbol:
    """The symbol tX of X, of the same shape."""
    return Symbol(f"t{symbol.name}", symbol.shape, rf"\dot{{{symbol.latex}}}", f"tangent of {symbol.name}")


def tangents(table: Table) -> tuple[Equation, ...]:
    """An equation tX = … for each forward equation X = …, in the table's order.

    Raises:
        ValueError: a function whose derivative the table has in no form.
    """
    adjoints = {equation.symbol[1:]: equation.lhs for equation in table if equation.direction == "backward"}
    forward = [equation for equation in table if equation.direction == "forward"]
    reads = Counter(name for equation in forward for name in equation.tensors)
    moving = {given.name for given in table.givens if given.name in adjoints}
    made = []
    for equation in forward:
        moving_here = [symbol for name, symbol in equation.tensors.items() if name in moving]
        terms = [_product_rule(table, term, moving) for term in equation.terms]
        if all(part is not None for part in terms):
            flat = tuple(term for part in terms for term in part)  # type: ignore[union-attr]
        elif equation.shape == () and all(s.name in adjoints and reads[s.name] == 1 for s in moving_here):
            flat = tuple(
                Term((Factor(adjoints[s.name]), Factor(tangent_of(s))), fold="sum") for s in moving_here
            )  # fmt: skip
        else:
            raise ValueError(f"tangents: the table has no derivative of {equation.text}")
        if flat:
            made.append(Equation(tangent_of(equation.lhs), flat, "", "forward"))
            moving.add(equation.symbol)
    return tuple(made)


def _product_rule(table: Table, term: Term, moving: set[str]) -> tuple[Term, ...] | None:
    """The term's tangent, a term for each factor that moves; None where a derivative is not known."""
    made = []
    for at, factor in enumerate(term.factors):
        if factor.symbol.name not in moving:
            continue
        moved = Factor(tangent_of(factor.symbol), factor.transposed)
        if term.fold == "norm²":
            if len(term.factors) > 1 or factor.function:
                return None
            doubled = replace(term.coefficient, number=2 * term.coefficient.number)
            made.append(Term((factor, moved), doubled, fold="sum"))
        elif factor.function:
            slope = _slope(table, factor)
            if slope is None or len(term.factors) > 1:
                return None
            made.append(replace(term, factors=(slope, moved), join="hadamard"))
        else:
            made.append(replace(term, factors=(*term.factors[:at], moved, *term.factors[at + 1 :])))
    return tuple(made)


def _slope(table: Table, factor: Factor) -> Factor | None:
    """φ′(z) for φ(z), from the equation for ∂J/∂z."""
    assert factor.function
    wanted = f"{factor.function.text}′"
    for equation in table:
        for term in equation.terms:
            for other in term.factors:
                if other.function and other.function.text == wanted and other.symbol == factor.symbol:
                    return other
    return None
