"""The symbols of all equations: name, shape in the sizes B, d, h, q, and LaTeX in the chapter's letters."""

from .terms import Symbol


def _gradient(of: Symbol) -> Symbol:
    return Symbol(f"d{of.name}", of.shape, rf"\frac{{\partial J}}{{\partial {of.latex}}}", f"∂J/∂{of.name}")


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
    *(_gradient(symbol) for symbol in (_O, _W2, _B2, _H, _Z, _W1, _B1, _X)),
)

SYMBOLS: dict[str, Symbol] = {symbol.name: symbol for symbol in _ALL}
