"""The graph for a terminal: the picture in letters, then the equations, what they take, and what came out."""

from collections.abc import Iterator, Sequence

from .captions import bytes_text, shape_text
from .layout import grid, places
from .model import Graph, Node

_CELL = 7  # letters of a column: a node and the arrow to the next
_RIGHT, _UP, _LINE, _RISE, _TURN = "▸", "▴", "─", "│", "┘"


def text(graph: Graph) -> str:
    """Some lines of text."""
    parts = [[graph.title, *graph.totals], _picture(graph), ["[variable]  {parameter}  (operator)"]]
    for direction, title in (("forward", "forward"), ("backward", "backward, dX = ∂J/∂X"), ("tangent", "tangent")):
        rows = list(_rows(graph, direction))
        if rows:
            parts.append([title, *_columns(rows)])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _picture(graph: Graph) -> list[str]:
    placed = places(graph)
    columns, rows = grid(placed)
    at = {name: (columns.index(place.column), rows.index(place.row)) for name, place in placed.items()}
    height = 2 * len(rows) - 1
    canvas = [[" "] * (_CELL * len(columns)) for _ in range(height)]

    def middle(name: str) -> tuple[int, int]:
        column, row = at[name]
        return _CELL * column + _CELL // 2, height - 1 - 2 * row

    for edge in graph.of_pass("forward"):
        _arrow(canvas, middle(edge.source), middle(edge.target), _half(graph, edge.source), _half(graph, edge.target))
    for node in graph.nodes:
        x, y = middle(node.id)
        shown = _shown(node)
        canvas[y][x - len(shown) // 2 : x - len(shown) // 2 + len(shown)] = shown
    return ["".join(line).rstrip() for line in canvas]


def _shown(node: Node) -> str:
    return {"variable": "[%s]", "parameter": "{%s}", "operator": "(%s)"}[node.kind] % node.text


def _half(graph: Graph, name: str) -> int:
    """How far a node reaches to its right from its middle."""
    length = len(_shown(graph.node(name)))
    return length - length // 2 - 1


def _arrow(canvas: list[list[str]], start: tuple[int, int], end: tuple[int, int], out: int, into: int) -> None:
    (x, y), (to_x, to_y) = start, end
    if x != to_x:
        stop = to_x if y != to_y else to_x - into - 1
        for at in range(x + out + 1, stop):
            canvas[y][at] = _LINE
        if y == to_y:
            canvas[y][stop - (into == 0) if canvas[y][stop] != " " else stop] = _RIGHT
        else:
            canvas[y][to_x] = _TURN
    if y != to_y:
        for at in range(to_y + 1, y):
            canvas[at][to_x] = _RISE
        if x == to_x or y - to_y > 1:
            canvas[to_y + 1][to_x] = _UP


def _rows(graph: Graph, direction: str) -> Iterator[tuple[str, ...]]:
    if direction == "forward":
        for node in graph.nodes:
            if node.kind != "operator" and not node.equation:
                yield (node.id, shape_text(node.shape), *_facts(graph, node.id))
    for line in graph.lines:
        if line.direction == direction:
            yield (line.text, shape_text(line.shape), *_facts(graph, line.symbol))


def _facts(graph: Graph, name: str) -> tuple[str, ...]:
    facts = graph.about(name)
    return (
        "" if facts.bytes is None else bytes_text(facts.bytes),
        facts.kept,
        "" if facts.norm is None else f"‖·‖ {facts.norm:.4g}",
        "" if facts.error is None else f"error {facts.error:.1e}",
        "WRONG" if facts.wrong else "",
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows with their cells below each other; columns in which nothing stands are left out."""
    used = [at for at in range(len(rows[0])) if any(row[at] for row in rows)]
    widths = {at: max(len(row[at]) for row in rows) for at in used}
    return ["  " + "  ".join(row[at].ljust(widths[at]) for at in used).rstrip() for row in rows]
