"""One page that needs nothing else: the picture, and beside it the equations in MathML; a node shows its own."""

from collections.abc import Iterator
from html import escape

from ..equations import ACTIVATIONS
from .captions import shape_text, value_text
from .mathml import mathml
from .model import Graph, Line, Node
from .svg import about, svg

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--quiet:#656d76;--rule:#d0d7de;--mark:#fff8c5;--wrong:#d1242f}
@media (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--quiet:#9198a1;--rule:#30363d;--mark:#3b2f00;--wrong:#ff6a69}}
body{margin:0 auto;max-width:820px;padding:10px;background:var(--paper);color:var(--ink);font:15px/1.45 "DejaVu Sans",Verdana,"Segoe UI",Helvetica,Arial,sans-serif}
svg.tmb{width:100%;height:auto;display:block}
#panel{position:sticky;bottom:0;background:var(--paper);border-top:1px solid var(--rule);min-height:6.2em;padding:8px 4px}
#panel .of{display:none}#panel .of.shown{display:block}
#panel:has(.of.shown) .hint{display:none}
.hint,.meaning,td.quiet,th{color:var(--quiet)}
math{font-size:1.12em}
table{border-collapse:collapse;width:100%;margin:14px 0}
td,th{border-top:1px solid var(--rule);padding:6px 8px;text-align:left;font-weight:normal}
tr.shown td{background:var(--mark)}
.wrong{color:var(--wrong)}
.eq{margin:4px 0;overflow-x:auto}
""".strip()  # noqa: E501
_SCRIPT = """
const all = (selector) => document.querySelectorAll(selector);
function show(id) {
  for (const part of all(".of, tr[data-of]")) part.classList.toggle("shown", part.dataset.of.split(" ").includes(id));
}
for (const node of all("svg [data-node]"))
  for (const event of ["mouseenter", "focus", "click"]) node.addEventListener(event, () => show(node.dataset.node));
""".strip()


def html(graph: Graph) -> str:
    """The whole page."""
    return "\n".join(_page(graph)) + "\n"


def _page(graph: Graph) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(graph.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>"
    yield svg(graph)
    yield '<div id="panel" aria-live="polite"><div class="hint">Point at a square or a circle: its equation.</div>'
    for node in graph.nodes:
        yield f'<div class="of" data-of="{escape(node.id, quote=True)}">{"".join(_about(graph, node))}</div>'
    yield "</div>"
    yield "<table>\n<tr><th>D2L</th><th>equation</th><th>shape</th></tr>"
    for line in graph.lines:
        yield _row(graph, line)
    yield f"</table>\n<script>\n{_SCRIPT}\n</script>\n</body>\n</html>"


def _about(graph: Graph, node: Node) -> Iterator[str]:
    """What the panel says of a node: its meaning, and its equations as formulas."""
    head, *_ = about(graph, node).splitlines()
    yield f'<div class="meaning">{mathml(node.latex)} {escape(head)}</div>'
    names = [node.equation] if node.kind == "operator" else [node.id, f"d{node.id}", f"t{node.id}"]
    if node.kind == "operator" and node.text == "φ" and (phi := ACTIVATIONS.get(graph.words.get("φ", ""))):
        for of, latex in zip((r"\phi(z)", r"\phi'(z)"), phi.latex, strict=False):
            yield f'<div class="eq">{mathml(f"{of} = {latex}")}</div>'
    for name in names:
        line, facts = graph.line(name), graph.about(name)
        if line is not None:
            value = escape(value_text(name, facts, number=not line.shape))
            wrong = " wrong" if facts.wrong else ""
            yield f'<div class="eq{wrong}">{mathml(line.latex)} <span class="meaning">{value}</span></div>'


def _row(graph: Graph, line: Line) -> str:
    wrong = ' class="wrong"' if graph.about(line.symbol).wrong else ""
    of = line.symbol if line.direction == "forward" else f"{line.symbol} {line.symbol[1:]}"
    return (
        f'<tr data-of="{escape(of, quote=True)}"><td class="quiet">{escape(line.label)}</td>'
        f'<td{wrong}>{mathml(line.latex)}</td><td class="quiet">{escape(shape_text(line.shape))}</td></tr>'
    )
