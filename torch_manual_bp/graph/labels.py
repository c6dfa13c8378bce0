"""A free place for each label: near its node, over nothing, and on the side where the picture is empty."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .captions import LEADING, SIZE, Block, block
from .geometry import SQUARE, Box, Point, boxes_of
from .layout import way_to_j
from .model import Graph
from .typeset import ASCENT

Strictness = Literal["good side", "clear of arrows", "over arrows"]
Side = Literal["upper left", "lower right", "any"]

_MARGIN = 5.0  # of the picture
_CLEAR, _APART = 3.0, 7.0  # between a label and all else, between labels
_GAPS = (6.0, 10.0, 16.0, 24.0)  # between a node and its label
_MOST = (300.0, 190.0, 128.0, 104.0)  # how wide a label may be
_NARROWER, _WRONG_SIDE = 7.0, 14.0  # what is against breaking lines once more, against the other side


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


def placed_labels(
    graph: Graph, boxes: Mapping[str, Box], ways: Sequence[Sequence[Point]], title: Box, width: float,
    strictness: Strictness,
) -> tuple[tuple[Label, ...], bool]:  # fmt: skip
    """Each label at the best free place, the largest first; and whether each found one.

    Args:
        graph: what is said beside its nodes.
        boxes: the nodes' extents.
        ways: the arrows.
        title: what else is taken.
        width: the picture's.
        strictness: what a place must be.
    """
    taken = [title.grown(_CLEAR), *(box.grown(_CLEAR) for box in boxes.values())]
    if strictness != "over arrows":
        taken += [box for way in ways for box in boxes_of(way, _CLEAR)]
    sides = _sides(graph)
    variants = [[made for most in _MOST if (made := block(graph, node, most))] for node in graph.nodes]
    said = sorted(filter(None, variants), key=lambda blocks: -blocks[0].width * blocks[0].height)
    labels = []
    for blocks in said:
        found = []
        for step, made in enumerate(blocks):
            best = _best(made, boxes[made.node], sides[made.node], taken, width, strictness == "good side")
            if best is not None:
                found.append((best[0] + _NARROWER * step, best[1]))
        if found:
            _, label = min(found, key=lambda pair: pair[0])
            labels.append(label)
            taken.append(label.box.grown(_APART))
    return tuple(labels), len(labels) == len(said)


def _sides(graph: Graph) -> dict[str, Side]:
    """What is below the way from x to J has its label to the lower right, the way itself to the upper left."""
    x, *way, J = way_to_j(graph)
    sides: dict[str, Side] = {}
    for node in graph.nodes:
        above = node.id in way or (node.kind == "variable" and not node.equation)
        sides[node.id] = "upper left" if above else "lower right"
    return {**sides, x: "lower right", J: "any"}


def _best(
    block: Block, node: Box, side: Side, taken: Sequence[Box], width: float, held: bool
) -> tuple[float, Label] | None:
    """The best free place, with how much is against it."""
    rated = [_rated(label, node, side) for label in _candidates(block, node)]
    for cost, good, label in sorted(rated, key=lambda place: place[0]):
        box = label.box
        inside = box.left >= _MARGIN and box.right <= width - _MARGIN and box.top >= _MARGIN
        if inside and (good or not held) and not any(box.overlaps(other) for other in taken):
            return cost, label
    return None


def _candidates(block: Block, node: Box) -> Iterator[Label]:
    """Places round a node."""
    wide, high = block.width, block.height
    x, y = (node.left + node.right) / 2, (node.top + node.bottom) / 2

    def label(left: float, top: float, end: bool) -> Label:
        return Label(block, Box(left, top, left + wide, top + high), end)

    for gap in _GAPS:
        for step in range(-6, 7):
            above = y + step * (high + 2 * SQUARE) / 12 - high / 2
            yield label(node.left - gap - wide, above, True)
            yield label(node.right + gap, above, False)
        for step in range(11):
            left = node.left - wide + step * (wide + 2 * SQUARE) / 10
            for above in (node.top - gap - high, node.bottom + gap):
                yield label(left, above, left + wide / 2 < x - 1)


def _rated(label: Label, node: Box, side: Side) -> tuple[float, bool, Label]:
    """How much is against a place, and whether it is on the good side."""
    box = label.box
    x, y = (node.left + node.right) / 2, (node.top + node.bottom) / 2
    right, down = (box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y
    cost = box.distance(Point(x, y)) + 0.15 * (abs(down) + 0.3 * abs(right))
    at: Side = "upper left" if right < -8 and down < 8 else "lower right"
    good = side in (at, "any")
    return cost + (0 if good else _WRONG_SIDE), good, label
