"""The page's section on second derivatives, from the table of second order."""

from collections.abc import Iterator
from typing import NamedTuple

from ..equations import LOSSES, SECOND_ORDER, second_order
from ..equations.terms import Direction
from . import listing
from .blocks import Block, Formula, Heading, Text


class _Part(NamedTuple):
    direction: Direction
    title: str
    words: str


_PARTS = (
    _Part(
        "loss", "The loss's curvature",
        "S, the Hessian of the loss by the outputs of one row, is a matrix for each row, and is not written "
        "out where a few numbers a row will do: `p`, and the diagonal `d2o`.",
    ),
    _Part(
        "tangent", "A Hessian–vector product",
        "The tangent of the gradient along a direction `tw1`, `tb1`, `tw2`, `tb2`, a dot in the formulas: "
        "Pearlmutter's R-operator. Each equation is that of the forward or the backward pass, differentiated "
        "by the product rule; only φ″, and S in the place of a derivative of ∂J/∂o, are new. `tdw1`, … are H "
        "v. With the gradient's own values at hand it has the FLOPs of a product through a retained autograd "
        "graph.",
    ),
    _Part(
        "gauss-newton", "A Gauss–Newton product",
        "The same `tdo`, sent back through the backward equations as they stand: neither φ″ nor ∂J/∂o is in it.",
    ),
    _Part(
        "diagonal", "The diagonal and the trace",
        "The curvature of J in each hidden unit of each row, `d2z`, stands where ∂J/∂z stands in the "
        "gradient, and x ⊙ x in the place of x. For the trace the squares of a row are added up first, so "
        "that no product is as large as x.",
    ),
    _Part(
        "blocks", "The whole Hessian",
        "A row's Hessian by o becomes one by h through w2, and one by z through φ; where h or z stands beside "
        "o, o means what is added to it besides. For each pair of parameters it is summed over the rows with "
        "the inputs of their two layers; δ adds what is there in a unit's own weights only. With a bias "
        "written as one more input whose value is 1, these are three large products. Each block is there "
        "once: those below the diagonal are its mirror images.",
    ),
    _Part(
        "units", "Blocks of one unit",
        "One hidden unit with its row of w1, one output with its row of w2: exact, and cheap. The corners, of "
        "a bias with itself, are `d2b1` and `d2b2`.",
    ),
    _Part(
        "kronecker", "Kronecker factors",
        "A layer's block of the Gauss–Newton matrix, without λ, is about G ⊗ A: a sum of products, taken for "
        "the product of the sums. With a bias, `a0` and `a1` are the last row and column of A, and 1 is its "
        "corner.",
    ),
    _Part(
        "inputs", "By the inputs",
        "Rows are independent, so each has a Hessian of its own by its x. The Laplacian is that of the "
        "outputs, as a differential equation asks for it.",
    ),
)  # fmt: skip

_BY_THE_RULES = ("tw1", "tdw1", "d2w1", "dzdz", "dw1dw2", "gdzdz")
_SHOWN = (*_BY_THE_RULES, *(name for name, symbol in SECOND_ORDER.items() if symbol.indexed is None))


def section() -> Iterator[Block]:
    """All of it: names, every kind of quantity for cross-entropy, and what other losses change."""
    table = second_order()
    yield Heading(2, "Second derivatives")
    yield Text(
        "Exercise 4, in closed form: `equations.second_order`, and `python -m torch_manual_bp equations "
        "--second-order`. Names follow rules: tX is the tangent of X, d2X holds ∂²J/∂X² entry by entry, dXdY all of "
        "∂²J/∂X∂Y (of each row, where X and Y are of a batch), and gX is the Gauss–Newton part of such an X. What is "
        "no product of matrices is written with a letter for each axis: b a row, j and l hidden units, i and m "
        "inputs, k and n outputs; what the left side lacks is summed over, and δ is 1 where its two letters are equal "
        "and 0 elsewhere. FLOPs are those of the formula from left to right; `torch_manual_bp/curvature` needs fewer "
        "where blocks are symmetric."
    )
    yield listing.symbols(SECOND_ORDER[name] for name in _SHOWN)
    for part in _PARTS:
        equations = [equation for equation in table if equation.direction == part.direction]
        yield Heading(3, part.title)
        yield Text(part.words)
        yield from listing.equations(equations)
    yield Heading(3, "What other losses change")
    texts = {equation.text for equation in table}
    for loss in LOSSES:
        others = [
            equation for equation in second_order("relu", loss) if equation.direction not in ("forward", "backward")
        ]
        others = [equation for equation in others if equation.text not in texts]
        if others:
            yield Text(f"`{loss}`")
            yield from (Formula(equation.latex) for equation in others)
