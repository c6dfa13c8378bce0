"""Equations one after another, each with its shape, its cost, and the lines of code that compute it."""

from collections.abc import Iterable, Iterator

from ..equations import Equation, Symbol
from ..equations.terms import Shape, monomial
from .blocks import Block, Formula, Rows, Text
from .sources import lines_of


def equations(listed: Iterable[Equation]) -> Iterator[Block]:
    """A formula and a line about each."""
    for equation in listed:
        yield Formula(equation.latex)
        products, others = equation.gemm_flops, equation.elementwise_flops
        costs = [
            f"{flops} FLOPs {words}" for flops, words in ((products, "in products"), (others, "beside them")) if flops
        ]
        label = f"**{equation.label}**" if equation.label else ""
        held = f"{monomial(equation.shape, 4)} bytes in float32"
        about = (label, f"`{equation.text}`", _shape(equation.shape), held, ", ".join(costs))
        yield Text(" · ".join(filter(None, about)))
        lines = lines_of(equation.symbol)
        if lines:
            yield Rows(("computed by", "line"), tuple((f"`{s.path}`:{s.line}", f"`{s.code}`") for s in lines))


def symbols(listed: Iterable[Symbol]) -> Rows:
    """What the names stand for."""
    return Rows(
        ("in code", "", "shape", "what it is"),
        tuple((f"`{s.name}`", Formula(s.latex), _shape(s.shape), s.meaning) for s in listed),
    )


def _shape(shape: Shape) -> str:
    return f"({', '.join(shape)})"
