"""Edits of a term's coefficient, transposes, product and fold: what a mistake in it may have done, and its kind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product

from .terms import Coefficient, Factor, Term

_Edit = Callable[[Coefficient], Coefficient | None]


def _times(number: Fraction) -> _Edit:
    return lambda c: replace(c, number=c.number * number)


def _divided(missing: str, extra: str) -> _Edit:
    """Without 1/missing, with 1/extra; each a string of sizes."""

    def edit(c: Coefficient) -> Coefficient | None:
        if not set(missing) <= set(c.over) or set(extra) & set(c.over):
            return None
        return replace(c, over=tuple(size for size in c.over if size not in missing) + tuple(extra))

    return edit


_COEFFICIENT_EDITS: list[tuple[str, _Edit]] = [
    ("sign", _times(Fraction(-1))),
    ("factor", _times(Fraction(2))),
    ("factor", _times(Fraction(1, 2))),
    ("missing λ", lambda c: replace(c, penalty=False) if c.penalty else None),
    ("extra λ", lambda c: None if c.penalty else replace(c, penalty=True)),
    *((f"missing 1/{sizes}", _divided(sizes, "")) for sizes in ("B", "q")),
    ("missing 1/(Bq)", _divided("Bq", "")),
    *((f"extra 1/{size}", _divided("", size)) for size in "Bqhd"),
    *((f"1/{there} for 1/{gone}", _divided(gone, there)) for gone, there in ("Bq", "Bh", "Bd", "qB")),
]


def recalculated(term: Term) -> Iterator[tuple[str, Term]]:
    """Another sign, another number, another size to divide by, with or without λ."""
    for kind, edit in _COEFFICIENT_EDITS:
        if coefficient := edit(term.coefficient):
            mean = kind == "extra 1/B" and term.fold == "sum rows"
            yield "mean for sum" if mean else kind, replace(term, coefficient=coefficient)


def recalculated_alike(terms: Sequence[Term]) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """All terms with the same edit of their coefficients."""
    for kind, edit in _COEFFICIENT_EDITS:
        coefficients = [edit(term.coefficient) for term in terms]
        pairs = zip(terms, coefficients, strict=True)
        edited = tuple(replace(term, coefficient=coefficient) for term, coefficient in pairs if coefficient)
        if len(edited) == len(terms):
            yield kind, edited


def transposed(term: Term) -> Term:
    """(AB)ᵀ = BᵀAᵀ, and (A⊙B)ᵀ = Aᵀ⊙Bᵀ."""
    factors = term.factors[::-1] if term.join == "matmul" else term.factors
    return replace(term, factors=tuple(map(_transposed, factors)))


def _transposed(factor: Factor) -> Factor:
    return replace(factor, transposed=not factor.transposed) if len(factor.shape) == 2 else factor


def turned(term: Term) -> Iterator[tuple[str, Term]]:
    """Every way to transpose the factors and, in a matrix product, to order them."""
    kind = "sum over the wrong axis" if term.fold == "sum rows" else "transpose"
    for step in (1, -1) if term.join == "matmul" else (1,):
        for turns in product((False, True), repeat=len(term.factors)):
            pairs = zip(term.factors, turns, strict=True)
            wrong = replace(term, factors=tuple(_transposed(f) if turn else f for f, turn in pairs)[::step])
            if wrong != term:
                yield kind, wrong


def multiplied_otherwise(term: Term) -> Iterator[tuple[str, Term]]:
    """⊙ and the matrix product, mistaken for each other."""
    if len(term.factors) > 1:
        if term.join == "matmul":
            yield "⊙ for a matrix product", replace(term, join="hadamard")
        else:
            yield "matrix product for ⊙", replace(term, join="matmul")


def folded_otherwise(term: Term) -> Iterator[tuple[str, Term]]:
    """Aᵀ1 without its sum, or summed once more."""
    if term.fold == "sum rows":
        yield "missing sum over the rows", replace(term, fold="")
        yield "sum over all", replace(term, fold="sum")
