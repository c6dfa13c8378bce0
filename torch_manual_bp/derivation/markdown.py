"""The page in Markdown."""

from functools import singledispatch

from .blocks import Block, Formula, Heading, Rows, Run, Text


def page(blocks: list[Block]) -> str:
    """All blocks, an empty line between them."""
    return "\n\n".join(map(_written, blocks)) + "\n"


@singledispatch
def _written(block: Block) -> str:
    raise TypeError(f"markdown: no such block: {block!r}")


@_written.register
def _(block: Heading) -> str:
    return f"{'#' * block.level} {block.text}"


@_written.register
def _(block: Text) -> str:
    return block.text


@_written.register
def _(block: Formula) -> str:
    return f"$$ {block.latex} $$"


@_written.register
def _(block: Rows) -> str:
    lines = [block.head, ("---",) * len(block.head), *block.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


@_written.register
def _(block: Run) -> str:
    return f"```\n$ {block.command}\n{block.output.rstrip()}\n```"


def _cell(cell: str | Formula) -> str:
    text = f"${cell.latex}$" if isinstance(cell, Formula) else cell
    return text.replace("|", r"\|")
