"""The graph for Mermaid, which code hosts and notebooks render from text."""

from collections.abc import Iterator

from .captions import bytes_text, shape_text, value_text
from .model import Edge, Graph, Node

_ARROWS = {"forward": "-->", "backward": "-.->", "tangent": "==>"}
_CLASSES = (
    "classDef parameter fill:#b6daf7,stroke:#1f2328,color:#1f2328",
    "classDef kept stroke:#6639ba,stroke-width:3px",
    "classDef wrong stroke:#d1242f,stroke-width:4px",
)


def mermaid(graph: Graph) -> str:
    """A ``flowchart``."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    yield "---"
    yield f"title: {_quoted(graph.title)}"
    yield "---"
    yield "flowchart LR"
    for node in graph.nodes:
        yield f"  {_id(node.id)}{_shape(graph, node)}"
    for edge in graph.edges:
        label = f"|{_quoted(_label(edge))}|" if edge.text else ""
        yield f"  {_id(edge.source)} {_ARROWS[edge.direction]}{label} {_id(edge.target)}"
    for name in _CLASSES:
        yield f"  {name}"
    for kind, nodes in _members(graph).items():
        if nodes:
            yield f"  class {','.join(nodes)} {kind}"
    wrong = [
        number for number, edge in enumerate(graph.edges)
        if edge.direction != "forward" and "=" in edge.text and graph.about(edge.equation).wrong
    ]  # fmt: skip
    if wrong:
        yield f"  linkStyle {','.join(map(str, wrong))} stroke:#d1242f,color:#d1242f,stroke-width:3px"


def _members(graph: Graph) -> dict[str, list[str]]:
    return {
        "parameter": [_id(node.id) for node in graph.nodes if node.kind == "parameter"],
        "kept": [_id(node.id) for node in graph.nodes if graph.about(node.id).kept.startswith("kept")],
        "wrong": [_id(node.id) for node in graph.nodes if graph.about(node.id).wrong],
    }


def _label(edge: Edge) -> str:
    return edge.text if edge.direction == "forward" else f"{edge.text} {shape_text(edge.shape)}".strip()


def _id(name: str) -> str:
    """``n_`` before it: Mermaid has words of its own, such as o and x at the end of an arrow."""
    return f"n_{name.replace('-', '_')}"


def _shape(graph: Graph, node: Node) -> str:
    if node.kind == "operator":
        return f"(({_quoted(graph.words.get(node.text, node.text))}))"
    facts = graph.about(node.id)
    lines = [f"{node.text} {shape_text(node.shape)}".strip()]
    lines += [bytes_text(facts.bytes)] if facts.bytes is not None else []
    lines += [value_text(node.id, facts, number=not node.shape)] if facts.norm is not None else []
    return f"[{_quoted('<br/>'.join(lines))}]"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'
