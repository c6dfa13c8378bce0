"""The circles of an equation, read off its terms: ×, φ, ‖·‖², λ/2, +; and l for what reduces a batch to a number."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..equations import Coefficient, Equation, Term
from .model import Edge, Node, Shape

_FOLDS = {"sum rows": ("Σ", "sum of the rows"), "sum": ("Σ", "sum"), "norm²": ("‖·‖²", "sum of squares")}
_LATEX = {"×": r"\times", "⊙": r"\odot", "Σ": r"\sum", "‖·‖²": r"\lVert\cdot\rVert^2", "−": "-", "+": "+", "l": "l"}


@dataclass
class Operators:
    """The operators between an equation's tensors and what it gives."""

    equation: Equation
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def add(self, text: str, latex: str, meaning: str, inputs: Sequence[tuple[str, str, Shape]]) -> str:
        """A circle with arrows from its inputs, each an id with what comes from there; its id."""
        name = self.equation.symbol
        node = Node(f"{name}-{len(self.nodes) + 1}", "operator", text, latex, (), name, meaning)
        self.nodes.append(node)
        self.lead(inputs, node.id)
        return node.id

    def lead(self, inputs: Sequence[tuple[str, str, Shape]], target: str) -> None:
        """Arrows to a node."""
        for source, text, shape in inputs:
            self.edges.append(Edge(source, target, "forward", self.equation.symbol, text, shape))


def operators(equation: Equation) -> Operators:
    """Nodes and edges of a forward equation."""
    made = Operators(equation)
    if _is_loss(equation):
        inputs = [(name, name, symbol.shape) for name, symbol in equation.tensors.items()]
        last = made.add("l", "l", "loss", inputs)
        made.lead([(last, equation.symbol, equation.shape)], equation.symbol)
        return made
    shared = _shared_coefficient(equation.terms)
    values = [_term(made, term, scaled=shared is None) for term in equation.terms]
    if len(values) > 1:
        minus = len(values) == 2 and equation.terms[1].negative
        glyph, meaning = ("−", "difference") if minus else ("+", "sum")
        values = [(made.add(glyph, _LATEX[glyph], meaning, values), "", equation.shape)]
    if shared is not None:
        values = [(_scale(made, shared, values[0]), "", equation.shape)]
    made.lead(values, equation.symbol)
    return made


def _is_loss(equation: Equation) -> bool:
    """Whether it makes one number of a batch: the chapter's l, however many operations that takes."""
    return equation.shape == () and any("B" in symbol.shape for symbol in equation.tensors.values())


def _shared_coefficient(terms: Sequence[Term]) -> Coefficient | None:
    """The coefficient that can stand after the sum, since all terms have it."""
    first = terms[0].coefficient
    shared = len(terms) > 1 and not first.is_sign and all(term.coefficient == first for term in terms)
    return first if shared else None


def _term(made: Operators, term: Term, scaled: bool) -> tuple[str, str, Shape]:
    """The operators of a term; where its value comes from."""
    values = []
    for factor in term.factors:
        value: tuple[str, str, Shape] = (factor.symbol.name, factor.text, factor.shape)
        if factor.function:
            function, inner = factor.function, (factor.symbol.name, factor.symbol.name, factor.symbol.shape)
            value = (made.add(function.text, function.latex, "activation", [inner]), "", factor.shape)
        values.append(value)
    if len(values) > 1:
        glyph, meaning = ("×", "matrix product") if term.join == "matmul" else ("⊙", "elementwise product")
        values = [(made.add(glyph, _LATEX[glyph], meaning, values), "", term.product_shape)]
    if term.fold in _FOLDS:
        glyph, meaning = _FOLDS[term.fold]
        values = [(made.add(glyph, _LATEX[glyph], meaning, values), "", made.equation.shape)]
    elif term.fold == "each row":
        ((source, _, shape),) = values
        values = [(source, term.text, shape)]
    if scaled and not term.coefficient.is_sign:
        values = [(_scale(made, term.coefficient, values[0]), "", values[0][2])]
    return values[0]


def _scale(made: Operators, coefficient: Coefficient, value: tuple[str, str, Shape]) -> str:
    return made.add(coefficient.text, coefficient.latex, f"times {coefficient.text}", [value])
