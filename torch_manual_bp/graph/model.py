"""The graph as data: nodes, edges, equations and what is known about them. All outputs read this and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Pass = Literal["forward", "backward", "tangent"]
Shape = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """A square or a circle.

    Attributes:
        id: a variable's name; of an operator the name of what its equation gives, and a number: ``"z-1"``.
        kind: "variable" (x, y and what equations give), "parameter", or "operator".
        text: what stands in it: ``"z"``, ``"×"``, ``"λ/2"``.
        latex: the same in the chapter's letters.
        shape: of a variable or a parameter, in sizes or numbers.
        equation: the name of what the equation gives to which it belongs; empty for x, y and the parameters.
        meaning: in words.
    """

    id: str
    kind: Literal["variable", "parameter", "operator"]
    text: str
    latex: str
    shape: Shape
    equation: str
    meaning: str


@dataclass(frozen=True)
class Edge:
    """An arrow.

    Attributes:
        source: a node's id; of the backward pass one that is nearer to J.
        target: a node's id.
        direction: the pass it belongs to.
        equation: the name of what the equation gives to which it belongs; empty where the table has none.
        text: what goes along it: ``"w1ᵀ"`` forward, ``"dw2 = doᵀ h"`` backward, the part of the equation that comes
            this way.
        shape: of what goes along it.
    """

    source: str
    target: str
    direction: Pass
    equation: str
    text: str
    shape: Shape


@dataclass(frozen=True)
class Line:
    """An equation: the name of what it gives, its pass, its label in the chapter, text, LaTeX, shape and inputs."""

    symbol: str
    direction: Pass
    label: str
    text: str
    latex: str
    shape: Shape
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What is known about a tensor.

    Attributes:
        bytes: what it takes, as the memory plan has it.
        kept: "kept" if it waits for the backward pass, "kept as Ĝ" if something made of it does, in its place;
            "read again" if the backward pass reads it and it is there anyway.
        norm: ‖·‖ of its value, after a run.
        error: largest error against autograd, over the largest value.
        wrong: whether its equation is.
    """

    bytes: int | None = None
    kept: str = ""
    norm: float | None = None
    error: float | None = None
    wrong: bool = False


UNKNOWN = Facts()


@dataclass(frozen=True)
class Graph:
    """Everything that is drawn.

    Attributes:
        title: the net and the objective.
        words: what φ and l are, by the text in the circle.
        nodes: in an order in which they can be computed.
        edges: forward, then backward, then tangent.
        lines: the equations, in the table's order; the tangents last.
        facts: by a tensor's name.
        totals: bytes of prediction and of training, in words.
    """

    title: str
    words: Mapping[str, str]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    lines: tuple[Line, ...]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    totals: tuple[str, ...] = ()

    def node(self, id: str) -> Node:
        """The node of this id."""
        return next(node for node in self.nodes if node.id == id)

    def of_pass(self, direction: Pass) -> tuple[Edge, ...]:
        """The edges of a pass."""
        return tuple(edge for edge in self.edges if edge.direction == direction)

    def line(self, symbol: str) -> Line | None:
        """The equation that gives this, if there is one."""
        return next((line for line in self.lines if line.symbol == symbol), None)

    def about(self, symbol: str) -> Facts:
        """What is known about this tensor."""
        return self.facts.get(symbol, UNKNOWN)
