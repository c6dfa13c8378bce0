"""LaTeX of the equation table as MathML, which browsers set without any script or font of ours."""

from html import escape

from .latex import Atom, Tree, parse

_TAGS = {"row": "mrow", "frac": "mfrac", "sup": "msup", "sub": "msub", "subsup": "msubsup", "sqrt": "msqrt"}


def mathml(latex: str, display: bool = False) -> str:
    """A ``<math>`` element.

    Raises:
        ValueError: as of `torch_manual_bp.graph.latex.parse`.
    """
    block = ' display="block"' if display else ""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{block}>{_element(parse(latex))}</math>'


def _element(tree: Tree) -> str:
    if isinstance(tree, Atom):
        return _atom(tree)
    if tree.kind == "dot":
        return f'<mover accent="true">{_element(tree.parts[0])}<mo>˙</mo></mover>'
    tag = _TAGS[tree.kind]
    return f"<{tag}>{''.join(map(_element, tree.parts))}</{tag}>"


def _atom(atom: Atom) -> str:
    if atom.kind == "mspace":
        return f'<mspace width="{atom.text}"/>'
    if atom.bold:  # mathvariant is known to browsers only as "normal": bold has letters of its own
        return f'<{atom.kind} mathvariant="normal">{"".join(map(_bold, atom.text))}</{atom.kind}>'
    fence = ' stretchy="false"' if atom.text in tuple("()[]‖") else ""
    return f"<{atom.kind}{fence}>{escape(atom.text)}</{atom.kind}>"


def _bold(letter: str) -> str:
    """The letter among Unicode's bold ones of mathematics."""
    for first, bold in (("A", 0x1D400), ("a", 0x1D41A), ("0", 0x1D7CE)):
        if 0 <= (offset := ord(letter) - ord(first)) < (10 if first == "0" else 26):
            return chr(bold + offset)
    return letter
