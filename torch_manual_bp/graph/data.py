"""The graph as JSON, and back."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Any

from .model import Edge, Facts, Graph, Line, Node

_NUMBERS = ("norm", "error")


def as_json(graph: Graph) -> str:
    """All that the graph holds: title, words, nodes, edges, lines (the equations), facts, totals."""
    data = asdict(graph)
    for facts in data["facts"].values():
        for name in _NUMBERS:  # JSON has no number for what overflowed
            if facts[name] is not None and not isfinite(facts[name]):
                facts[name] = str(facts[name])
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


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
            {name: Facts(**_numbers(facts)) for name, facts in data["facts"].items()},
            tuple(data["totals"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"from_json: expected the JSON of a graph, got one without {error}") from None


def _numbers(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if name in _NUMBERS and value is not None else value for name, value in facts.items()}


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
