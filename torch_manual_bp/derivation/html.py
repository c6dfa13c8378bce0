"""The page as one HTML file, its formulas in MathML."""

import re
from functools import singledispatch
from html import escape

from ..graph.mathml import mathml
from .blocks import Block, Formula, Heading, Rows, Run, Text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.86em; }
pre { overflow-x: auto; padding: 0.8rem; background: #8881; border-radius: 6px; }
math[display="block"] { margin: 1rem 0 0.4rem; text-align: left; }
h2 { margin-top: 2.5rem; }
"""


def page(blocks: list[Block]) -> str:
    """All blocks in a document that needs no other file."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(map(_written, blocks))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


@singledispatch
def _written(block: Block) -> str:
    raise TypeError(f"html: no such block: {block!r}")


@_written.register
def _(block: Heading) -> str:
    return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"


@_written.register
def _(block: Text) -> str:
    return f"<p>{_inline(block.text)}</p>"


@_written.register
def _(block: Formula) -> str:
    return mathml(block.latex, display=True)


@_written.register
def _(block: Rows) -> str:
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
    rows = "\n".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in block.rows)
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


@_written.register
def _(block: Run) -> str:
    return f"<pre><b>$ {escape(block.command)}</b>\n{escape(block.output.rstrip())}</pre>"


def _cell(cell: str | Formula) -> str:
    return mathml(cell.latex) if isinstance(cell, Formula) else _inline(cell)


def _inline(text: str) -> str:
    """`code`, *emphasis*, **strong emphasis** and [links](target)."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    marked = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
    marked = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", marked)
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', marked)
