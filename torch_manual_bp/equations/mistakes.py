"""The mistakes that people make in an equation, derived from its terms.

A mistake is again an equation, so that it can be evaluated and printed as any other: for ``dw2 = doᵀ h + λ w2`` there
are ``dw2 = doᵀ h`` (missing weight decay), ``dw2 = do h + λ w2`` (transpose), and seventy more. None is written down
for one equation: each is an edit of a coefficient, of a factor, of a product or of a sum. Some give what the right
equation gives (φ′ of h for relu), and some have no value where sizes differ: `trials.explains` judges.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from .activations import ACTIVATIONS, Activation
from .edits import folded_otherwise, multiplied_otherwise, recalculated, recalculated_alike, transposed, turned
from .losses import LOSSES, loss_equations
from .mlp import LAMBDA, Table
from .symbols import CLASSES, SYMBOLS
from .terms import Equation, Factor, Function, Symbol, Term


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
                there = (wrong,) if wrong else ()
                yield Mistake(kind, replace(equation, terms=(*terms[:i], *there, *terms[i + 1 :])))
        if len(terms) > 1:
            for kind, alike in recalculated_alike(terms):
                yield Mistake(kind, replace(equation, terms=alike))
            if len(equation.shape) == 2:
                yield Mistake("transpose", replace(equation, terms=tuple(map(transposed, terms))))
        yield from self._added(equation)

    def others(self, equation: Equation) -> Iterator[Mistake]:
        """The values of other symbols, as where two results have changed places."""
        for symbol in self.symbols.values():
            if symbol != equation.lhs and len(symbol.shape) == len(equation.shape):
                yield Mistake("the value of another symbol", replace(equation, terms=(Term((Factor(symbol),)),)))

    def pairs(self, equation: Equation) -> Iterator[Mistake]:
        """Two mistakes at once."""
        for first in self.mistakes(equation):
            for second in self.mistakes(first.equation):
                kinds = sorted({first.kind, second.kind})
                yield Mistake(" and ".join(kinds), second.equation)

    def _of_term(self, term: Term, lhs: Symbol, one_of_several: bool) -> Iterator[tuple[str, Term | None]]:
        for kind, wrong in recalculated(term):
            yield f"{kind} of one term" if one_of_several and kind in ("sign", "factor") else kind, wrong
        if one_of_several:
            yield ("missing weight decay" if term.coefficient.penalty else "missing term"), None
        yield from turned(term)
        yield from multiplied_otherwise(term)
        yield from folded_otherwise(term)
        for i, factor in enumerate(term.factors):
            before, after = term.factors[:i], term.factors[i + 1 :]
            for kind, other in (*self._of_another_symbol(factor, lhs), *self._of_another_function(factor)):
                yield kind, replace(term, factors=(*before, other, *after))
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
        # (identity′ = 1 is better called a missing φ′, and identity(z) is z itself)
        phi, others = self.phi, [a for a in ACTIVATIONS.values() if a.name not in (self.phi.name, "identity")]
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


def is_gradient(symbol: Symbol) -> bool:
    """Whether the symbol is ∂J/∂ of another."""
    return symbol.name.startswith("d") and symbol.name[1:] in SYMBOLS


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
