"""Boxes, and arrows that end at the border of what they point to."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

SQUARE, CIRCLE = 19.0, 15.0  # half a side, and a radius


class Point(NamedTuple):
    """In pixels, y downwards."""

    x: float
    y: float


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether they have an area in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def grown(self, by: float) -> "Box":
        """The box with so much more on each side."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def distance(self, point: Point) -> float:
        """From the point to the nearest of the box."""
        across = max(self.left - point.x, 0.0, point.x - self.right)
        down = max(self.top - point.y, 0.0, point.y - self.bottom)
        return sqrt(across * across + down * down)


def around(centre: Point, half: float) -> Box:
    """A square."""
    return Box(centre.x - half, centre.y - half, centre.x + half, centre.y + half)


def arrow(source: Point, target: Point, half: tuple[float, float], shift: float) -> tuple[Point, ...]:
    """From border to border: right and then up, ``shift`` pixels to the left of the straight way.

    Args:
        source: a node's centre.
        target: another's, not to the left of it and not below.
        half: of both how far their border is: a square's half side; a circle's radius, negative.
        shift: a second arrow between the same nodes runs beside the first.
    """
    out, into = (_reach(size, shift) for size in half)
    if source.y == target.y:  # to the right: left of that is above
        return Point(source.x + out, source.y - shift), Point(target.x - into, source.y - shift)
    if source.x == target.x:
        return Point(source.x - shift, source.y - out), Point(source.x - shift, target.y + into)
    corner = Point(target.x - shift, source.y - shift)
    return Point(source.x + out, source.y - shift), corner, Point(target.x - shift, target.y + into)


def _reach(half: float, shift: float) -> float:
    return half if half > 0 else sqrt(half * half - shift * shift)


def boxes_of(way: Sequence[Point], thick: float) -> list[Box]:
    """A box for each straight part of an arrow."""
    return [Box(min(a.x, b.x), min(a.y, b.y), max(a.x, b.x), max(a.y, b.y)).grown(thick) for a, b in pairwise(way)]
