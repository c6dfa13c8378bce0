"""The scene as SVG: no font, no script, no file beside it; light or dark as the reader's screen is."""

from collections.abc import Iterator
from html import escape

from .captions import SIZE, shape_text, symbols_of
from .geometry import CIRCLE, SQUARE, Point
from .labels import Label
from .model import Edge, Graph, Node
from .scene import WIDTH, Scene, scene_of
from .typeset import RAISED, Runs, equation_runs, plain, symbol_runs, width

STYLE = """
.tmb{--paper:#fff;--ink:#1f2328;--quiet:#656d76;--square:#fff;--given:#b6daf7;--edge:#57606a;--back:#b3541e;--tangent:#1a7f45;--wrong:#d1242f;--kept:#6639ba;color-scheme:light dark}
@media (prefers-color-scheme:dark){.tmb{--paper:#0d1117;--ink:#e6edf3;--quiet:#9198a1;--square:#161b22;--given:#1f4b73;--edge:#9198a1;--back:#f0965b;--tangent:#56d387;--wrong:#ff6a69;--kept:#b891ff}}
.tmb text{font-family:"DejaVu Sans",Verdana,"Segoe UI",Helvetica,Arial,sans-serif;fill:var(--ink);white-space:pre}
.tmb .paper{fill:var(--paper)}
.tmb .node rect,.tmb .node circle{fill:var(--square);stroke:var(--ink);stroke-width:1.3}
.tmb .parameter rect{fill:var(--given)}
.tmb .node text{text-anchor:middle}
.tmb .wrong rect,.tmb .wrong circle{stroke:var(--wrong);stroke-width:3}
.tmb .edge path{fill:none;stroke:var(--edge);stroke-width:1.4}
.tmb .backward path{stroke:var(--back);stroke-dasharray:5 3}
.tmb .tangent path{stroke:var(--tangent);stroke-dasharray:1.5 2.5;stroke-width:1.6}
.tmb .wrong path{stroke:var(--wrong);stroke-width:2.4}
.tmb .head-forward{fill:var(--edge)}.tmb .head-backward{fill:var(--back)}.tmb .head-tangent{fill:var(--tangent)}.tmb .head-wrong{fill:var(--wrong)}
.tmb text.shape,.tmb text.value{fill:var(--quiet)}.tmb text.backward{fill:var(--back)}.tmb text.tangent{fill:var(--tangent)}.tmb text.wrong{fill:var(--wrong);font-weight:600}
.tmb circle.kept,.tmb .node circle.kept{fill:var(--kept);stroke:var(--paper);stroke-width:1.5}
.tmb circle.again,.tmb .node circle.again{fill:var(--paper);stroke:var(--kept);stroke-width:1.8}
.tmb .node:focus{outline:none}.tmb .node:hover rect,.tmb .node:hover circle,.tmb .node:focus rect,.tmb .node:focus circle{stroke-width:2.6}
""".strip()  # noqa: E501
_HEADS = ("forward", "backward", "tangent", "wrong")
_BOLD_TEXT = 15.0  # in squares and circles


def svg(graph: Graph) -> str:
    """The whole picture, 800 pixels wide."""
    return "\n".join(_picture(scene_of(graph))) + "\n"


def _picture(scene: Scene) -> Iterator[str]:
    graph = scene.graph
    legend = tuple(_legend(graph, scene.floor + 34))
    height = scene.floor + 34 + 18 * (1 + max(row for row, _ in legend))
    name = escape(f"Computational graph: {graph.title}", quote=True)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tmb" viewBox="0 0 {WIDTH:g} {height:.0f}" '
        f'width="{WIDTH:g}" height="{height:.0f}" role="img" aria-label="{name}">'
    )
    yield f"<style>\n{STYLE}\n</style>"
    yield "<defs>"
    for head in _HEADS:
        yield (
            f'<marker id="tmb-{head}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path class="head-{head}" d="M0 0.8L8 4L0 7.2z"/></marker>'
        )
    yield "</defs>"
    yield f'<rect class="paper" width="{WIDTH:g}" height="{height:.0f}" rx="6"/>'
    for number, (runs, size, at) in enumerate(scene.header):
        yield _text(runs, at, size, "title" if number == 0 else "shape")
    for edge, way in scene.arrows:
        yield from _edge(graph, edge, way)
    for node in graph.nodes:
        yield from _node(graph, node, scene.centres[node.id])
    for label in scene.labels:
        yield from _label(label)
    for _, element in legend:
        yield element
    yield "</svg>"


def _edge(graph: Graph, edge: Edge, way: tuple[Point, ...]) -> Iterator[str]:
    wrong = edge.direction != "forward" and graph.about(edge.equation).wrong and "=" in edge.text
    head = "wrong" if wrong else edge.direction
    points = " L".join(f"{point.x:.1f} {point.y:.1f}" for point in way)
    name = escape(f"tmb-{edge.direction}-{edge.source}-{edge.target}", quote=True)
    kind = f"edge {edge.direction}{' wrong' if wrong else ''}"
    yield f'<g class="{kind}" id="{name}">'
    if edge.text:
        yield f"<title>{escape(f'{edge.text} {shape_text(edge.shape)}'.strip())}</title>"
    yield f'<path d="M{points}" marker-end="url(#tmb-{head})"/></g>'


def _node(graph: Graph, node: Node, at: Point) -> Iterator[str]:
    facts = graph.about(node.id)
    kind = f"node {node.kind}{' wrong' if facts.wrong else ''}"
    name = escape(node.id, quote=True)
    yield f'<g class="{kind}" id="tmb-{name}" data-node="{name}" tabindex="0">'
    yield f"<title>{escape(about(graph, node))}</title>"
    if node.kind == "operator":
        yield f'<circle cx="{at.x:.1f}" cy="{at.y:.1f}" r="{CIRCLE:g}"/>'
        size = 11.0 if len(node.text) > 1 else _BOLD_TEXT
        yield _text(plain(node.text), Point(at.x, at.y + 0.35 * size), size, "", anchored=True)
    else:
        left, top, side = at.x - SQUARE, at.y - SQUARE, 2 * SQUARE
        yield f'<rect x="{left:.1f}" y="{top:.1f}" width="{side:g}" height="{side:g}" rx="3"/>'
        yield _text(symbol_runs(node.latex), Point(at.x, at.y + 5), _BOLD_TEXT, "", anchored=True)
    if facts.kept:
        mark = "again" if facts.kept == "read again" else "kept"
        yield f'<circle class="{mark}" cx="{at.x + SQUARE - 1:.1f}" cy="{at.y - SQUARE + 1:.1f}" r="4.5"/>'
    yield "</g>"


def about(graph: Graph, node: Node) -> str:
    """What a node is, in words, with its equations."""
    if node.kind == "operator":
        detail = graph.words.get(node.text)
        line = graph.line(node.equation)
        return f"{node.meaning}{f' ({detail})' if detail else ''}" + (f", in {line.text}" if line else "")
    lines = [graph.line(name) for name in (node.id, f"d{node.id}", f"t{node.id}")]
    facts = graph.about(node.id)
    head = f"{node.meaning} {shape_text(node.shape)}".strip()
    if facts.bytes is not None:
        head += f", {facts.bytes:,} bytes"
    if facts.kept:
        head += f", {facts.kept} {'by' if facts.kept == 'read again' else 'for'} the backward pass"
    return "\n".join([head, *(line.text for line in lines if line)])


def _label(label: Label) -> Iterator[str]:
    yield f'<g class="label" data-of="{escape(label.block.node, quote=True)}">'
    for line, (x, y) in zip(label.block.lines, label.baselines(), strict=True):
        left = x - width(line.runs, SIZE) if label.end else x
        yield _text(line.runs, Point(left, y), SIZE, line.kind)
    yield "</g>"


def _text(runs: Runs, at: Point, size: float, kind: str, anchored: bool = False) -> str:
    """One line; where it is not centred its length is said, so that another font takes as much room."""
    parts, raised = [], False
    for run in runs:
        style = ' font-weight="bold"' if run.bold else ""
        if run.raised != raised:
            style += f' dy="{(-0.35 if run.raised else 0.35) * size:.1f}"'
            raised = run.raised
        style += f' font-size="{RAISED * size:.1f}"' if run.raised else ""
        parts.append(f"<tspan{style}>{escape(run.text)}</tspan>" if style else escape(run.text))
    length = "" if anchored else f' textLength="{width(runs, size):.1f}" lengthAdjust="spacingAndGlyphs"'
    named = f' class="{kind}"' if kind else ""
    weight = ' font-weight="600"' if kind == "title" else ""
    return f'<text{named} x="{at.x:.1f}" y="{at.y:.1f}" font-size="{size:g}"{weight}{length}>{"".join(parts)}</text>'


def _legend(graph: Graph, y: float) -> Iterator[tuple[int, str]]:
    """What the signs mean, in rows; only of those that occur."""
    directions = {edge.direction for edge in graph.edges}
    marks = {facts.kept.split()[0] for facts in graph.facts.values() if facts.kept}
    symbols = symbols_of(graph)
    entries = [
        ('<g class="node"><rect x="0" y="-9" width="11" height="11" rx="1"/></g>', "variable"),
        ('<g class="node parameter"><rect x="0" y="-9" width="11" height="11" rx="1"/></g>', "parameter"),
        ('<g class="node"><circle cx="6" cy="-3.5" r="5.5"/></g>', "operator"),
    ]
    if "backward" in directions:
        entries.append((_sample("backward"), "backward pass, dX = ∂J/∂X"))
    if "tangent" in directions:
        entries.append((_sample("tangent"), "tangent pass, tX along given directions"))
    if "kept" in marks:
        entries.append(('<circle class="kept" cx="6" cy="-3.5" r="4.5"/>', "kept for the backward pass"))
    if "read" in marks:
        entries.append(('<circle class="again" cx="6" cy="-3.5" r="4.5"/>', "there anyway, and read again"))
    x, row = 20.0, 0
    for sample, words in entries:
        runs = equation_runs(words, symbols) if "=" in words else plain(words)
        indent = 30 if "path" in sample else 17
        wide = indent + width(runs, SIZE)
        if x + wide > WIDTH - 20:
            x, row = 20.0, row + 1
        text = _text(runs, Point(indent, 0), SIZE, "shape")
        yield row, f'<g class="legend" transform="translate({x:.1f} {y + 18 * row:.1f})">{sample}{text}</g>'
        x += wide + 18


def _sample(direction: str) -> str:
    return f'<g class="edge {direction}"><path d="M0 -4L25 -4" marker-end="url(#tmb-{direction})"/></g>'
