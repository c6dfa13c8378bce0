"""What a figure is to reach, and whether it does: decided by one run only where the figure is not close to its goal."""

from dataclasses import dataclass

CLOSE = 0.05  # relative distance to a goal within which a single run does not decide
RUNS = 3  # how many do


@dataclass(frozen=True)
class Goal:
    """A bound for a ratio or a quantity: at most, or at least, `bound`; `exact` where every run finds the same."""

    bound: float
    at_least: bool = False
    exact: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is on the right side of the bound, which itself belongs to it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def verdict(self, value: float, runs: int) -> str:
        """``met``, ``not met``, or that the value is within 5 % of the goal and fewer than three runs were made."""
        if not self.exact and runs < RUNS and abs(value - self.bound) <= CLOSE * self.bound:
            return f"too close for {runs} run{'s' if runs > 1 else ''}"
        return "met" if self.met(value) else "not met"

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:.3g}"


@dataclass(frozen=True)
class Judged:
    """A figure beside its goal."""

    name: str
    value: float
    goal: Goal

    def describe(self, runs: int) -> str:
        """One line for a table: the figure's name, the goal, the figure, the verdict."""
        return f"{self.name} {self.goal}: {self.value:.3g}, {self.goal.verdict(self.value, runs)}"
