"""The mistakes that people make in an equation, derived from its terms.

A mistake is again an equation, so that it can be evaluated and printed as any other: for ``dw2 = doᵀ h + λ w2`` there
are ``dw2 = doᵀ h`` (missing weight decay), ``dw2 = do h + λ w2`` (transpose), and seventy more. None is written down
for one equation: each is an edit of a coefficient, of a factor, of a product or of a sum. Some give what the right
equation gives (φ′ of h for relu), and some have no value where sizes differ: `trials.explains` judges.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product

from torch import Tensor

from .activations import ACTIVATIONS, Activation
from .losses import LOSSES, loss_equations
from .mlp import LAMBDA, Table
from .symbols import CLASSES, SYMBOLS
from .terms import Coefficient, Equation, Factor, Function, Symbol, Term


@dataclass(frozen=True)
class Mistake:
    """A kind, such as "transpose", and the equation as it reads with the mistake in it."""

    kind: str
    equation: Equation
    remark: str = ""

    @property
    def text(self) -> str:
        """What the one who made it has computed."""
        return self.remark or self.equation.text


class Catalogue:
    """The mistakes of one table's equations.

    Args:
        table: what is right.
        phi: the activation that the table names.
    """

    def __init__(self, table: Table, phi: Activation):
        self.phi = phi
        self.symbols = {s.name: s for s in (*table.givens, *(e.lhs for e in table)) if s != CLASSES}

    def mistakes(self, equation: Equation) -> Iterator[Mistake]:
        """One mistake at a time; two kinds may lead to the same equation."""
        terms = equation.terms
        for i, term in enumerate(terms):
            for kind, wrong in self._of_term(term, equation.lhs, len(terms) > 1):
                yield Mistake(
                    kind, replace(equation, terms=(*terms[:i], *((wrong,) if wrong else ()), *terms[i + 1 :]))
                )
        if len(terms) > 1:
            yield from _of_all_terms(equation)
        yield from self._added(equation)
        yield from self._value_of_another(equation)

    def pairs(self, equation: Equation) -> Iterator[Mistake]:
        """Two mistakes at once."""
        for first in self.mistakes(equation):
            for second in self.mistakes(first.equation):
                kinds = sorted({first.kind, second.kind})
                yield Mistake(" and ".join(kinds), second.equation)

    def _of_term(self, term: Term, lhs: Symbol, one_of_several: bool) -> Iterator[tuple[str, Term | None]]:
        for kind, edit in _COEFFICIENT_EDITS:
            if coefficient := edit(term.coefficient):
                of_one = " of one term" if one_of_several and kind in ("sign", "factor") else ""
                yield _in_words(kind, term) + of_one, replace(term, coefficient=coefficient)
        if one_of_several:
            yield ("missing weight decay" if term.coefficient.penalty else "missing term"), None
        yield from _turned(term)
        yield from _multiplied_otherwise(term)
        yield from _folded_otherwise(term)
        for i, factor in enumerate(term.factors):
            before, after = term.factors[:i], term.factors[i + 1 :]
            for kind, wrong in (*self._of_another_symbol(factor, lhs), *self._of_another_function(factor)):
                yield kind, replace(term, factors=(*before, wrong, *after))
            if term.join == "hadamard" and (before or after):
                yield f"missing {_role(factor)}", replace(term, factors=before + after)

    def _of_another_symbol(self, factor: Factor, lhs: Symbol) -> Iterator[tuple[str, Factor]]:
        if factor.function and factor.function.shape:  # only labels can be encoded as one-hot
            return
        if factor.function and factor.function.text == "φ′":
            kind = "φ′ of the wrong argument"
            if self.phi.from_output:  # 1 − h² written with z in the place of h
                yield kind, replace(factor, function=_function("(φ′ in terms of h)", self.phi.from_output.dphi))
        else:
            kind = "wrong upstream" if is_gradient(factor.symbol) else "wrong tensor"
        for symbol in self.symbols.values():
            if symbol not in (factor.symbol, lhs) and len(symbol.shape) == len(factor.symbol.shape):
                yield kind, replace(factor, symbol=symbol)

    def _of_another_function(self, factor: Factor) -> Iterator[tuple[str, Factor]]:
        function = factor.function
        if function is None or function.shape:
            return
        kind = "φ′ of the wrong function" if function.text == "φ′" else "wrong function"
        for other in self._functions.get(function.text, _OF_LOSSES):
            if other.text != function.text:
                yield kind, replace(factor, function=other)
        yield kind, replace(factor, function=None)
        across = Function(f"({function.text} over axis 0)", "", lambda a, sizes: function.apply(a.T, sizes).T)
        yield "wrong axis", replace(factor, function=across)

    @cached_property
    def _functions(self) -> dict[str, list[Function]]:
        """What may stand in the place of φ and of φ′."""
        phi, others = self.phi, [a for a in ACTIVATIONS.values() if a.name != self.phi.name]
        own = [_function("φ", phi.phi), _function("φ′", phi.dphi), _function("φ″", phi.d2phi)]
        return {
            "φ": own + [_function(other.name, other.phi) for other in others],
            "φ′": own + [_function(f"{other.name}′", other.dphi) for other in others],
        }

    def _added(self, equation: Equation) -> Iterator[Mistake]:
        """λ v in ∂J/∂v, where v is not penalised."""
        variable = self.symbols.get(equation.symbol[1:]) if is_gradient(equation.lhs) else None
        if variable and not any(term.coefficient.penalty for term in equation.terms):
            kind = "weight decay on a bias" if len(variable.shape) == 1 else "weight decay out of place"
            yield Mistake(kind, replace(equation, terms=(*equation.terms, Term((Factor(variable),), LAMBDA))))

    def _value_of_another(self, equation: Equation) -> Iterator[Mistake]:
        for symbol in self.symbols.values():
            if symbol != equation.lhs and len(symbol.shape) == len(equation.shape):
                yield Mistake("the value of another symbol", replace(equation, terms=(Term((Factor(symbol),)),)))


def is_gradient(symbol: Symbol) -> bool:
    """Whether the symbol is ∂J/∂ of another."""
    return symbol.name.startswith("d") and symbol.name[1:] in SYMBOLS


# ------------------------------------------------------------------------------------------------------ coefficients

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


def _in_words(kind: str, term: Term) -> str:
    return "mean for sum" if kind == "extra 1/B" and term.fold == "sum rows" else kind


def _of_all_terms(equation: Equation) -> Iterator[Mistake]:
    for kind, edit in _COEFFICIENT_EDITS:
        edited = [(term, edit(term.coefficient)) for term in equation.terms]
        if all(coefficient for _, coefficient in edited):
            terms = tuple(replace(term, coefficient=coefficient) for term, coefficient in edited if coefficient)
            yield Mistake(kind, replace(equation, terms=terms))
    if len(equation.shape) == 2:
        turned = (replace(t, factors=tuple(map(_transposed, t.factors[:: _direction(t)]))) for t in equation.terms)
        yield Mistake("transpose", replace(equation, terms=tuple(turned)))


# ---------------------------------------------------------------------------------------------- factors and products


def _direction(term: Term) -> int:
    """(AB)ᵀ = BᵀAᵀ, and (A⊙B)ᵀ = Aᵀ⊙Bᵀ."""
    return -1 if term.join == "matmul" else 1


def _transposed(factor: Factor) -> Factor:
    return replace(factor, transposed=not factor.transposed) if len(factor.shape) == 2 else factor


def _turned(term: Term) -> Iterator[tuple[str, Term]]:
    """Every way to transpose the factors and, in a matrix product, to order them."""
    kind = "sum over the wrong axis" if term.fold == "sum rows" else "transpose"
    for step in (1, -1) if term.join == "matmul" else (1,):
        for turns in product((False, True), repeat=len(term.factors)):
            pairs = zip(term.factors, turns, strict=True)
            wrong = replace(term, factors=tuple(_transposed(f) if turn else f for f, turn in pairs)[::step])
            if wrong != term:
                yield kind, wrong


def _multiplied_otherwise(term: Term) -> Iterator[tuple[str, Term]]:
    if len(term.factors) > 1:
        if term.join == "matmul":
            yield "⊙ for a matrix product", replace(term, join="hadamard")
        else:
            yield "matrix product for ⊙", replace(term, join="matmul")


def _folded_otherwise(term: Term) -> Iterator[tuple[str, Term]]:
    if term.fold == "sum rows":
        yield "missing sum over the rows", replace(term, fold="")
        yield "sum over all", replace(term, fold="sum")


def _role(factor: Factor) -> str:
    if factor.function:
        return factor.function.text
    return "upstream" if is_gradient(factor.symbol) else "factor"


def _function(text: str, apply: Callable[[Tensor], Tensor]) -> Function:
    return Function(text, "", lambda a, _: apply(a))


# softmax, log softmax, σ, softplus: what one loss has where another has something else
_OF_LOSSES = sorted(
    {
        factor.function
        for loss in LOSSES
        for equation in (*loss_equations(loss).forward, loss_equations(loss).backward)
        for term in equation.terms
        for factor in term.factors
        if factor.function and factor.function.shape is None
    },
    key=lambda function: function.text,
)  # fmt: skip
