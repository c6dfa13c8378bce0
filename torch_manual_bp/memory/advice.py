"""What brings a step under a budget, and what it costs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from ..equations import table
from .planned import Plan
from .setting import Setting

_SMALL_TILES = (256, 64)
_MICROBATCHES = (8, 4, 2, 5, 3, 7)

Planner = Callable[[Setting], Plan]


class Advice(NamedTuple):
    """A change, and what follows.

    Attributes:
        change: what to write.
        cost: what it costs in time, or otherwise.
        plan: of the step with the change.
        fits: whether that is within the budget.
    """

    change: str
    cost: str
    plan: Plan
    fits: bool

    def __str__(self) -> str:
        verdict = "fits" if self.fits else "too large"
        return f"{self.plan.total_bytes:>16,} bytes, {verdict:9}  {self.change}: {self.cost}"


class _Change(NamedTuple):
    kind: str  # of two changes of a kind the second stands in place of the first
    words: str
    cost: str
    setting: Setting


def advise(before: Plan, budget: int, planned: Planner) -> tuple[Advice, ...]:
    """Each change that makes the step smaller, those that fit first; and where none is enough, all that it takes."""
    alone = [_advice([change], budget, planned) for change in _changes(before.setting)]
    smaller = [advice for advice in alone if advice.plan.total_bytes < before.total_bytes]
    enough = before.fits(budget) or any(advice.fits for advice in smaller)
    together = () if enough else _together(before, budget, planned)
    pipelined = [
        advice for advice in _on_two_devices(before, budget, planned) if advice.plan.total_bytes < before.total_bytes
    ]
    return (*together, *sorted([*smaller, *pipelined], key=lambda advice: not advice.fits))


def _on_two_devices(before: Plan, budget: int, planned: Planner) -> Iterator[Advice]:
    """The larger of a pipeline's two stages, where the net can be split and its stages planned."""
    s = before.setting
    short = s.dtype.itemsize == 2 or s.autocast is not None
    if s.path not in ("autograd", "accumulate_grad", "step") or short or s.trained != s.parameters:
        return
    for microbatches in (M for M in _MICROBATCHES if s.batch % M == 0):
        stages = [planned(stage) for stage in s.split(microbatches, "1f1b")]
        largest = max(stages, key=lambda plan: plan.total_bytes)
        share = _larger_share(s)
        words = f"tmb.pipeline.build(objective, microbatches={microbatches}) on two devices"
        cost = f"at most {1 / share:.1f} times the speed of one: a stage has {share:.0%} of the matrix products"
        yield Advice(words, cost, largest, largest.fits(budget))
        return


def _larger_share(s: Setting) -> float:
    """Of a step's matrix products, as the equations have them, those of the stage that has more."""
    equations, sizes = table(s.activation, s.loss.name), dict(zip("Bdhq", (s.batch, *s.widths), strict=True))
    first, last = (
        sum(equations[name].gemm_flops(**sizes) for name in names) for names in (("z", "dw1"), ("o", "dh", "dw2"))
    )
    return max(first, last) / (first + last)


def _advice(changes: list[_Change], budget: int, planned: Planner) -> Advice:
    plan = planned(changes[-1].setting)
    words, costs = ("; ".join(getattr(change, text) for change in changes) for text in ("words", "cost"))
    return Advice(words, costs, plan, plan.fits(budget))


def _together(before: Plan, budget: int, planned: Planner) -> Iterator[Advice]:
    """At each turn the change that saves most, until it fits; nothing where they do not suffice."""
    taken: dict[str, _Change] = {}
    least = before
    while not least.fits(budget):
        plans = [(planned(change.setting), change) for change in _changes(least.setting, cut="batch" in taken)]
        plan, change = min(plans, key=lambda pair: pair[0].total_bytes, default=(least, None))
        if change is None or plan.total_bytes >= least.total_bytes:
            return
        least = plan
        taken.pop(change.kind, None)
        taken[change.kind] = change
    yield _advice(list(taken.values()), budget, planned)


def _changes(s: Setting, cut: bool = False) -> Iterator[_Change]:
    """The changes that there are, from the one that costs least.

    Not among them: ``save="input"``, since z is there again when the peak is reached. It makes `Plan.kept_bytes` less.

    Args:
        s: what is to be changed.
        cut: whether the batch has been cut, so that a step would come too early.
    """
    usual = s.path in ("autograd", "eager")
    if s.path == "eager":
        yield _Change("path", "tmb.Objective(mlp, …)", "less time", replace(s, path="autograd"))
    if s.path in ("autograd", "accumulate_grad") and s.optimizer and not s.x_requires_grad and not cut:
        to = replace(s, path="step", tile_rows=None)
        yield _Change("path", "objective.step(x, y, optimizer)", "less time; .grad is not written", to)
    if usual and s.tile_rows is None:
        to = replace(s, path="autograd", tile_rows="auto")
        yield _Change("path", 'Objective(…, tile_rows="auto")', "0 to 5 % of the time; no second derivative", to)
    if s.path in ("accumulate_grad", "step") or s.tile_rows is not None:
        for rows in _SMALL_TILES:
            if rows < s.choice.tile.rows:
                to = replace(s, tile_rows=rows)
                yield _Change("tile_rows", f"tile_rows={rows}", "matrix products of fewer rows", to)
    if s.path != "eager" and s.autocast is None and s.dtype is torch.float32:
        words, cost = f'torch.autocast("{s.device}", torch.bfloat16)', "products and activations are rounded to 8 bits"
        yield _Change("autocast", words, cost, replace(s, autocast=torch.bfloat16))
    if s.batch > 1:
        yield _halved(s)


def _halved(s: Setting) -> _Change:
    rows = -(-s.batch // 2)
    if s.path == "predict":
        return _Change("batch", f"x.split({rows})", "matrix products of fewer rows", replace(s, batch=rows))
    words = f"microbatches of {rows:,} rows by accumulate_grad(…, normalizer=B)"
    cost = "the same gradient in more calls, from products of fewer rows"
    return _Change("batch", words, cost, replace(s, path="accumulate_grad", batch=rows, clipped=False))
