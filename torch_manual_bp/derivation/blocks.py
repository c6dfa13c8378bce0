"""What a page is made of, whatever it is written in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's own."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` in backticks, and links as ``[words](target)``."""

    text: str


@dataclass(frozen=True)
class Formula:
    """LaTeX, displayed."""

    latex: str


@dataclass(frozen=True)
class Rows:
    """A table, whose cells are as a paragraph's text, or `Formula`."""

    head: tuple[str, ...]
    rows: tuple[tuple["str | Formula", ...], ...]


@dataclass(frozen=True)
class Run:
    """A command and what it printed."""

    command: str
    output: str


Block = Heading | Text | Formula | Rows | Run
