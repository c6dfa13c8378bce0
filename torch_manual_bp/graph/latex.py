"""The LaTeX that the equation table is written in, read into a tree.

A command that is not known raises: what is printed must be what the table says.
"""

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal


@dataclass(frozen=True)
class Atom:
    """A letter, a number, an operator, or a space."""

    text: str
    kind: Literal["mi", "mn", "mo", "mspace"]
    bold: bool = False


@dataclass(frozen=True)
class Group:
    """Parts of a formula and how they stand to each other: ``Group("frac", (above, below))``.

    "row": side by side. "frac": numerator and denominator. "sup", "sub", "subsup": base, then what hangs on it.
    "dot": with a dot above. "sqrt": under a root.
    """

    kind: Literal["row", "frac", "sup", "sub", "subsup", "dot", "sqrt"]
    parts: "tuple[Tree, ...]"


Tree = Atom | Group

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\S")
_LETTERS = {
    "phi": "ϕ", "varphi": "φ", "sigma": "σ", "Phi": "Φ", "lambda": "λ", "pi": "π", "partial": "∂",
    "delta": "δ", "mu": "μ", "Delta": "Δ",
    "tanh": "tanh", "log": "log", "max": "max",
}  # fmt: skip
_OPERATORS = {
    "odot": "⊙", "sum": "∑", "lVert": "‖", "rVert": "‖", "top": "⊤", "le": "≤", "ge": "≥", "times": "×", "cdot": "·",
}  # fmt: skip
_PRIME = Atom("′", "mo")
_SPACES = {",": "0.17em", " ": "0.5em"}


def parse(latex: str) -> Tree:
    """The formula's tree.

    Raises:
        ValueError: a command that is not known, or braces that do not match.
    """
    return _Reader(latex).row(closing="")


class _Reader:
    def __init__(self, latex: str) -> None:
        self.latex = latex
        self.tokens = _TOKEN.findall(latex)[::-1]  # the next one is the last

    def row(self, closing: str) -> Tree:
        parts: list[Tree] = []
        while self.tokens and self.tokens[-1] != closing:
            part = self.scripted()
            if parts and _is_word(part) and not (isinstance(parts[-1], Atom) and parts[-1].kind in ("mo", "mspace")):
                parts.append(Atom(_SPACES[","], "mspace"))
            parts.append(part)
        if closing:
            self._take(closing)
        return parts[0] if len(parts) == 1 else Group("row", tuple(parts))

    def scripted(self) -> Tree:
        """A part with what hangs on it: sub- and superscripts, primes."""
        base: Tree = self.one()
        below: Tree | None = None
        above: list[Tree] = []
        while self.tokens and self.tokens[-1] in ("^", "_", "'"):
            mark = self.tokens.pop()
            if mark == "_":
                below = self.one()
            else:
                above.append(_PRIME if mark == "'" else self.one())
        primes = tuple(takewhile(lambda mark: mark == _PRIME, above)) if isinstance(base, Atom) else ()
        if primes:  # beside the letter, which they fit
            base, above = Group("row", (base, *primes)), above[len(primes) :]
        if not above:
            return base if below is None else Group("sub", (base, below))
        if isinstance(base, Group) and base.kind == "sup" and below is None:  # W⁽¹⁾ᵀ: one height
            letter, raised = base.parts
            base, above = letter, [raised, *above]
        top = above[0] if len(above) == 1 else Group("row", tuple(above))
        return Group("sup", (base, top)) if below is None else Group("subsup", (base, below, top))

    def one(self) -> Tree:
        """The next token, with its arguments."""
        if not self.tokens:
            raise ValueError(f"latex: {self.latex!r} ends too early")
        token = self.tokens.pop()
        if token == "}":
            raise ValueError(f"latex: unexpected '}}' in {self.latex!r}")
        if token == "{":
            return self.row("}")
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            # next to each other LaTeX sets the digits of a script one by one: \tfrac12
            return Atom(token, "mn")
        return Atom(token, "mi") if token.isalpha() else Atom("−" if token == "-" else token, "mo")

    def _command(self, name: str) -> Tree:
        if name in _LETTERS:
            return Atom(_LETTERS[name], "mi")
        if name in _OPERATORS:
            return Atom(_OPERATORS[name], "mo")
        if name in _SPACES:
            return Atom(_SPACES[name], "mspace")
        if name in ("frac", "tfrac"):
            self._split_digits()
            return Group("frac", (self.one(), self.one()))
        if name == "sqrt":
            return Group("sqrt", (self.one(),))
        if name == "dot":
            return _dotted(self.one())
        if name == "mathbf":
            return _bold(self.one())
        if name == "operatorname":
            letters = self.one()
            return Atom("".join(atom.text for atom in _atoms(letters)), "mi")
        raise ValueError(f"latex: unknown command \\{name} in {self.latex!r}")

    def _split_digits(self) -> None:
        r"""``\tfrac12`` is one half: each argument without braces is one digit."""
        if self.tokens and self.tokens[-1].isdigit():
            self.tokens.extend(reversed(self.tokens.pop()))

    def _take(self, token: str) -> None:
        if not self.tokens or self.tokens.pop() != token:
            raise ValueError(f"latex: expected {token!r} in {self.latex!r}")


def _is_word(tree: Tree) -> bool:
    """Whether it is the name of a function, such as softmax or log."""
    return isinstance(tree, Atom) and tree.kind == "mi" and len(tree.text) > 2


def _dotted(tree: Tree) -> Tree:
    """The dot stands over the letter, not over what hangs on it."""
    if isinstance(tree, Group) and tree.kind == "sup":
        return Group("sup", (_dotted(tree.parts[0]), *tree.parts[1:]))
    return Group("dot", (tree,))


def _atoms(tree: Tree) -> list[Atom]:
    return [tree] if isinstance(tree, Atom) else [atom for part in tree.parts for atom in _atoms(part)]


def _bold(tree: Tree) -> Tree:
    if isinstance(tree, Atom):
        return Atom(tree.text, tree.kind, bold=True)
    return Group(tree.kind, tuple(_bold(part) for part in tree.parts))
