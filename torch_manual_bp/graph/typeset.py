"""Text with its extents, known without a font: runs of plain, bold and raised letters.

Widths are those of DejaVu Sans and Verdana, in ems. The SVG says to the browser how wide each text is to be
(``textLength``), so that labels are where they were placed whatever font is there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .latex import Atom, Tree, parse

_WIDTHS = {
    letter: width
    for width, letters in {
        0.28: "ijl'′", 0.32: "IJ .,·", 0.35: ":;/|f-", 0.4: "tr()[]ᵀ⁰¹²³⁴⁵⁶⁷⁸⁹", 0.52: "sz∂*‖–⁻″", 0.56: "cL",
        0.6: "kFvxyλaoTYPeE", 0.63: "bdghnpquSσΣη0123456789{}√", 0.67: "KφϕAVBX", 0.7: "ZRC", 0.76: "UHNDGĜ",
        0.8: "OQΦw", 0.85: "+−=<>×⊙≤≥→≠M●∞", 0.96: "%mW…—□■",
    }.items()
    for letter in letters
}  # fmt: skip
_BOLD, RAISED = 1.1, 0.72
ASCENT, DESCENT = 0.8, 0.24  # of a line, in ems


class Run(NamedTuple):
    """Letters of one kind."""

    text: str
    bold: bool = False
    raised: bool = False


Runs = tuple[Run, ...]


def width(runs: Runs, size: float) -> float:
    """How wide the runs are to be set at this size."""
    return size * sum(
        sum(_WIDTHS.get(letter, 0.65) for letter in run.text)
        * (_BOLD if run.bold else 1.0)
        * (RAISED if run.raised else 1.0)
        for run in runs
    )


def plain(text: str) -> Runs:
    """The text as it stands."""
    return (Run(text),)


def bold(text: str) -> Runs:
    """The text in bold."""
    return (Run(text, bold=True),)


def symbol_runs(latex: str) -> Runs:
    r"""``\mathbf{W}^{(1)}`` as a bold W and a raised (1)."""
    return tuple(_flat(parse(latex), raised=False))


def _flat(tree: Tree, raised: bool) -> Iterable[Run]:
    if isinstance(tree, Atom):
        yield Run(tree.text, tree.bold, raised)
        return
    if tree.kind in ("sup", "row"):
        for at, part in enumerate(tree.parts):
            yield from _flat(part, raised or (tree.kind == "sup" and at > 0))
        return
    raise ValueError(f"typeset: no line of text can hold a {tree.kind}")


def equation_runs(text: str, symbols: Mapping[str, str]) -> Runs:
    """An equation's text with each symbol in the chapter's letters: ``dw2 = doᵀ h + λ w2`` with bold W⁽²⁾.

    Args:
        text: the equation's.
        symbols: LaTeX by name, of what is no derivative.
    """
    names = "|".join(sorted(map(re.escape, symbols), key=len, reverse=True))
    runs: list[Run] = []
    for part in re.split(
        rf"(?<!\w)([dt]?(?:{names}))(?![a-zA-Z0-9])", text.replace(" - ", " − ").replace("= -", "= −")
    ):
        prefix, name = ("", part) if part in symbols else (part[:1], part[1:])
        if name in symbols:
            runs += [*([Run(prefix)] if prefix else []), *symbol_runs(symbols[name])]
        else:
            runs += [
                Run("T" if piece == "ᵀ" else piece, raised=piece == "ᵀ") for piece in re.split("(ᵀ)", part) if piece
            ]
    return tuple(runs)


def wrapped(runs: Runs, size: float, most: float) -> Sequence[Runs]:
    """The runs in as few lines as fit, broken before a +, −, ⊙ or ·, or a shape; in a shape only if there is no way."""
    lines: list[Runs] = []
    for piece in _pieces(runs, r"(?= [+−⊙·] |  \()"):
        parts = _pieces(piece, "(?<=, )") if width(piece, size) > most else [piece]
        for part in parts:
            if lines and width((*lines[-1], *part), size) <= most:
                lines[-1] = (*lines[-1], *part)
            else:
                first, *rest = part
                lines.append((first._replace(text=first.text.lstrip(" ·") if lines else first.text), *rest))
    return lines


def _pieces(runs: Runs, before: str) -> list[Runs]:
    """The runs cut wherever the pattern finds a place."""
    pieces: list[list[Run]] = [[]]
    for run in runs:
        for at, text in enumerate(re.split(before, run.text)):
            if at:
                pieces.append([])
            if text:
                pieces[-1].append(run._replace(text=text))
    return [tuple(piece) for piece in pieces if piece]
