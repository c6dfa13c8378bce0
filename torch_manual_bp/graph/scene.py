"""The picture before it is written: places in pixels, arrows, and a free place for each label."""

from collections.abc import Iterator
from dataclasses import dataclass

from .captions import SIZE
from .geometry import CIRCLE, SQUARE, Box, Point, around, arrow
from .labels import Label, Strictness, placed_labels
from .layout import places
from .model import Edge, Graph, Node
from .typeset import Runs, plain, width

WIDTH = 800.0
_LEFT, _RIGHT, _TOP = 32.0, 72.0, 44.0  # J's and the penalty's labels stand to their right
_WIDEST = 104.0  # of a column
_ROW = 72.0
_SHIFT = {"forward": 0.0, "backward": 5.5, "tangent": -5.5}


@dataclass(frozen=True)
class Scene:
    """All that a picture is made of, in pixels."""

    graph: Graph
    centres: dict[str, Point]
    arrows: tuple[tuple[Edge, tuple[Point, ...]], ...]
    labels: tuple[Label, ...]
    header: tuple[tuple[Runs, float, Point], ...]
    floor: float
    complete: bool = True

    def box(self, node: Node) -> Box:
        """The node's extents."""
        return around(self.centres[node.id], half_of(node))


def half_of(node: Node) -> float:
    """Half a side of the square, or the radius."""
    return CIRCLE if node.kind == "operator" else SQUARE


def scene_of(graph: Graph) -> Scene:
    """Nodes, arrows and labels with no two of them over each other: rows move apart until all labels have room."""
    rows = [_ROW * 1.08**step for step in range(12)]
    attempts: list[tuple[float, Strictness]] = [(row, "good side") for row in rows[:5]]
    attempts += [(row, "clear of arrows") for row in rows]
    for row, strictness in attempts:
        scene = _scene(graph, row, strictness)
        if scene.complete:
            return scene
    return _scene(graph, rows[-1], "over arrows")


def _scene(graph: Graph, row: float, strictness: Strictness) -> Scene:
    """The scene with rows this high."""
    placed = places(graph)
    last = max(place.column for place in placed.values())
    top = max(place.row for place in placed.values())
    column = min(_WIDEST, (WIDTH - _LEFT - _RIGHT) / last)
    indent = _LEFT + (WIDTH - _LEFT - _RIGHT - column * last) / 2
    header = tuple(_header(graph))
    title = Box(0, 0, max(20 + width(runs, size) for runs, size, _ in header), header[-1][2].y + 8)
    high = _TOP
    for down in (0.0, title.bottom):  # beside the picture's upper left if there is room, else above it
        high = _TOP + down
        centres = {
            name: Point(indent + place.column * column, high + (top - place.row) * row)
            for name, place in placed.items()
        }
        if not any(around(centre, SQUARE + 8).overlaps(title) for centre in centres.values()):
            break
    half = {node.id: -CIRCLE if node.kind == "operator" else SQUARE for node in graph.nodes}
    arrows = tuple((edge, _way(edge, centres, half)) for edge in graph.edges)
    boxes = {node.id: around(centres[node.id], half_of(node)) for node in graph.nodes}
    labels, complete = placed_labels(graph, boxes, [way for _, way in arrows], title, WIDTH, strictness)
    floor = max([high + top * row + SQUARE, *(label.box.bottom for label in labels)])
    return Scene(graph, centres, arrows, labels, header, floor, complete)


def _way(edge: Edge, centres: dict[str, Point], half: dict[str, float]) -> tuple[Point, ...]:
    shift = _SHIFT[edge.direction]
    if edge.direction == "backward":
        way = arrow(centres[edge.target], centres[edge.source], (half[edge.target], half[edge.source]), shift)
        return way[::-1]
    return arrow(centres[edge.source], centres[edge.target], (half[edge.source], half[edge.target]), shift)


def _header(graph: Graph) -> Iterator[tuple[Runs, float, Point]]:
    y = 26.0
    for number, text in enumerate((graph.title, *graph.totals)):
        size = 14.0 if number == 0 else SIZE
        yield plain(text), size, Point(20, y)
        y += 1.5 * SIZE
