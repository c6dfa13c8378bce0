"""The symbols of all equations: name, shape in the sizes B, d, h, q, and LaTeX in the chapter's letters.

What is derived from a symbol X is named by rules: dX is ∂J/∂X, tX the tangent of X, d2X holds ∂²J/∂X² entry by entry,
dXdY all of ∂²J/∂X∂Y, and gX is the Gauss–Newton part of such an X: of tdw1, d2w1, dzdz.
"""

from collections.abc import Callable

from .terms import Symbol


def gradient_of(symbol: Symbol) -> Symbol:
    """The symbol dX of X, of the same shape."""
    return _fraction(
        f"d{symbol.name}", symbol.shape, f"∂J/∂{symbol.name}",
        lambda i: rf"\frac{{\partial J}}{{\partial {symbol.at(i)}}}",
    )  # fmt: skip


def tangent_of(symbol: Symbol) -> Symbol:
    """The symbol tX of X, of the same shape; in tdX the dot stands over J."""

    def latex(indices: str) -> str:
        plain, start = symbol.at(indices), r"\frac{\partial J}"
        if plain.startswith(start):
            return plain.replace(start, r"\frac{\partial \dot{J}}", 1)
        return rf"\dot{{{symbol.latex}}}" + (f"_{{{indices}}}" if indices else "")

    return _fraction(f"t{symbol.name}", symbol.shape, f"tangent of {symbol.name}", latex)


def second_of(symbol: Symbol) -> Symbol:
    """The symbol d2X of X, of the same shape."""
    return _fraction(
        f"d2{symbol.name}", symbol.shape, f"∂²J/∂{symbol.name}², entry by entry",
        lambda i: rf"\frac{{\partial^2 J}}{{\partial {raised(symbol.at(i), 2)}}}",
    )  # fmt: skip


def mixed_of(first: Symbol, second: Symbol) -> Symbol:
    """The symbol dXdY of X and Y: X's axes, then Y's; where both are of a batch, of each row, B first."""
    rows, axes = "B" in first.shape, len(first.shape)

    def latex(indices: str) -> str:
        left, right = indices[:axes], indices[:1] * rows + indices[axes:]
        return rf"\frac{{\partial^2 J}}{{\partial {first.at(left)}\,\partial {second.at(right)}}}"

    meaning = f"∂²J/∂{first.name}∂{second.name}{', of each row' * rows}"
    return _fraction(f"d{first.name}d{second.name}", (*first.shape, *second.shape[rows:]), meaning, latex)


def gauss_newton_of(symbol: Symbol) -> Symbol:
    """The symbol gX of X: the Gauss–Newton part of a second derivative."""
    meaning = f"Gauss–Newton part of {symbol.name}"
    return _fraction(f"g{symbol.name}", symbol.shape, meaning, lambda i: rf"{symbol.at(i)}_{{\operatorname{{GN}}}}")


def raised(latex: str, power: int) -> str:
    r"""The power of a symbol in LaTeX: ``\mathbf{x}_{bi}^{2}``, in parentheses where something stands there already."""
    base = f"({latex})" if "^" in latex else latex
    return f"{base}^{{{power}}}" if power != 1 else latex


def _fraction(name: str, shape: tuple[str, ...], meaning: str, latex: Callable[[str], str]) -> Symbol:
    return Symbol(name, shape, latex(""), meaning, latex)


_X = Symbol("x", ("B", "d"), r"\mathbf{x}", "inputs, one example a row")
_W1 = Symbol("w1", ("h", "d"), r"\mathbf{W}^{(1)}", "hidden layer's weight")
_B1 = Symbol("b1", ("h",), r"\mathbf{b}^{(1)}", "hidden layer's bias")
_W2 = Symbol("w2", ("q", "h"), r"\mathbf{W}^{(2)}", "output layer's weight")
_B2 = Symbol("b2", ("q",), r"\mathbf{b}^{(2)}", "output layer's bias")
_Z = Symbol("z", ("B", "h"), r"\mathbf{z}", "before the activation")
_H = Symbol("h", ("B", "h"), r"\mathbf{h}", "hidden variable")
_O = Symbol("o", ("B", "q"), r"\mathbf{o}", "outputs (logits)")

CLASSES = Symbol("y", ("B",), r"\mathbf{y}", "class indices")
TARGETS = Symbol("y", ("B", "q"), r"\mathbf{y}", "targets")

_ALL = (
    _X,
    CLASSES,
    *(_W1, _B1, _W2, _B2),
    *(_Z, _H, _O),
    Symbol("r", ("B", "q"), r"\mathbf{r}", "residual o − y"),
    Symbol("L", (), "L", "loss"),
    Symbol("s", (), "s", "penalty"),
    Symbol("J", (), "J", "objective"),
    *(gradient_of(symbol) for symbol in (_O, _W2, _B2, _H, _Z, _W1, _B1, _X)),
)

SYMBOLS: dict[str, Symbol] = {symbol.name: symbol for symbol in _ALL}

_PARAMETERS = (_W1, _B1, _W2, _B2)
_OUTSIDE = (
    Symbol("p", ("B", "q"), r"\mathbf{p}", "what the loss makes of o: softmax(o) or σ(o)"),
    Symbol("mu", ("B", "h"), r"\mu", "mean of w2's rows under p"),
    Symbol("trace", (), r"\operatorname{tr}", "trace of the Hessian by all parameters"),
    Symbol("gtrace", (), r"\operatorname{tr}_{\operatorname{GN}}", "trace of its Gauss–Newton part"),
    Symbol("U1", ("h", "d", "d"), r"\mathbf{U}^{(1)}", "dw1dw1 within a hidden unit"),
    Symbol("u1", ("h", "d"), r"\mathbf{u}^{(1)}", "dw1db1 within a hidden unit"),
    Symbol("U2", ("q", "h", "h"), r"\mathbf{U}^{(2)}", "dw2dw2 within an output"),
    Symbol("u2", ("q", "h"), r"\mathbf{u}^{(2)}", "dw2db2 within an output"),
    Symbol("A0", ("d", "d"), r"\mathbf{A}^{(0)}", "inputs' factor of the hidden layer"),
    Symbol("a0", ("d",), r"\mathbf{a}^{(0)}", "its last column but for the 1, with a bias"),
    Symbol("G1", ("h", "h"), r"\mathbf{G}^{(1)}", "units' factor of the hidden layer"),
    Symbol("A1", ("h", "h"), r"\mathbf{A}^{(1)}", "inputs' factor of the output layer"),
    Symbol("a1", ("h",), r"\mathbf{a}^{(1)}", "its last column but for the 1, with a bias"),
    Symbol("G2", ("q", "q"), r"\mathbf{G}^{(2)}", "outputs' factor of the output layer"),
    Symbol("laplacian", ("B", "q"), r"\Delta\mathbf{o}", "Laplacian of o by x"),
)
_SECOND_ORDER = (
    *_OUTSIDE,
    *map(tangent_of, (*_PARAMETERS, _Z, _H, _O)),
    *(tangent_of(gradient_of(symbol)) for symbol in (*_PARAMETERS, _Z, _H, _O)),
    *map(second_of, (*_PARAMETERS, _Z, _H, _O)),
    *(mixed_of(a, b) for a, b in ((_O, _O), (_H, _O), (_H, _H), (_Z, _Z), (_Z, _O), (_X, _X))),
    *(mixed_of(a, b) for i, a in enumerate(_PARAMETERS) for b in _PARAMETERS[i:]),
    *(gauss_newton_of(tangent_of(gradient_of(symbol))) for symbol in (*_PARAMETERS, _Z, _H)),
    *(gauss_newton_of(second_of(symbol)) for symbol in (_W1, _B1, _Z)),
    gauss_newton_of(mixed_of(_Z, _Z)),
)

SECOND_ORDER: dict[str, Symbol] = {symbol.name: symbol for symbol in _SECOND_ORDER}
