"""An equation as data: a symbol, its shape, and a right-hand side that is a sum of terms.

A term is ``coefficient × factors``; a factor is a symbol, plain or transposed, or a function of one. All that the
package says or computes about an equation (text, LaTeX, its reference value, its inputs, its FLOPs) is derived here
from the terms, so that no two of them can drift apart. Here are terms of matrices; `indices` has those with indices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, reduce
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

Sizes = Mapping[str, int]
Shape = tuple[str, ...]
Direction = Literal[
    "forward", "backward", "loss", "tangent", "gauss-newton", "diagonal", "blocks", "units", "kronecker", "inputs",
]  # fmt: skip


class Polynomial(dict[tuple[str, ...], int]):
    """A polynomial in the sizes B, d, h, q: products of sizes, with how often each occurs. Prints as ``2Bdh + Bh``."""

    def __add__(self, other: "Polynomial") -> "Polynomial":
        total = Polynomial(self)
        for sizes, count in other.items():
            total[sizes] = total.get(sizes, 0) + count
        return total

    def __call__(self, **sizes: int) -> int:
        """The value, for instance ``flops(B=128, d=784, h=256, q=10)``."""
        return sum(count * prod(sizes[size] for size in product) for product, count in self.items())

    def __str__(self) -> str:
        ranked = sorted(self.items(), key=lambda item: (-len(item[0]), item[0]))
        return (
            " + ".join(f"{count if count > 1 or not sizes else ''}{''.join(sizes)}" for sizes, count in ranked) or "0"
        )


def monomial(shape: Shape, count: int = 1) -> Polynomial:
    """``count`` times the number of elements of a tensor of this shape."""
    return Polynomial({tuple(sorted(shape)): count} if count else {})


@dataclass(frozen=True)
class Symbol:
    """A named tensor: ``shape`` in sizes, and how it is written in text and in LaTeX.

    ``indexed`` writes it in LaTeX with a letter for each axis, where these do not hang below it as a whole.
    """

    name: str
    shape: Shape
    latex: str
    meaning: str = ""
    indexed: Callable[[str], str] | None = field(default=None, compare=False)

    def at(self, indices: str) -> str:
        r"""The LaTeX of an element: ``\mathbf{x}_{bi}``; without letters, that of the whole."""
        if not indices:
            return self.latex
        return self.indexed(indices) if self.indexed else f"{self.latex}_{{{indices}}}"

    @property
    def T(self) -> "Factor":
        """The transposed symbol, as a factor."""
        return Factor(self, transposed=True)

    def __getitem__(self, indices: str) -> "Factor":
        """The symbol with a letter for each of its axes: ``x["bi"]``."""
        return Factor(self, indices=indices)


KRONECKER = Symbol("δ", (), r"\delta", "1 where its two indices are equal, else 0")


@dataclass(frozen=True)
class Function:
    """A function inside a term: of one tensor and the sizes (a one-hot encoding needs to know how many classes)."""

    text: str
    latex: str
    apply: Callable[[Tensor, Sizes], Tensor] = field(compare=False)
    shape: Shape | None = None  # the result's, where it is not the argument's


@dataclass(frozen=True)
class Factor:
    """A symbol, transposed or not, or a function of it; with a letter for each axis where its term has indices."""

    symbol: Symbol
    transposed: bool = False
    function: Function | None = None
    indices: str = ""

    def __getitem__(self, indices: str) -> "Factor":
        """The same factor with a letter for each of its axes."""
        return replace(self, indices=indices)

    @property
    def shape(self) -> Shape:
        """The factor's shape: that of the symbol, turned where it is transposed."""
        shape = (self.function and self.function.shape) or self.symbol.shape
        return shape[::-1] if self.transposed else shape

    @property
    def text(self) -> str:
        """``doᵀ``, ``φ′(z)``, ``x_bi``."""
        inner = f"{self.function.text}({self.symbol.name})" if self.function else self.symbol.name
        inner = f"{inner}_{self.indices}" if self.indices else inner
        return f"{inner}ᵀ" if self.transposed else inner

    @property
    def latex(self) -> str:
        """The factor in LaTeX."""
        if self.function:
            inner = f"{self.function.latex}({self.symbol.latex})" + (f"_{{{self.indices}}}" if self.indices else "")
        else:
            inner = self.symbol.at(self.indices)
        return f"{{{inner}}}^\\top" if self.transposed else inner

    def evaluate(self, values: Mapping[str, Any], sizes: Sizes) -> Tensor:
        """The factor's value."""
        value = values[self.symbol.name]
        value = self.function.apply(value, sizes) if self.function else value
        return value.T if self.transposed else value


@dataclass(frozen=True)
class Coefficient:
    """``number × λ^penalty × (product of sizes) / (product of sizes)``."""

    number: Fraction = Fraction(1)
    penalty: bool = False
    over: Shape = ()
    times: Shape = ()

    def value(self, values: Mapping[str, Any], sizes: Sizes) -> float:
        """The coefficient's value; λ is ``values["weight_decay"]``."""
        size = prod(sizes[name] for name in self.over)
        # over no rows a mean is 0/0, as in torch
        number = float(self.number) * prod(sizes[name] for name in self.times) / size if size else float("nan")
        return number * values["weight_decay"] if self.penalty else number

    @property
    def is_one(self) -> bool:
        """Whether nothing is multiplied."""
        return self == Coefficient()

    @property
    def is_sign(self) -> bool:
        """Whether the coefficient is 1 or −1."""
        return abs(self.number) == 1 and not self.penalty and not self.over and not self.times

    def _parts(self) -> tuple[str, str]:
        numerator = "" if self.number.numerator in (1, -1) else str(abs(self.number.numerator))
        numerator += ("λ" if self.penalty else "") + "".join(self.times)
        denominator = "" if self.number.denominator == 1 else str(self.number.denominator)
        return numerator, denominator + "".join(self.over)

    @property
    def text(self) -> str:
        """``λ/2``, ``2/(Bq)``; empty for 1. The sign is the term's."""
        numerator, denominator = self._parts()
        if not denominator:
            return numerator
        return f"{numerator or 1}/({denominator})" if len(denominator) > 1 else f"{numerator or 1}/{denominator}"

    @property
    def latex(self) -> str:
        """The coefficient in LaTeX."""
        numerator, denominator = (part.replace("λ", r"\lambda ") for part in self._parts())
        return rf"\frac{{{numerator or 1}}}{{{denominator}}}" if denominator else numerator


@dataclass(frozen=True)
class Term:
    """``coefficient × factors``.

    ``join`` is how the factors are multiplied: as matrices, or elementwise (⊙). ``fold`` is what becomes of the
    product: itself, the sum of its rows (Aᵀ1), of its elements or of their squares, or the vector in each row (1 bᵀ).
    """

    factors: tuple[Factor, ...]
    coefficient: Coefficient = Coefficient()
    join: Literal["matmul", "hadamard", "indices"] = "hadamard"
    fold: Literal["", "sum rows", "sum", "norm²", "each row"] = ""

    @cached_property
    def product_shape(self) -> Shape:
        """The shape before the fold."""
        if self.join == "matmul":
            return (self.factors[0].shape[0], self.factors[-1].shape[-1])
        return self.factors[0].shape

    @property
    def nonzero(self) -> Shape | None:
        """The sizes of what is not 0 for certain; None where that is all of the equation's shape."""
        return None

    def evaluate(self, values: Mapping[str, Any], sizes: Sizes) -> Tensor:
        """The term's value."""
        factors = [factor.evaluate(values, sizes) for factor in self.factors]
        product = reduce(torch.matmul if self.join == "matmul" else torch.mul, factors)
        if self.fold == "sum rows":
            product = product.sum(0)
        elif self.fold == "sum":
            product = product.sum()
        elif self.fold == "norm²":
            product = product.square().sum()
        elif self.fold == "each row":
            product = product.expand(sizes["B"], -1)
        return product if self.coefficient.is_one else self.coefficient.value(values, sizes) * product

    @property
    def negative(self) -> bool:
        """Whether the term is subtracted."""
        return self.coefficient.number < 0

    @property
    def text(self) -> str:
        """The term without its sign, for instance ``λ/2 ‖w1‖²``."""
        body = (" ⊙ " if self.join == "hadamard" else " ").join(factor.text for factor in self.factors)
        turned = replace(self.factors[0], transposed=not self.factors[0].transposed).text
        body = {
            "": body,
            "sum rows": f"{turned}1" if turned.endswith("ᵀ") else f"{turned} 1",
            "sum": f"Σ {body}",
            "norm²": f"‖{body}‖²",
            "each row": f"1 {body}ᵀ",
        }[self.fold]
        return f"{self.coefficient.text} {body}".strip()

    @property
    def latex(self) -> str:
        """The term in LaTeX, without its sign."""
        body = (r" \odot " if self.join == "hadamard" else r"\,").join(factor.latex for factor in self.factors)
        body = {
            "": body,
            "sum rows": rf"{{{body}}}^\top\mathbf{{1}}",
            "sum": rf"\sum {body}",
            "norm²": rf"\lVert {body} \rVert_F^2",
            "each row": rf"\mathbf{{1}}\,{{{body}}}^\top",
        }[self.fold]
        return self.coefficient.latex + body

    @property
    def gemm_flops(self) -> Polynomial:
        """2mnk for each matrix product."""
        if self.join != "matmul":
            return Polynomial()
        (m, k), n = self.factors[0].shape, self.factors[-1].shape[-1]
        return monomial((m, k, n), 2)

    @property
    def elementwise_flops(self) -> Polynomial:
        """One for each element and function, ⊙, sum, square or scaling."""
        functions = sum(factor.function is not None for factor in self.factors)
        products = len(self.factors) - 1 if self.join == "hadamard" else 0
        folds = {"": 0, "each row": 0, "sum rows": 1, "sum": 1, "norm²": 2}[self.fold]
        scaled = 0 if self.coefficient.is_sign or self.fold in ("sum", "norm²") else 1
        return monomial(self.product_shape, functions + products + folds + scaled)


@dataclass(frozen=True)
class Equation:
    """``symbol = Σ terms``, with its label in the D2L chapter.

    Call it with its inputs by name: ``equation(do=do, h=h, w2=w2, weight_decay=0.1)``.

    Attributes:
        lhs: the symbol.
        terms: the right-hand side.
        label: the number in the chapter, or the exercise that asks for it.
        direction: the pass it belongs to, forward or backward; of second order, what it is a part of.
        indices: the letters of the symbol's axes, where the right-hand side has indices.
    """

    lhs: Symbol
    terms: tuple[Term, ...]
    label: str
    direction: Direction
    indices: str = ""

    @property
    def symbol(self) -> str:
        """The name of what the equation gives, for instance ``dw2``."""
        return self.lhs.name

    @property
    def shape(self) -> Shape:
        """Its shape in sizes, for instance ``("q", "h")``."""
        return self.lhs.shape

    @cached_property
    def tensors(self) -> dict[str, Symbol]:
        """The tensors on the right-hand side, by name, in the order in which they appear."""
        factors = (factor for term in self.terms for factor in term.factors)
        return {factor.symbol.name: factor.symbol for factor in factors if factor.symbol != KRONECKER}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of all that the right-hand side needs: its tensors, and λ as ``weight_decay``."""
        penalty = any(term.coefficient.penalty for term in self.terms)
        return (*self.tensors, *(("weight_decay",) if penalty else ()))

    def __call__(self, **values: Any) -> Tensor:
        """The right-hand side for inputs by name.

        Raises:
            TypeError: an input is missing or unknown.
            ValueError: two inputs disagree about a size, or a size does not follow from any of them.
        """
        if set(values) != set(self.inputs):
            raise TypeError(f"{self.symbol}: expected the inputs {', '.join(self.inputs)}; got {', '.join(values)}")
        return self.evaluate(values)

    def evaluate(self, values: Mapping[str, Any], sizes: Sizes | None = None) -> Tensor:
        """The right-hand side, its inputs taken from ``values`` by name (others are left alone)."""
        if sizes is None:
            sizes = sizes_of(self.tensors.values(), values, self.symbol)
            if unknown := sorted({*self.shape} - {*sizes}):
                raise ValueError(f"{self.symbol}: no input has the size {', '.join(unknown)}: evaluate(values, sizes)")
        return sum_in_order(term.evaluate(values, sizes) for term in self.terms)

    @property
    def gemm_flops(self) -> Polynomial:
        """FLOPs of the matrix products."""
        return reduce(Polynomial.__add__, (term.gemm_flops for term in self.terms))

    @property
    def elementwise_flops(self) -> Polynomial:
        """FLOPs of all else: what each term costs, and the sum of the terms, which is made where they are not 0."""
        added = sorted((self.shape if t.nonzero is None else t.nonzero for t in self.terms), key=len)[:-1]
        adds = reduce(Polynomial.__add__, map(monomial, added), Polynomial())
        return reduce(Polynomial.__add__, (term.elementwise_flops for term in self.terms), adds)

    @property
    def text(self) -> str:
        """``dw2 = doᵀ h + λ w2``."""
        return f"{Factor(self.lhs, indices=self.indices).text} = {self._signed('text')}"

    @property
    def latex(self) -> str:
        """The equation in LaTeX, in the chapter's symbols, for a batch of rows."""
        return f"{Factor(self.lhs, indices=self.indices).latex} = {self._signed('latex')}"

    def __str__(self) -> str:
        return self.text

    def _signed(self, form: Literal["text", "latex"]) -> str:
        head, *tail = self.terms
        first = ("-" if head.negative else "") + getattr(head, form)
        return first + "".join((" - " if term.negative else " + ") + getattr(term, form) for term in tail)


def sum_in_order(terms: Any) -> Tensor:
    """The terms' sum from left to right."""
    return reduce(torch.add, terms)


def sizes_of(symbols: Any, values: Mapping[str, Any], op: str) -> dict[str, int]:
    """The sizes B, d, h, q that the values' shapes imply.

    Raises:
        ValueError: a value has the wrong rank, or disagrees with the others about a size.
    """
    sizes: dict[str, int] = {}
    for symbol in symbols:
        got = tuple(values[symbol.name].shape)
        known = tuple(sizes.get(size, size) for size in symbol.shape)
        matches = len(got) == len(known) and all(isinstance(k, str) or k == g for k, g in zip(known, got, strict=True))
        if not matches:
            expected = f"({', '.join(map(str, known))}{',' if len(known) == 1 else ''})"
            raise ValueError(f"{op}: {symbol.name} must have shape {expected}, got {got}")
        sizes.update(zip(symbol.shape, got, strict=True))
    return sizes
