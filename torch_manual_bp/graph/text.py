"""The graph for a terminal: the picture in letters, then the equations, what they take, and what came out."""

from collections.abc import Iterator, Sequence

from .captions import bytes_text, shape_text
from .layout import grid, places
from .model import Graph, Node

_CELL = 8  # letters of a column: a node and the arrow to the next
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

    reach = {node.id: (len(_shown(node)) // 2, (len(_shown(node)) - 1) // 2) for node in graph.nodes}
    for edge in graph.of_pass("forward"):
        (x, y), (to_x, to_y) = middle(edge.source), middle(edge.target)
        _arrow(canvas, x + reach[edge.source][1] + 1, y, to_x, to_y, to_x - reach[edge.target][0] - 1)
    for node in graph.nodes:
        x, y = middle(node.id)
        shown = _shown(node)
        canvas[y][x - len(shown) // 2 : x - len(shown) // 2 + len(shown)] = shown
    return ["".join(line).rstrip() for line in canvas]


def _shown(node: Node) -> str:
    return {"variable": f"[{node.text}]", "parameter": f"{{{node.text}}}", "operator": f"({node.text})"}[node.kind]


def _arrow(canvas: list[list[str]], x: int, y: int, to_x: int, to_y: int, before: int) -> None:
    """An arrow right from x to ``before`` its target at to_x; or up from y to to_y; or right and then up."""
    if y == to_y:
        canvas[y][x : before + 1] = [*_LINE * (before - x), _RIGHT]
        return
    if x < to_x:
        canvas[y][x : to_x + 1] = [*_LINE * (to_x - x), _TURN]
    for at in range(to_y + 2, y):
        canvas[at][to_x] = _RISE
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
