"""What a check found: a verdict on each equation, and all of them as a table that reads well on a terminal."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from .mistakes import Mistake
from .terms import Equation

Verdict = Literal["right", "wrong", "follows", "not filled in"]

HINTS = {
    "transpose": "write the shapes down: in square matrices a transpose that is lost shows in the values alone",
    "sign": "go through the signs, term by term",
    "factor": "go through the numbers: the 2 of a square, the ½ of λ/2",
    "missing weight decay": "J = L + s, and ∂s/∂W = λ W (5.3.10) is a part of ∂J/∂W",
    "missing λ": "s = λ/2 ‖W‖²: its derivative keeps the λ",
    "weight decay on": "s holds the weights alone: biases are not penalised",
    "φ′ of the wrong argument": "φ′ is taken where φ was: at z. A φ′ from h is another formula, as 1 − h² for tanh",
    "φ′ of the wrong function": "this is not the derivative of this activation",
    "missing φ′": "h = φ(z), so the chain rule multiplies by φ′(z)",
    "mean for sum": "each row adds its part; the 1/B of the mean is in ∂J/∂o already",
    "extra 1/B": "the 1/B of the mean is in ∂J/∂o already, and in no penalty",
    "missing 1/": "L is a mean, so its derivative is divided as well",
    "wrong upstream": "the chain rule goes on from the gradient of the very next symbol",
    "wrong tensor": "which tensor was this one multiplied by in the forward pass?",
    "the value of another": "two results may have changed places",
}


@dataclass(frozen=True)
class Finding:
    """The verdict on one equation.

    Attributes:
        equation: as it should be.
        verdict: "right", "wrong", "not filled in", or "follows": the equation is right, but what came before is not.
        error: max |yours − true| / max |true|, the largest of all trials; infinite where no
            trial has a value of the right shape.
        mistakes: each explains the values in every trial to the accuracy of their dtype.
        otherwise: the kind where no mistake is known that does.
        note: a shape, an exception, or what it follows from.
    """

    equation: Equation
    verdict: Verdict
    error: float = 0.0
    mistakes: tuple[Mistake, ...] = ()
    otherwise: str = ""
    note: str = ""

    @property
    def kinds(self) -> str:
        """The kinds that fit, the simplest first: "sign", or "missing λ; or factor of one term"."""
        return "; or ".join(dict.fromkeys(mistake.kind for mistake in self.mistakes)) or self.otherwise

    def lines(self) -> list[tuple[str, str, str, str]]:
        """The finding as rows of a table: label, equation, error, verdict."""
        if self.verdict == "not filled in":  # the answer to an exercise is not told
            return [(self.equation.label, f"{self.equation.symbol} = …", "", self.verdict)]
        error = "—" if self.error == inf else f"{self.error:.1e}"
        head = (self.equation.label, self.equation.text, error)
        if self.verdict != "wrong":
            return [(*head, f"{self.verdict}{', ' if self.note else ''}{self.note}")]
        texts = [*dict.fromkeys(mistake.text for mistake in self.mistakes)]
        more = [f"{'or' if i else 'yours:'} {text}" for i, text in enumerate(texts[:3])]
        more += [f"or {len(texts) - 3} more"] if len(texts) > 3 else []
        more += [self.note] if self.note else []
        more += [f"hint: {hint}" for kind, hint in HINTS.items() if kind in self.kinds][:2]
        return [(*head, f"wrong: {self.kinds}"), *(("", "", "", f"  {line}") for line in more)]


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        title: the net, the loss and λ.
        findings: one for each equation that could be judged, in the table's order.
        unchecked: the symbols of the backward pass that were not given, or not filled in.
        failure: why nothing could be judged at all, or the error that some shapes of a whole function raised; else "".
    """

    title: str
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...] = ()
    failure: str = ""

    def _symbols(self, *verdicts: Verdict) -> tuple[str, ...]:
        return tuple(f.equation.symbol for f in self.findings if f.verdict in verdicts)

    @property
    def ok(self) -> bool:
        """Whether something was checked, and all that was given is filled in and right."""
        return not self.failure and bool(self.right) and self.right == self._symbols("right", "wrong", "not filled in")

    @property
    def right(self) -> tuple[str, ...]:
        """The symbols whose equations and values are right."""
        return self._symbols("right")

    @property
    def wrong(self) -> tuple[str, ...]:
        """The symbols whose equations are wrong."""
        return self._symbols("wrong")

    @property
    def follows(self) -> tuple[str, ...]:
        """The symbols whose equations are right, but whose values are not, since an earlier one's are not."""
        return self._symbols("follows")

    @property
    def unfilled(self) -> tuple[str, ...]:
        """The symbols whose functions return nothing."""
        return self._symbols("not filled in")

    @property
    def kinds(self) -> dict[str, str]:
        """What is wrong, by symbol; kinds that fit equally well are joined by "; or "."""
        return {f.equation.symbol: f.kinds for f in self.findings if f.verdict == "wrong"}

    @property
    def errors(self) -> dict[str, float]:
        """The relative error of each symbol that was filled in."""
        return {f.equation.symbol: f.error for f in self.findings if f.verdict != "not filled in"}

    def __getitem__(self, symbol: str) -> Finding:
        """The finding on a symbol."""
        for finding in self.findings:
            if finding.equation.symbol == symbol:
                return finding
        raise KeyError(symbol)

    def __str__(self) -> str:
        rows = [("D2L", "equation", "error", ""), *(line for finding in self.findings for line in finding.lines())]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
            for row in rows
        ]
        count = f"{len(self.right)} right, {len(self.wrong)} wrong"
        count += f", {len(self.follows)} only in what follows" if self.follows else ""
        count += f", {len(self.unfilled)} not filled in" if self.unfilled else ""
        body = [self.title, "", *(lines if self.findings else ()), *([self.failure] if self.failure else ()), count]
        missing = [symbol for symbol in self.unchecked if symbol not in self.unfilled]
        return "\n".join([*body, *([f"not checked: {', '.join(missing)}"] if missing else ())])
