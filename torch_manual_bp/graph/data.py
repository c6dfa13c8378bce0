"""The graph as JSON, and back."""

import json
from dataclasses import asdict
from typing import Any

from .model import Edge, Facts, Graph, Line, Node


def as_json(graph: Graph) -> str:
    """All that the graph holds: title, words, nodes, edges, lines (the equations), facts, totals."""
    return json.dumps(asdict(graph), ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> Graph:
    """The graph again.

    Raises:
        ValueError: no JSON of a graph.
    """
    try:
        data = json.loads(text)
        return Graph(
            data["title"],
            data["words"],
            tuple(Node(**_tuples(node)) for node in data["nodes"]),
            tuple(Edge(**_tuples(edge)) for edge in data["edges"]),
            tuple(Line(**_tuples(line)) for line in data["lines"]),
            {name: Facts(**facts) for name, facts in data["facts"].items()},
            tuple(data["totals"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"from_json: expected the JSON of a graph, got one without {error}") from None


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
