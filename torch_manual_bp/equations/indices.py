"""Terms with indices: ``Σ_b x_bi x_bm dzdz_bjl``, for what is no product of matrices.

Each factor has a letter an axis, and so has what the equation gives. Letters that only factors have are summed over;
δ_jl is 1 where j = l and 0 elsewhere; a letter that no factor has is one along which all is the same. Factors are
multiplied from left to right, and a letter is summed over as soon as neither a later factor nor the result has it:
so the order of the factors says what it costs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor

from .symbols import raised
from .terms import KRONECKER, Direction, Equation, Factor, Polynomial, Shape, Sizes, Term, monomial

_POWERS = {1: "", 2: "²", 3: "³"}


@dataclass(frozen=True)
class Indexed(Term):
    """``coefficient × Σ factors``, over the letters that the result lacks.

    Attributes:
        indices: the result's letters.
        shape: the result's shape.
    """

    join: Literal["matmul", "hadamard", "indices"] = "indices"
    indices: str = ""
    shape: Shape = ()

    @cached_property
    def size_of(self) -> dict[str, str]:
        """The size that each letter runs over.

        Raises:
            ValueError: a tensor with more or fewer letters than axes, or a letter that runs over two sizes.
        """
        sizes: dict[str, str] = {}
        named = [(factor.text, factor.indices, factor.shape) for factor in self._tensors]
        for name, indices, shape in [("the result", self.indices, self.shape), *named]:
            if len(indices) != len(shape):
                raise ValueError(f"{name}: {len(shape)} axes need as many letters, got {indices!r}")
            for letter, size in zip(indices, shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise ValueError(f"{name}: {letter} runs over {size} here and over {sizes[letter]} elsewhere")
        for delta in (factor for factor in self.factors if factor.symbol == KRONECKER):
            if len({sizes.get(letter) for letter in delta.indices} - {None}) != 1 or len(delta.indices) != 2:
                raise ValueError(f"{delta.text}: must have two letters of one size, which others have too")
        return sizes

    @property
    def _tensors(self) -> list[Factor]:
        return [factor for factor in self.factors if factor.symbol != KRONECKER]

    @property
    def summed(self) -> str:
        """The letters that are summed over, in the order in which they appear."""
        return "".join(dict.fromkeys(c for factor in self.factors for c in factor.indices if c not in self.indices))

    def evaluate(self, values: Mapping[str, Any], sizes: Sizes) -> Tensor:
        """The term's value."""
        length = {letter: sizes[size] for letter, size in self.size_of.items()}
        factors = [None if f.symbol == KRONECKER else f.evaluate(values, sizes) for f in self.factors]
        like = next((value for value in (*factors, *values.values()) if _is_floating(value)), None)
        options: dict[str, Any] = {} if like is None else {"dtype": like.dtype, "device": like.device}
        operands = [
            torch.eye(length[factor.indices[0]], **{"dtype": torch.float64, **options}) if value is None else value
            for factor, value in zip(self.factors, factors, strict=True)
        ]
        there = "".join(c for c in self.indices if any(c in factor.indices for factor in self.factors))
        if operands:
            product = torch.einsum(f"{','.join(f.indices for f in self.factors)}->{there}", *operands)
        else:
            product = torch.ones((), **{"dtype": torch.float64, **options})
        product = product.reshape([length[c] if c in there else 1 for c in self.indices])
        product = product.expand([length[c] for c in self.indices])
        return product if self.coefficient.is_one else self.coefficient.value(values, sizes) * product

    @property
    def text(self) -> str:
        """The term without its sign, for instance ``Σ_b x_bi² d2z_bj``; δ of the result's letters before the sum."""
        outside, inside = (" ".join(f.text + _POWERS[power] for f, power in part) for part in self._powers)
        sums = f"Σ_{self.summed}" if self.summed else ""
        return " ".join(part for part in (self.coefficient.text, outside, sums, inside) if part)

    @property
    def latex(self) -> str:
        """The term in LaTeX, without its sign."""
        outside, inside = (r"\,".join(raised(f.latex, power) for f, power in part) for part in self._powers)
        sums = rf"\sum_{{{self.summed}}} " if self.summed else r"\," if outside and inside else ""
        return self.coefficient.latex + outside + sums + inside

    @property
    def _powers(self) -> tuple[list[tuple[Factor, int]], list[tuple[Factor, int]]]:
        """The factors that need no sum over anything, δ, and the others; each with how often it stands in a row."""
        outside = [f for f in self.factors if f.symbol == KRONECKER and {*f.indices} <= {*self.indices}]
        inside = [f for f in self.factors if f not in outside]
        first, second = ([(f, len(list(same))) for f, same in groupby(part)] for part in (outside, inside))
        return first, second

    # ---------------------------------------------------------------------------------------------------- FLOPs

    @cached_property
    def _renamed(self) -> dict[str, str]:
        """Each letter, or the one that δ makes it equal to: only where these are equal is there anything to compute."""
        names = {letter: letter for letter in self.size_of}
        for factor in self.factors:
            if factor.symbol == KRONECKER:
                first, second = (names[letter] for letter in factor.indices)
                names = {letter: first if name == second else name for letter, name in names.items()}
        return names

    def _letters(self, indices: str) -> frozenset[str]:
        return frozenset(self._renamed[letter] for letter in indices)

    def _cost(self, letters: frozenset[str], count: int = 1) -> Polynomial:
        return monomial(tuple(self.size_of[letter] for letter in letters), count)

    @property
    def nonzero(self) -> Shape:
        """The sizes of what is not 0 for certain: of δ_jl a diagonal."""
        return tuple(self.size_of[letter] for letter in self._letters(self.indices))

    def _steps(self) -> Iterator[tuple[bool, Polynomial]]:
        """From left to right what each multiplication and sum costs, and whether it is a matrix product."""
        waiting = [self._letters(factor.indices) for factor in self._tensors]
        here: frozenset[str] = frozenset()
        for at, letters in enumerate(waiting):
            needed = self._letters(self.indices).union(*waiting[at + 1 :])
            both = here | letters
            sums, multiplies = bool(both - needed), at > 0
            matrices = sums and multiplies and bool((here - letters) & needed) and bool((letters - here) & needed)
            yield matrices, self._cost(both, sums + multiplies)
            here = both & needed

    @property
    def gemm_flops(self) -> Polynomial:
        """2mnk for each matrix product, of each of a batch where it is batched."""
        return reduce(Polynomial.__add__, (cost for matrices, cost in self._steps() if matrices), Polynomial())

    @property
    def elementwise_flops(self) -> Polynomial:
        """One for each function's value (once where it occurs twice), product, sum and scaling, where δ is not 0."""
        functions = {factor for factor in self._tensors if factor.function}
        costs = [self._cost(self._letters(factor.indices)) for factor in functions]
        costs += [cost for matrices, cost in self._steps() if not matrices]
        there = self._letters(self.indices) & self._letters("".join(f.indices for f in self._tensors))
        if not self.coefficient.is_sign and there:
            costs.append(self._cost(there))
        return reduce(Polynomial.__add__, costs, Polynomial())


def by_index(
    lhs: Factor, *terms: Indexed | tuple[Factor, ...], direction: Direction, label: str = "exercise 4"
) -> Equation:
    """``by_index(dxdx["bim"], (w1["ji"], dzdz["bjl"], w1["lm"]), direction="inputs")``: an equation with indices.

    Args:
        lhs: what it gives, with its letters.
        terms: the factors of each term, or a term with a coefficient.
        direction: as of `Equation`.
        label: as of `Equation`.

    Raises:
        ValueError: as of `Indexed.size_of`.
    """
    made = tuple(
        replace(term if isinstance(term, Indexed) else Indexed(term), indices=lhs.indices, shape=lhs.symbol.shape)
        for term in terms
    )
    for term in made:
        term.size_of  # noqa: B018  (its check)
    return Equation(lhs.symbol, made, label, direction, lhs.indices)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
