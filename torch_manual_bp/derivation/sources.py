"""Where an equation is computed: lines of the code whose comment is the equation.

A line of mathematics carries the equation it implements, as ``# dW2 = dOᵀ H``; here these comments are read. Of second
order they are written with dots, ``# dẆ1 = Eᵀ X`` for tdw1, and with the R-operator's own letters.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..equations import SECOND_ORDER

ROOT = Path(__file__).parents[2]
_CODE = (
    "torch_manual_bp/autograd/fused.py", "torch_manual_bp/autograd/objective.py", "torch_manual_bp/training/steps.py",
    "csrc/cpu/large_net.cpp", "csrc/cpu/one_call.cpp", "csrc/cpu/bias_act.cpp", "csrc/cpu/cross_entropy.cpp",
    "csrc/cpu/dact.cpp",
)  # fmt: skip
_CODE_OF_SECOND_ORDER = (
    "torch_manual_bp/curvature/output.py", "torch_manual_bp/curvature/products.py",
    "torch_manual_bp/curvature/diagonals.py", "torch_manual_bp/curvature/dense.py", "torch_manual_bp/curvature/kfac.py",
    "torch_manual_bp/curvature/inputs.py", "torch_manual_bp/autograd/pure.py",
)  # fmt: skip
_LETTERS = {"tdo": "Ġ", "tdh": "Ḋ", "tdz": "E"}  # of the tangents of ∂J/∂o, ∂J/∂h and ∂J/∂z
_COMMENT = re.compile(r"^(?P<code>.*?\S)\s*(?:#|//)\s(?!fmt|type)(?P<comment>.*)$")


class Source(NamedTuple):
    """A line of code: its file in the repository, its number, and the code without its comment."""

    path: str
    line: int
    code: str


def lines_of(symbol: str) -> tuple[Source, ...]:
    """The lines that compute ∂J/∂X for ``"dx"``, a variable of the forward pass or one of second order, one a file.

    Empty where the sources are not there: an installed package has no csrc.
    """
    names = "|".join(map(re.escape, (symbol, _LETTERS.get(symbol, symbol), _dotted(symbol))))
    wanted = re.compile(rf"(?<!\w)(?:{names}) =", re.IGNORECASE)  # a batch's matrices are written in capitals
    found: dict[str, tuple[Source, str]] = {}
    for source, comment in _commented(_CODE_OF_SECOND_ORDER if symbol in SECOND_ORDER else _CODE):
        if wanted.search(comment) and len(comment) > len(found.get(source.path, (source, ""))[1]):
            found[source.path] = source, comment  # the one with the most terms
    return tuple(source for source, _ in found.values())


def _dotted(symbol: str) -> str:
    """The tangent tdw1 as dẇ1; any other symbol as it is."""
    return unicodedata.normalize("NFC", re.sub(r"^t(d?[a-z])(\d?)$", "\\1\u0307\\2", symbol))


@cache
def _commented(paths: tuple[str, ...]) -> tuple[tuple[Source, str], ...]:
    lines = []
    for path in paths:
        file = ROOT / path
        if not file.exists():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = _COMMENT.match(line)
            if match is not None:
                code = re.sub(r"\s+# (?:type|fmt): .*$", "", match["code"]).strip()
                lines.append((Source(path, number, code), unicodedata.normalize("NFC", match["comment"])))
    return tuple(lines)
