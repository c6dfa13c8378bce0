"""What is written beside a node: shape, bytes, what came out of a run, the equations of its gradient and tangent."""

from collections.abc import Iterator
from typing import NamedTuple

from .model import Facts, Graph, Node, Shape
from .typeset import ASCENT, DESCENT, Runs, equation_runs, plain, width, wrapped

SIZE = 12.0  # of the letters: at 800 pixels this is what one sees
LEADING = 1.24


class Caption(NamedTuple):
    """A line: its letters, and the class that says what it is: "shape", "value", "backward", "tangent", "wrong"."""

    runs: Runs
    kind: str


class Block(NamedTuple):
    """The lines beside a node, with their extents."""

    node: str
    lines: tuple[Caption, ...]

    @property
    def width(self) -> float:
        """That of the longest line."""
        return max(width(line.runs, SIZE) for line in self.lines)

    @property
    def height(self) -> float:
        """From the top of the first line to the bottom of the last."""
        return SIZE * (LEADING * (len(self.lines) - 1) + ASCENT + DESCENT)


def block(graph: Graph, node: Node, most: float) -> Block | None:
    """What there is to say about a node, in lines that are no wider where they can be broken."""
    lines = [
        Caption(runs, line.kind) for line in _lines(graph, node) for runs in wrapped(line.runs, SIZE, most)
    ]  # fmt: skip
    return Block(node.id, tuple(lines)) if lines else None


def shape_text(shape: Shape) -> str:
    """``(B, h)``; nothing for a number."""
    return f"({', '.join(map(str, shape))})" if shape else ""


def bytes_text(size: int) -> str:
    """Three digits and a unit: ``131 kB``."""
    value, unit = float(size), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    return f"{value:.3g} {unit}"


def value_text(name: str, facts: Facts, number: bool) -> str:
    """``‖z‖ = 12.3 · error 2e-16``; of a number its value, none of which is negative here."""
    if facts.norm is None:
        return ""
    text = f"{name if number else f'‖{name}‖'} = {facts.norm:.3g}"
    return text if facts.error is None else f"{text} · error {facts.error:.0e}".replace(" 0e+00", " 0")


def symbols_of(graph: Graph) -> dict[str, str]:
    """LaTeX of all tensors by name."""
    return {node.id: node.latex for node in graph.nodes if node.kind != "operator"}


def _lines(graph: Graph, node: Node) -> Iterator[Caption]:
    if node.kind == "operator":
        if node.text in graph.words:
            yield Caption(plain(graph.words[node.text]), "shape")
        return
    facts, symbols = graph.about(node.id), symbols_of(graph)
    first = [shape_text(node.shape)] if node.shape else []
    first += [bytes_text(facts.bytes)] if facts.bytes is not None and node.shape else []
    if first:
        yield Caption(plain(" · ".join(first)), "shape")
    if facts.wrong and (line := graph.line(node.id)):
        yield Caption(equation_runs(line.text, symbols), "wrong")
    yield from _value(node, node.id, facts, symbols)
    yield from _adjoint(graph, node, symbols)
    if tangent := graph.line(f"t{node.id}"):
        yield Caption(equation_runs(tangent.text, symbols), "tangent")
    elif any(edge.direction == "tangent" and edge.source == node.id for edge in graph.edges):
        yield Caption(equation_runs(f"t{node.id}", symbols), "tangent")


def _adjoint(graph: Graph, node: Node, symbols: dict[str, str]) -> Iterator[Caption]:
    name = f"d{node.id}"
    line, facts = graph.line(name), graph.about(name)
    if line is not None:
        runs = (*equation_runs(line.text, symbols), *plain(f"  {shape_text(node.shape)}"))
        yield Caption(runs, "wrong" if facts.wrong else "backward")
        yield from _value(node, name, facts, symbols)
        return
    unwritten = {edge.text for edge in graph.of_pass("backward") if edge.target == node.id and "=" in edge.text}
    for text in sorted(unwritten):
        yield Caption(equation_runs(text, symbols), "backward")


def _value(node: Node, name: str, facts: Facts, symbols: dict[str, str]) -> Iterator[Caption]:
    if text := value_text(name, facts, number=not node.shape):
        yield Caption(equation_runs(text, symbols), "wrong" if facts.wrong else "value")
