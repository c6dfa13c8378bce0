"""Where an equation is computed: lines of the code whose comment is the equation.

A line of mathematics carries the equation it implements, as ``# dW2 = dOᵀ H``; here these comments are read.
"""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_CODE = (
    "torch_manual_bp/autograd/fused.py", "torch_manual_bp/autograd/objective.py", "torch_manual_bp/training/steps.py",
    "csrc/cpu/large_net.cpp", "csrc/cpu/one_call.cpp", "csrc/cpu/bias_act.cpp", "csrc/cpu/cross_entropy.cpp",
    "csrc/cpu/dact.cpp",
)  # fmt: skip
_COMMENT = re.compile(r"^(?P<code>.*?\S)\s*(?:#|//)\s(?!fmt|type)(?P<comment>.*)$")


class Source(NamedTuple):
    """A line of code: its file in the repository, its number, and the code without its comment."""

    path: str
    line: int
    code: str


def lines_of(symbol: str) -> tuple[Source, ...]:
    """The lines that compute ∂J/∂X for ``"dx"``, or a variable of the forward pass, at most one a file.

    Empty where the sources are not there: an installed package has no csrc.
    """
    wanted = re.compile(rf"(?<!\w){re.escape(symbol)} =", re.IGNORECASE)  # a batch's matrices are written in capitals
    found: dict[str, Source] = {}
    for source, comment in _commented():
        if wanted.search(comment):
            found.setdefault(source.path, source)
    return tuple(found.values())


@cache
def _commented() -> tuple[tuple[Source, str], ...]:
    lines = []
    for path in _CODE:
        file = ROOT / path
        if not file.exists():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = _COMMENT.match(line)
            if match is not None:
                code = re.sub(r"\s+# (?:type|fmt): .*$", "", match["code"]).strip()
                lines.append((Source(path, number, code), match["comment"]))
    return tuple(lines)
