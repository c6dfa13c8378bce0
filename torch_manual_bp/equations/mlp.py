"""The equations of the one-hidden-layer MLP, forward and backward, as a table.

Labels are the numbers of the equations in D2L's chapter "Forward Propagation, Backward Propagation, and Computational
Graphs" (section 5.3), which writes them for one column vector x and without biases; here a batch has its examples in
rows, and exercise 2's bias terms appear where a bias is asked for. ∂J/∂L = ∂J/∂s = 1 (5.3.8) are left unwritten.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import reduce
from itertools import groupby
from typing import Any, overload

from torch import Tensor

from .activations import Activation, activation_named
from .losses import LossEquations, loss_equations
from .symbols import SYMBOLS
from .terms import Coefficient, Equation, Factor, Function, Polynomial, Symbol, Term, sizes_of


class Table(Sequence[Equation]):
    """The equations in an order in which they can be evaluated; ``table["dw2"]`` or ``table[0]`` picks one.

    Attributes:
        activation, loss: names.
        givens: the symbols that no equation gives: x, y and the parameters; of second order, directions as well.
    """

    def __init__(self, equations: Sequence[Equation], activation: str, loss: str):
        self._equations = tuple(equations)
        self.activation, self.loss = activation, loss
        defined = {equation.symbol for equation in equations}
        read = {name: symbol for equation in equations for name, symbol in equation.tensors.items()}
        names = [*(name for name in SYMBOLS if name in read), *(name for name in read if name not in SYMBOLS)]
        self.givens: tuple[Symbol, ...] = tuple(read[name] for name in names if name not in defined)

    @overload
    def __getitem__(self, key: str | int) -> Equation: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Equation, ...]: ...
    def __getitem__(self, key: str | int | slice) -> Equation | tuple[Equation, ...]:
        """The equation of a symbol, or of a position."""
        if not isinstance(key, str):
            return self._equations[key]
        for equation in self._equations:
            if equation.symbol == key:
                return equation
        raise KeyError(f"{key!r}; the table has {', '.join(e.symbol for e in self._equations)}")

    def __len__(self) -> int:
        return len(self._equations)

    def __iter__(self) -> Iterator[Equation]:
        return iter(self._equations)

    def evaluate(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """Every equation's value, by symbol, computed in float64 in the table's order: the oracle of all tests.

        Args:
            values: x (B,d), y (B,) int64 class indices or (B,q), w1 (h,d), w2 (q,h), b1 (h,) and b2 (q,) where the
                table has them, the directions of a table of second order, of their parameters' shapes, and
                ``weight_decay`` (λ, 0 if absent). Floating tensors are converted to float64.

        Raises:
            KeyError: a symbol is missing.
            ValueError: a shape does not fit, or a label is out of range.
        """
        known: dict[str, Any] = {"weight_decay": float(values.get("weight_decay", 0.0))}
        for given in self.givens:
            if given.name not in values:
                needed = ", ".join(given.name for given in self.givens)
                raise KeyError(f"table.evaluate: {given.name} is missing; needed: {needed}")
            value = values[given.name]
            known[given.name] = value.double() if value.is_floating_point() else value
        sizes = sizes_of(self.givens, known, "table.evaluate")
        result: dict[str, Tensor] = {}
        for equation in self._equations:
            known[equation.symbol] = result[equation.symbol] = equation.evaluate(known, sizes)
        return result

    @property
    def first_order(self) -> "Table":
        """The equations forward and backward."""
        return self._of([equation for equation in self if equation.direction in ("forward", "backward")])

    def leading_to(self, *symbols: str) -> "Table":
        """The given symbols' equations, and those that they follow from; it is given what these need, and no more.

        Raises:
            KeyError: a symbol without an equation.
        """
        wanted = {self[symbol].symbol for symbol in symbols}
        for equation in reversed(self._equations):
            if equation.symbol in wanted:
                wanted |= {*equation.tensors}
        return self._of([equation for equation in self if equation.symbol in wanted])

    def _of(self, equations: Sequence[Equation]) -> "Table":
        return self if len(equations) == len(self) else Table(equations, self.activation, self.loss)

    @property
    def gemm_flops(self) -> Polynomial:
        """FLOPs of all matrix products; ∂J/∂x is among them."""
        return reduce(Polynomial.__add__, (equation.gemm_flops for equation in self), Polynomial())

    @property
    def elementwise_flops(self) -> Polynomial:
        """FLOPs of everything between the matrix products."""
        return reduce(Polynomial.__add__, (equation.elementwise_flops for equation in self), Polynomial())

    @property
    def latex(self) -> str:
        """All equations as one LaTeX ``aligned`` block."""
        lines = (equation.latex.replace(" = ", " &= ", 1) for equation in self)
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def __str__(self) -> str:
        head = ("D2L", "equation", "shape", "FLOPs: products", "elementwise")
        groups = self._groups()
        rows: list[tuple[str, ...]] = []
        for name, part in groups:
            rows += [(), *((e.label, e.text, f"({', '.join(e.shape)})", *_costs(e)) for e in part), ()]
            rows.append(("", "total" if len(groups) == 1 else f"total: {name}", "", *_costs(part)))
        widths = [max(map(len, column)) for column in zip(head, *filter(None, rows), strict=True)]
        rule = tuple("─" * width for width in widths)

        def line(row: tuple[str, ...]) -> str:
            return "  ".join(cell.ljust(width) for cell, width in zip(row or rule, widths, strict=True)).rstrip()

        title = f"one hidden layer, φ = {self.activation}, l = {self.loss}"
        return "\n".join([title, "", line(head), *map(line, rows)])

    def _groups(self) -> list[tuple[str, "Table"]]:
        """Neighbours of one direction, under its name; forward and backward are one, of first order."""
        named = groupby(self, lambda e: "first order" if e.direction in ("forward", "backward") else e.direction)
        return [(name, self._of(list(part))) for name, part in named]


def _costs(of: Equation | Table) -> tuple[str, str]:
    return str(of.gemm_flops), str(of.elementwise_flops)


def table(
    activation: str | Activation = "relu",
    loss: str = "cross_entropy",
    hidden_bias: bool = True,
    output_bias: bool = True,
) -> Table:
    """The equations z, h, o, L, s, J and ∂J/∂o, ∂J/∂w2, ∂J/∂b2, ∂J/∂h, ∂J/∂z, ∂J/∂w1, ∂J/∂b1, ∂J/∂x.

    Args:
        activation: a name of `ACTIVATIONS`.
        loss: "cross_entropy", "mse" or "bce_with_logits", each the mean over the batch.
        hidden_bias: whether there is a b1 (the chapter has none; its exercise 2 adds it).
        output_bias: whether there is a b2.

    Raises:
        ValueError: unknown activation or loss.
    """
    phi = activation if isinstance(activation, Activation) else activation_named(activation, "table")
    chosen = loss_equations(loss, "table")
    forward = _forward(phi, hidden_bias, output_bias)
    backward = _backward(phi, hidden_bias, output_bias, chosen)
    return Table([*forward, *_objective(chosen), *backward], phi.name, loss)


def _matmul(left: Symbol | Factor, right: Symbol | Factor) -> Term:
    factors = tuple(f if isinstance(f, Factor) else Factor(f) for f in (left, right))
    return Term(factors, join="matmul")


def _each_row(bias: Symbol) -> Term:
    return Term((Factor(bias),), fold="each row")


def of_z(text: str, latex: str, function: Any) -> Factor:
    """φ(z), φ′(z) or φ″(z)."""
    return Factor(SYMBOLS["z"], function=Function(text, latex, lambda z, _: function(z)))


LAMBDA = Coefficient(penalty=True)
HALF_LAMBDA = Coefficient(Fraction(1, 2), penalty=True)


def _forward(phi: Activation, hidden_bias: bool, output_bias: bool) -> list[Equation]:
    x, w1, b1, z, h, w2, b2, o = (SYMBOLS[name] for name in ("x", "w1", "b1", "z", "h", "w2", "b2", "o"))
    bias1 = (_each_row(b1),) if hidden_bias else ()
    bias2 = (_each_row(b2),) if output_bias else ()
    return [
        Equation(z, (_matmul(x, w1.T), *bias1), "5.3.1", "forward"),
        Equation(h, (Term((of_z("φ", r"\phi", phi.phi),)),), "5.3.2", "forward"),
        Equation(o, (_matmul(h, w2.T), *bias2), "5.3.3", "forward"),
    ]


def _objective(loss: LossEquations) -> list[Equation]:
    w1, w2, L, s, J = (SYMBOLS[name] for name in ("w1", "w2", "L", "s", "J"))
    penalty = tuple(Term((Factor(w),), HALF_LAMBDA, fold="norm²") for w in (w1, w2))
    return [
        *loss.forward,
        Equation(s, penalty, "5.3.5", "forward"),
        Equation(J, (Term((Factor(L),)), Term((Factor(s),))), "5.3.6", "forward"),
    ]


def _backward(phi: Activation, hidden_bias: bool, output_bias: bool, loss: LossEquations) -> list[Equation]:
    x, w1, h, w2 = (SYMBOLS[name] for name in ("x", "w1", "h", "w2"))
    do, dw2, db2, dh, dz, dw1, db1, dx = (
        SYMBOLS[name] for name in ("do", "dw2", "db2", "dh", "dz", "dw1", "db1", "dx")
    )

    def penalty(w: Symbol) -> Term:
        return Term((Factor(w),), LAMBDA)

    def bias(db: Symbol, da: Symbol) -> Equation:
        return Equation(db, (Term((Factor(da),), fold="sum rows"),), "exercise 2", "backward")

    return [
        loss.backward,
        Equation(dw2, (_matmul(do.T, h), penalty(w2)), "5.3.11", "backward"),
        *([bias(db2, do)] if output_bias else []),
        Equation(dh, (_matmul(do, w2),), "5.3.12", "backward"),
        Equation(dz, (Term((Factor(dh), of_z("φ′", r"\phi'", phi.dphi))),), "5.3.13", "backward"),
        Equation(dw1, (_matmul(dz.T, x), penalty(w1)), "5.3.14", "backward"),
        *([bias(db1, dz)] if hidden_bias else []),
        Equation(dx, (_matmul(dz, w1),), "", "backward"),
    ]
