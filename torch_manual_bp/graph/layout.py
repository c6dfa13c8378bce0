"""Where nodes stand: the way from x to J is a staircase that only goes right and up, as in the chapter's picture.

Products and the last sum run to the right, elementwise steps rise. Parameters stand below the operator that takes them,
so that their arrows go up; what is off that way (the penalty) runs below it and rises where J takes it.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from .model import Edge, Graph

_DEEP = 2  # rows between a parameter that others read too and its operator: room for its equation


class Place(NamedTuple):
    """Column from the left and row from below, in steps of the grid."""

    column: float
    row: float


def places(graph: Graph) -> dict[str, Place]:
    """A place for each node, no two the same; every forward arrow goes right, up, or both."""
    edges = graph.of_pass("forward")
    spine = way_to_j(graph)
    placed = _staircase(graph, spine)
    _beside(edges, placed)
    _off_the_way(graph, edges, placed)
    left, low = (min(place[axis] for place in placed.values()) for axis in (0, 1))
    return {name: Place(place.column - left, place.row - low) for name, place in placed.items()}


def way_to_j(graph: Graph) -> list[str]:
    """The most nodes that follow each other, from an input to J; of several ways the one of the first input."""
    before: dict[str, list[str]] = defaultdict(list)
    for edge in graph.of_pass("forward"):
        before[edge.target].append(edge.source)

    @cache
    def way(name: str) -> tuple[str, ...]:
        return (*max((way(source) for source in before[name]), key=len, default=()), name)

    return list(way(graph.nodes[-1].id))


def _staircase(graph: Graph, spine: list[str]) -> dict[str, Place]:
    column = row = 0
    placed = {spine[0]: Place(0, 0)}
    products = {node.equation for node in graph.nodes if node.text == "×"}
    for name in spine[1:]:
        if graph.node(name).equation in products | {graph.nodes[-1].equation}:
            column += 1
        else:
            row += 1
        placed[name] = Place(column, row)
    return placed


def _beside(edges: tuple[Edge, ...], placed: dict[str, Place]) -> None:
    """What nothing gives, beside the operator that takes it: left of one on a rise, below one on a run."""
    given = {edge.source for edge in edges} - {edge.target for edge in edges} - set(placed)
    came_from = {edge.target: placed[edge.source] for edge in edges if edge.source in placed and edge.target in placed}
    for edge in edges:
        if edge.source not in given or edge.source in placed or edge.target not in placed:
            continue
        at = placed[edge.target]
        rises = came_from[edge.target].row < at.row
        readers = sum(other.source == edge.source for other in edges)
        free = {place for place in placed.values()}
        place = Place(at.column - 1, at.row) if rises else Place(at.column, at.row - (_DEEP if readers > 1 else 1))
        while place in free:
            place = Place(place.column, place.row - 1) if not rises else Place(place.column - 1, place.row)
        placed[edge.source] = place


def _off_the_way(graph: Graph, edges: tuple[Edge, ...], placed: dict[str, Place]) -> None:
    """The equations whose result joins the way from below: operators right of what they take, the rest in a column."""
    for equation in dict.fromkeys(node.equation for node in graph.nodes if node.id not in placed):
        chain: list[str] = []
        for node in graph.nodes:
            if node.equation != equation or node.id in placed:
                continue
            takes = [edge.source for edge in edges if edge.target == node.id]
            if node.kind == "operator" and len(takes) == 1 and takes[0] in placed and takes[0] not in chain:
                at = placed[takes[0]]
                placed[node.id] = Place(at.column + 1, at.row)
            else:
                chain.append(node.id)
        _rise(chain, edges, placed)


def _rise(chain: list[str], edges: tuple[Edge, ...], placed: dict[str, Place]) -> None:
    if not chain:
        return
    (joined,) = {edge.target for edge in edges if edge.source == chain[-1]}
    top = placed[joined]
    start = max(
        (placed[edge.source].row for edge in edges if edge.target in chain and edge.source in placed), default=0
    )
    step = min(1.0, (top.row - start) / len(chain))
    for position, name in enumerate(chain):
        placed[name] = Place(top.column, start + step * position)


def grid(placed: Mapping[str, Place]) -> tuple[list[float], list[float]]:
    """The columns and the rows that are in use, in order."""
    return sorted({place.column for place in placed.values()}), sorted({place.row for place in placed.values()})
