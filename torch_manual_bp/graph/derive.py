"""From the equation table to the graph: the forward pass, the backward pass over it, and the tangent pass.

Every forward equation gives its operators and arrows. The backward pass is the same arrows reversed, wherever something
that has a gradient lies behind them; the part of dX that comes along an arrow is found among the terms of its equation.
"""

from collections.abc import Iterator

from ..equations import Equation, Symbol, Table, Term
from ..equations.tangent import tangents
from .model import Edge, Graph, Line, Node
from .operators import operators


def graph_of(table: Table, backward: bool, tangent: bool) -> Graph:
    """Nodes, edges and equations of a table.

    Raises:
        ValueError: as of `tangents`.
    """
    forward = [equation for equation in table if equation.direction == "forward"]
    nodes = [_given(symbol) for symbol in table.givens]
    edges: list[Edge] = []
    for equation in forward:
        made = operators(equation)
        nodes += [*made.nodes, _variable(equation)]
        edges += made.edges
    moving = frozenset(_moving(table, edges))
    lines = [_line(equation, equation.direction) for equation in table]
    flown: list[Edge] = []
    if backward:
        flown += _backward(table, [edge for edge in edges if edge.source in moving])
    else:
        lines = [line for line in lines if line.direction == "forward"]
    if tangent:
        derived = tangents(table)
        lines += [_line(equation, "tangent") for equation in derived]
        flown += _tangent(table, derived, [edge for edge in edges if edge.source in moving])
    words = {"φ": table.activation, "l": table.loss}
    title = f"one hidden layer, φ = {table.activation}, l = {table.loss}"
    return Graph(title, words, tuple(nodes), (*edges, *flown), tuple(lines))


def _given(symbol: Symbol) -> Node:
    kind = "variable" if "B" in symbol.shape else "parameter"
    return Node(symbol.name, kind, symbol.name, symbol.latex, symbol.shape, "", symbol.meaning)  # type: ignore[arg-type]


def _variable(equation: Equation) -> Node:
    symbol = equation.lhs
    return Node(symbol.name, "variable", symbol.name, symbol.latex, symbol.shape, symbol.name, symbol.meaning)


def _line(equation: Equation, direction: str) -> Line:
    return Line(
        equation.symbol, direction, equation.label, equation.text, equation.latex, equation.shape,  # type: ignore[arg-type]
        equation.inputs,
    )  # fmt: skip


def _moving(table: Table, edges: list[Edge]) -> set[str]:
    """The nodes that depend on something whose gradient the table has (y and its like do not)."""
    moving = {given.name for given in table.givens if _has(table, f"d{given.name}")}
    for edge in edges:  # in an order in which they can be computed
        if edge.source in moving:
            moving.add(edge.target)
    return moving


def _has(table: Table, symbol: str) -> bool:
    return any(equation.symbol == symbol for equation in table)


def _backward(table: Table, edges: list[Edge]) -> Iterator[Edge]:
    for edge in reversed(edges):
        into = edge.equation  # the Y of the equation Y = … that the arrow belongs to
        symbol = _symbol(table, edge.source)
        if symbol is None:  # an operator hands dY on
            yield Edge(edge.target, edge.source, "backward", _name(table, f"d{into}"), f"d{into}", table[into].shape)
            continue
        name, shape = f"d{edge.source}", symbol.shape
        if _has(table, name):
            equation = table[name]
            parts = [term for term in equation.terms if _comes_from(table, term, edge.source) == into]
            text = f"{name} = {_sum(parts)}" if parts else name
            yield Edge(edge.target, edge.source, "backward", name, text, shape)
        else:
            yield Edge(edge.target, edge.source, "backward", "", _unwritten(table, edge.source, into), shape)


def _name(table: Table, symbol: str) -> str:
    return symbol if _has(table, symbol) else ""


def _symbol(table: Table, name: str) -> Symbol | None:
    """The tensor of this name; None for an operator."""
    tensors = (*table.givens, *(equation.lhs for equation in table))
    return next((symbol for symbol in tensors if symbol.name == name), None)


def _sum(terms: list[Term]) -> str:
    """The terms with their signs."""
    head, *tail = terms
    return ("-" if head.negative else "") + head.text + "".join(
        f" {'-' if term.negative else '+'} {term.text}" for term in tail
    )  # fmt: skip


def _comes_from(table: Table, term: Term, source: str) -> str:
    """The Y through whose equation this term of ∂J/∂X comes: it holds dY; or both have λ; or nothing else is left."""
    readers = [e for e in table if e.direction == "forward" and source in e.tensors]
    upstream = {factor.symbol.name for factor in term.factors}
    for reader in readers:
        if f"d{reader.symbol}" in upstream:
            return reader.symbol
    by_penalty = [r.symbol for r in readers if ("weight_decay" in r.inputs) == term.coefficient.penalty]
    return by_penalty[0] if by_penalty else ""


def _unwritten(table: Table, source: str, into: str) -> str:
    """∂J/∂X where the table has no equation for it: dL = 1, since J = L + s."""
    terms = [term for term in table[into].terms if source in {factor.symbol.name for factor in term.factors}]
    last = not any(into in e.tensors for e in table if e.direction == "forward")
    if last and len(terms) == 1 and terms[0].coefficient.is_one and terms[0].text == source:
        return f"d{source} = 1"
    return f"d{source}"


def _tangent(table: Table, derived: tuple[Equation, ...], edges: list[Edge]) -> Iterator[Edge]:
    """Beside each arrow the tangent of what goes along it."""
    shapes = {equation.symbol: equation.shape for equation in derived}
    for edge in edges:
        name = f"t{edge.equation}"
        ends = edge.target == edge.equation
        line = next(equation for equation in derived if equation.symbol == name)
        text = line.text if ends else f"t{edge.source}" if _symbol(table, edge.source) else ""
        yield Edge(edge.source, edge.target, "tangent", name, text, shapes[name] if ends else edge.shape)
