"""The derivation page."""

from pathlib import Path
from typing import Annotated

import typer

from .app import Debug, app, plain_errors


@app.command()
def derivation(
    out: Annotated[
        Path | None, typer.Option(help="An .md or .html file; standard output, as Markdown, if not given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write every equation with its shape, its cost and the lines that compute it, and the chapter's exercises."""
    from ..derivation import html, markdown

    with plain_errors(debug):
        if out is not None and out.suffix not in (".md", ".html"):
            raise ValueError(f"derivation: the file must be .md or .html, got {out.name!r}")
        page = html() if out is not None and out.suffix == ".html" else markdown()
        if out is None:
            print(page, end="")
        else:
            out.write_text(page, encoding="utf-8")
