"""The equations of second order: the backward pass differentiated once more, in closed form.

Three ideas make all of them. A Hessian–vector product is the tangent of the gradient: `tangent` derives it from the
backward equations. The Hessian of one row by z, dzdz, is that by o seen through w2 and φ; every block of the Hessian by
parameters is a sum over rows of it, or of dzdo or dodo, times the layers' inputs; a diagonal needs its diagonal only.
And the Gauss–Newton part leaves out what comes from φ″, and from the output's weights in the hidden layer's gradient.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from .activations import Activation, activation_named
from .indices import Indexed, by_index
from .losses import loss_equations
from .mlp import LAMBDA, Table, of_z, table
from .symbols import SECOND_ORDER, SYMBOLS, gauss_newton_of, mixed_of, tangent_of
from .tangent import slopes, tangent
from .terms import KRONECKER, Coefficient, Direction, Equation, Factor, Function, Symbol, Term

_LABEL = "exercise 4"
_NAMES = {**SYMBOLS, **SECOND_ORDER}


def second_order(
    activation: str | Activation = "relu",
    loss: str = "cross_entropy",
    hidden_bias: bool = True,
    output_bias: bool = True,
) -> Table:
    """The equations of `table`, and after them those of the second derivatives of J.

    By ``direction``: "loss", the curvature of the loss in o; "tangent", the Hessian–vector product tdw1, tdb1, tdw2,
    tdb2 for a direction tw1, tb1, tw2, tb2 (Pearlmutter's R-operator); "gauss-newton", the product gtdw1, … with the
    Gauss–Newton matrix; "diagonal", d2w1, … and the trace, and those of the Gauss–Newton matrix; "blocks", the whole
    Hessian as dw1dw1, dw1db1, …, each pair of parameters once; "units", its blocks of one hidden unit or one output;
    "kronecker", the factors of KFAC; "inputs", ∂²J/∂x_b² and the Laplacian of o.

    Directions are among the givens. Evaluated whole, the table takes n² numbers and more for n parameters, and some of
    B h²: ``second_order(…).leading_to("d2w1", "d2b1")`` has what a quantity needs, and is given no more.

    Args:
        activation: a name of `ACTIVATIONS`.
        loss: "cross_entropy", "mse" or "bce_with_logits", each the mean over the batch.
        hidden_bias: whether there is a b1.
        output_bias: whether there is a b2.

    Raises:
        ValueError: unknown activation or loss.
    """
    phi = activation if isinstance(activation, Activation) else activation_named(activation, "second_order")
    curvature = loss_equations(loss, "second_order").curvature
    first = table(phi, loss, hidden_bias, output_bias)
    parameters = [SYMBOLS[n] for n, there in (("w1", 1), ("b1", hidden_bias), ("w2", 1), ("b2", output_bias)) if there]
    dphi, d2phi = of_z("φ′", r"\phi'", phi.dphi), of_z("φ″", r"\phi''", phi.d2phi)

    def of_loss(direction: Direction) -> list[Equation]:
        return [equation for equation in curvature if equation.direction == direction]

    assert d2phi.function
    return Table(
        [
            *first,
            *of_loss("loss"),
            *_tangents(first, of_loss("tangent"), d2phi.function),
            *_gauss_newton(first),
            *of_loss("diagonal"),
            *_diagonals(dphi, d2phi, parameters),
            *of_loss("blocks"),
            *_rows(dphi, d2phi),
            *_blocks(dphi, parameters),
            *_units(parameters),
            *_kronecker(parameters),
            *_inputs(d2phi),
        ],
        phi.name,
        loss,
    )


# -------------------------------------------------------------------------------------------------------- products


def _tangents(first: Table, through_loss: list[Equation], d2phi: Function) -> Iterator[Equation]:
    """The tangents of z, h, o, of ∂J/∂o by the loss's curvature, and of the other gradients; x does not move."""
    known = {**slopes(first), ("φ′", "z"): d2phi}
    moving = {given.name for given in first.givens if given.name in ("w1", "b1", "w2", "b2")}
    for symbol in ("z", "h", "o"):
        yield tangent(first[symbol], moving, known, _LABEL)
        moving.add(symbol)
    yield from through_loss
    for equation in first:
        if equation.direction == "backward" and equation.symbol != "dx":
            if equation.symbol != "do":
                yield tangent(equation, moving, known, _LABEL)
            moving.add(equation.symbol)


def _gauss_newton(first: Table) -> Iterator[Equation]:
    """The backward equations with tdo sent in for do, and with the directions for the weights that λ pulls at."""
    sent = {"do": SECOND_ORDER["tdo"]}
    for equation in first:
        if equation.direction != "backward" or equation.symbol in ("do", "dx"):
            continue
        sent[equation.symbol] = gauss_newton_of(tangent_of(equation.lhs))
        terms = []
        for term in equation.terms:
            at = {name: tangent_of(SYMBOLS[name]) for name in ("w1", "w2")} if term.coefficient.penalty else sent
            factors = tuple(replace(f, symbol=at.get(f.symbol.name, f.symbol)) for f in term.factors)
            terms.append(replace(term, factors=factors))
        yield Equation(sent[equation.symbol], tuple(terms), _LABEL, "gauss-newton")


# ------------------------------------------------------------------------------------------- diagonals and blocks


class _Place(NamedTuple):
    """Where a parameter acts: what it adds to (z or o), and what it is multiplied with there (x or h, or nothing)."""

    output: Symbol
    input: Symbol | None


_PLACES = {
    "w1": _Place(SYMBOLS["z"], SYMBOLS["x"]), "b1": _Place(SYMBOLS["z"], None),
    "w2": _Place(SYMBOLS["o"], SYMBOLS["h"]), "b2": _Place(SYMBOLS["o"], None),
}  # fmt: skip


def _letters(*shapes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Letters for the axes of tensors side by side: j, l hidden units; i, m inputs; k, n outputs; b rows."""
    free = {"B": iter("b"), "h": iter("jl"), "d": iter("im"), "q": iter("kn")}
    return [tuple(next(free[size]) for size in shape) for shape in shapes]


def _diagonals(dphi: Factor, d2phi: Factor, parameters: list[Symbol]) -> Iterator[Equation]:
    """Curvature in each unit of each row, and from it, over the rows, in each parameter; the two traces."""
    gd2z, d2z, d2h, dh = (Factor(_NAMES[name]) for name in ("gd2z", "d2z", "d2h", "dh"))
    yield Equation(gd2z.symbol, (Term((d2h, dphi, dphi)),), _LABEL, "diagonal")
    yield Equation(d2z.symbol, (Term((gd2z,)), Term((dh, d2phi))), _LABEL, "diagonal")
    for g in ("g", ""):
        of_rows = {"z": _NAMES[f"{g}d2z"], "o": _NAMES["d2o"]}
        for parameter in parameters:
            output, x = _PLACES[parameter.name]
            if g and output.name == "o":  # is its own Gauss–Newton part
                continue
            curvature, symbol = of_rows[output.name], _NAMES[f"{g}d2{parameter.name}"]
            if x is None:
                yield Equation(symbol, (Term((Factor(curvature),), fold="sum rows"),), _LABEL, "diagonal")
            else:
                ((unit, column),) = _letters(parameter.shape)
                squares = (x["b" + column], x["b" + column], curvature["b" + unit])
                yield by_index(symbol[unit + column], squares, Indexed((), LAMBDA), direction="diagonal")
    for g in ("g", ""):
        yield _trace(g, {"z": _NAMES[f"{g}d2z"], "o": _NAMES["d2o"]}, parameters)


def _trace(g: str, of_rows: dict[str, Symbol], parameters: list[Symbol]) -> Equation:
    """The diagonal's sum, in an order in which no product is as large as x is."""
    sums, penalties = [], []
    for parameter in parameters:
        output, x = _PLACES[parameter.name]
        ((unit, *columns),) = _letters(parameter.shape)
        curvature = of_rows[output.name]
        sums.append(Indexed((*(x["b" + c] for c in columns * 2 if x), curvature["b" + unit])))
        if x:
            penalties.append(Indexed((), Coefficient(penalty=True, times=parameter.shape)))
    return by_index(_NAMES[f"{g}trace"][""], *sums, *penalties, direction="diagonal")


def _rows(dphi: Factor, d2phi: Factor) -> Iterator[Equation]:
    """The Hessian of each row by what it adds to h, z and o: that by o, seen through w2 and φ."""
    w2, dh = SYMBOLS["w2"], SYMBOLS["dh"]
    dodo, dhdo, dhdh, gdzdz, dzdz, dzdo = (
        SECOND_ORDER[name] for name in ("dodo", "dhdo", "dhdh", "gdzdz", "dzdz", "dzdo")
    )  # fmt: skip
    yield by_index(dhdo["bjk"], (w2["nj"], dodo["bnk"]), direction="blocks")
    yield by_index(dhdh["bjl"], (dhdo["bjk"], w2["kl"]), direction="blocks")
    yield by_index(gdzdz["bjl"], (dphi["bj"], dphi["bl"], dhdh["bjl"]), direction="blocks")
    yield by_index(dzdz["bjl"], (gdzdz["bjl"],), (KRONECKER["jl"], dh["bj"], d2phi["bj"]), direction="blocks")
    yield by_index(dzdo["bjk"], (dphi["bj"], dhdo["bjk"]), direction="blocks")


def _blocks(dphi: Factor, parameters: list[Symbol]) -> Iterator[Equation]:
    """A block for each pair of parameters: over the rows, the Hessian by what they add to, times their inputs."""
    for at, first in enumerate(parameters):
        for second in parameters[at:]:
            (a, x), (b, y) = _PLACES[first.name], _PLACES[second.name]
            (u, *c), (v, *e) = _letters(first.shape, second.shape)
            inputs = (*(x["b" + i] for i in c if x), *(y["b" + i] for i in e if y))
            terms = [Indexed((*inputs, SECOND_ORDER[mixed_of(a, b).name]["b" + u + v]))]
            if y and a != b:  # w2 stands in ∂J/∂h = ∂J/∂o w2 as well, on the way to the hidden layer's own unit
                own = (KRONECKER[u + e[0]], dphi["b" + u], *(x["b" + i] for i in c if x), SYMBOLS["do"]["b" + v])
                terms.append(Indexed(own))
            if y and first == second:
                terms.append(Indexed((KRONECKER[u + v], KRONECKER[c[0] + e[0]]), LAMBDA))
            symbol = SECOND_ORDER[mixed_of(first, second).name]
            yield by_index(symbol["".join((u, *c, v, *e))], *terms, direction="blocks")


def _units(parameters: list[Symbol]) -> Iterator[Equation]:
    """The blocks of one hidden unit, or one output, with its own weights: its bias's are d2b1 and d2b2."""
    names = {parameter.name for parameter in parameters}
    for w, b, U, u, curvature in (("w1", "b1", "U1", "u1", "d2z"), ("w2", "b2", "U2", "u2", "d2o")):
        x, S = _PLACES[w].input, SECOND_ORDER[curvature]
        assert x is not None
        (unit,), (first, second) = _letters(S.shape[1:], (x.shape[1], x.shape[1]))
        square = (x["b" + first], x["b" + second], S["b" + unit])
        penalty = Indexed((KRONECKER[first + second],), LAMBDA)
        yield by_index(SECOND_ORDER[U][unit + first + second], square, penalty, direction="units")
        if b in names:
            yield by_index(SECOND_ORDER[u][unit + first], (x["b" + first], S["b" + unit]), direction="units")


# ------------------------------------------------------------------------------------------- factors and inputs


def _kronecker(parameters: list[Symbol]) -> Iterator[Equation]:
    """The layers' inputs, over the rows, and the Gauss–Newton matrix by the layers' outputs, summed over them."""
    names, mean = {parameter.name for parameter in parameters}, Coefficient(over=("B",))
    for x, A, a, bias, G, of_rows in (("x", "A0", "a0", "b1", "G1", "gdzdz"), ("h", "A1", "a1", "b2", "G2", "dodo")):
        inputs, S = SYMBOLS[x], SECOND_ORDER[of_rows]
        yield Equation(
            SECOND_ORDER[A], (Term((inputs.T, Factor(inputs)), mean, join="matmul"),), _LABEL, "kronecker"
        )  # fmt: skip
        if bias in names:
            yield Equation(
                SECOND_ORDER[a], (Term((Factor(inputs),), mean, fold="sum rows"),), _LABEL, "kronecker"
            )  # fmt: skip
        units = "".join(*_letters(S.shape[1:]))
        yield by_index(SECOND_ORDER[G][units], (S["b" + units],), direction="kronecker")


def _inputs(d2phi: Factor) -> Iterator[Equation]:
    """By the inputs of each row: of J, and of each output the sum over the inputs."""
    w1, w2, dzdz = SYMBOLS["w1"], SYMBOLS["w2"], SECOND_ORDER["dzdz"]
    yield by_index(SECOND_ORDER["dxdx"]["bim"], (w1["ji"], dzdz["bjl"], w1["lm"]), direction="inputs")
    yield by_index(
        SECOND_ORDER["laplacian"]["bk"], (w1["ji"], w1["ji"], d2phi["bj"], w2["kj"]), direction="inputs"
    )  # fmt: skip
