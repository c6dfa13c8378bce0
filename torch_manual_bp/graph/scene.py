"""The picture before it is written: places in pixels, arrows, and a free place for each label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .captions import LEADING, SIZE, Block, block
from .geometry import CIRCLE, SQUARE, Box, Point, around, arrow, boxes_of
from .layout import places, way_to_j
from .model import Edge, Graph, Node
from .typeset import ASCENT, Runs, plain, width

WIDTH = 800.0
_LEFT, _RIGHT, _TOP = 32.0, 72.0, 44.0  # J's and the penalty's labels stand to their right
_WIDEST = 104.0  # of a column
_ROW = 72.0
_SHIFT = {"forward": 0.0, "backward": 5.5, "tangent": -5.5}
_GAPS = (6.0, 10.0, 16.0, 24.0)  # between a node and its label
_NARROWER = 7.0  # what is against breaking lines once more
_CLEAR, _APART = 3.0, 7.0  # between a label and all else, between labels
_MOST = (300.0, 190.0, 128.0, 104.0)  # how wide a label may be: as wide as there is room for


@dataclass(frozen=True)
class Label:
    """A block of lines at its place; ``end``: set flush right."""

    block: Block
    box: Box
    end: bool

    def baselines(self) -> Iterator[tuple[float, float]]:
        """Where each line begins (or ends, flush right): x and baseline."""
        x = self.box.right if self.end else self.box.left
        for number in range(len(self.block.lines)):
            yield x, self.box.top + SIZE * (ASCENT + LEADING * number)


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
    return next((scene for row in rows if (scene := _scene(graph, row, strict=True)).complete), None) or _scene(
        graph, rows[-1], strict=False
    )


def _scene(graph: Graph, row: float, strict: bool) -> Scene:
    """The scene with rows this high; not ``strict``: labels may lie over arrows."""
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
    floor = high + top * row + SQUARE
    scene = Scene(graph, centres, arrows, (), header, floor)
    return _with_labels(scene, title, strict)


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


def _with_labels(scene: Scene, title: Box, strict: bool) -> Scene:
    """Each label at the nearest free place, the largest first."""
    taken = [scene.box(node).grown(_CLEAR) for node in scene.graph.nodes]
    if strict:
        taken += [box for _, way in scene.arrows for box in boxes_of(way, _CLEAR)]
    taken.append(title.grown(_CLEAR))
    below_way = _hangs_below(scene.graph)
    labels, complete = [], True
    variants = [[made for most in _MOST if (made := block(scene.graph, node, most))] for node in scene.graph.nodes]
    for of_node in sorted(filter(None, variants), key=lambda blocks: -blocks[0].width * blocks[0].height):
        found = [_free(scene, made, taken, made.node in below_way) for made in of_node]
        rated = [(cost + _NARROWER * step, label) for step, (cost, label) in enumerate(found) if label is not None]
        if not rated:
            complete = False
            continue
        _, label = min(rated, key=lambda pair: pair[0])
        labels.append(label)
        taken.append(label.box.grown(_APART))
    floor = max([scene.floor, *(label.box.bottom for label in labels)])
    return replace(scene, labels=tuple(labels), floor=floor, complete=complete)


def _free(scene: Scene, block: Block, taken: Sequence[Box], below_way: bool) -> tuple[float, Label | None]:
    """The best free place, with how much is against it."""
    for cost, label in sorted(_candidates(scene, block, below_way), key=lambda candidate: candidate[0]):
        inside = label.box.left >= 5 and label.box.right <= WIDTH - 5 and label.box.top >= 5
        if inside and not any(label.box.overlaps(box) for box in taken):
            return cost, label
    return 0.0, None


def _candidates(scene: Scene, block: Block, below_way: bool) -> Iterator[tuple[float, Label]]:
    """Places around a node with how much is against each."""
    node = scene.graph.node(block.node)
    box, (x, y) = scene.box(node), scene.centres[block.node]
    wide, high = block.width, block.height
    for gap in _GAPS:
        for step in range(-6, 7):
            above = y + step * (high + 2 * SQUARE) / 12 - high / 2
            for left in (box.left - gap - wide, box.right + gap):
                yield _rated(block, Point(left, above), left < x, (x, y), below_way)
        for step in range(11):
            left = box.left - wide + step * (wide + 2 * SQUARE) / 10
            for above in (box.top - gap - high, box.bottom + gap):
                yield _rated(block, Point(left, above), left + wide / 2 < x - 1, (x, y), below_way)


def _rated(block: Block, corner: Point, end: bool, centre: tuple[float, float], below_way: bool) -> tuple[float, Label]:
    """A place by its upper left corner: near is good, and so is the side on which the picture is empty."""
    x, y = centre
    box = Box(*corner, corner.x + block.width, corner.y + block.height)
    middle = Point((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    cost = box.distance(Point(x, y)) + 0.15 * (abs(middle.y - y) + 0.3 * abs(middle.x - x))
    upper_left = middle.x < x - 8 and middle.y < y + 8
    return cost + 14 * (upper_left == below_way), Label(block, box, end)


def _hangs_below(graph: Graph) -> set[str]:
    """What is below the way from x to J: its labels go to its lower right, those of the way to its upper left."""
    x, *way = way_to_j(graph)
    taken_in = {node.id for node in graph.nodes if node.kind == "variable" and not node.equation}
    return {x} | {node.id for node in graph.nodes if node.id not in {*way, *taken_in}}
