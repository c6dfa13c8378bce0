"""Bytes and "kept for backward" of each tensor, and what prediction and training take: read off the memory plan.

Without a batch sizes are letters: marks and formulas are then those of a large net of the same kind.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..equations import SYMBOLS, Table
from ..memory.formula import formula
from ..memory.ledger import Planned
from ..memory.plan import plan
from ..memory.planned import GIVEN, Plan
from ..nn import MLP, Objective
from .model import Facts

_LARGE_NET, _LARGE_BATCH = (784, 256, 10), 8192
_NAMED = ("parameter", "batch", "activation", "upstream gradient", "gradient")


class Cost(NamedTuple):
    """Facts by tensor, and the totals in words."""

    facts: dict[str, Facts]
    totals: tuple[str, ...]


def cost(table: Table, objective: Objective | None, batch: int | None) -> Cost:
    """What a net takes whose equations these are.

    Args:
        table: the equations.
        objective: the net; None: a large one with all parameters trained.
        batch: B; None: letters instead of numbers.

    Raises:
        ValueError: as of `torch_manual_bp.memory.plan`.
    """
    numbers = objective is not None and batch is not None
    model = objective if objective is not None and numbers else _large(table, objective)
    rows = batch if batch is not None and numbers else _LARGE_BATCH
    training, prediction = (plan(model, rows, path=path) for path in ("autograd", "predict"))
    kept = dict(_kept(training))
    marks = {**dict.fromkeys(_read_again(table, training, set(kept.values())), "read again"), **kept}
    marks = {name: "kept" if mark == name else mark if mark == "read again" else f"kept as {mark}"
             for name, mark in marks.items()}  # fmt: skip
    sizes = {name: tensor.bytes for tensor in reversed(training.tensors) for name in _symbols(tensor)}
    names = {*marks, *sizes} if numbers else set(marks)
    facts = {name: Facts(bytes=sizes.get(name) if numbers else None, kept=marks.get(name, "")) for name in names}
    return Cost(facts, tuple(_totals(training, prediction, numbers)))


def _large(table: Table, like: Objective | None) -> Objective:
    """A large net on no device, with what else the given one has."""
    names = {given.name for given in table.givens}
    mlp = like.mlp if like is not None else None
    made = MLP(
        *_LARGE_NET, table.activation, "b1" in names, "b2" in names, mlp.save if mlp else "auto", "meta",
        mlp.fc1.weight.dtype if mlp else torch.float32,
    )  # fmt: skip
    if mlp is not None:
        for ours, theirs in zip(made.parameters(), mlp.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
    decay, tiles = (like.weight_decay, like.tile_rows) if like is not None else (1.0, None)
    return Objective(made, table.loss, decay, tile_rows=tiles)


def _waiting(training: Plan) -> list[Planned]:
    """What was made in the forward pass and is there when the backward pass begins."""
    begin = training.phases.get("backward pass")
    if begin is None:
        return []
    return [
        tensor for tensor in training.tensors
        if tensor.kind not in GIVEN and tensor.born <= begin and (tensor.died is None or tensor.died > begin)
    ]  # fmt: skip


def _kept(training: Plan) -> Iterator[tuple[str, str]]:
    """Symbol and what it is kept as, for each activation that waits: "h" as "h"; "o" as "Ĝ", in o's place."""
    for tensor in _waiting(training):
        if tensor.kind != "activation":
            continue
        first, *rest = tensor.name.split(", then ")
        last = rest[-1] if rest else first
        if last in SYMBOLS:
            yield last, last
        else:  # "Ĝ", in the place of o; "[z > 0], one bit a unit"
            bits = re.match(r"\[(\w+) > 0\]", first)
            yield bits[1] if bits else first, last


def _read_again(table: Table, training: Plan, kept: set[str]) -> set[str]:
    """Of x, y and the parameters those that the backward pass reads; without ∂J/∂x, which nobody has asked for."""
    if "backward pass" not in training.phases:
        return set()
    made = {name for tensor in _waiting(training) for name in _symbols(tensor)}  # gradients of tiles: handed over
    needed = {f"d{name}" for name in training.setting.trained} - made
    givens = {given.name for given in table.givens}
    read: set[str] = set()
    for equation in reversed(list(table)):
        if equation.symbol not in needed or equation.direction != "backward":
            continue
        if "Ĝ" in kept and not any(name in needed or name.startswith("d") for name in equation.tensors):
            continue  # ∂J/∂o: made in the forward pass
        for term in equation.terms:
            if not term.coefficient.penalty or training.setting.weight_decay:
                tensors = {factor.symbol.name for factor in term.factors}
                read |= tensors & givens
                needed |= tensors - givens
    return read


def _symbols(tensor: Planned) -> Iterator[str]:
    if tensor.kind in _NAMED:
        yield from (name for name in tensor.name.split(", then ") if name in SYMBOLS)


def _totals(training: Plan, prediction: Plan, numbers: bool) -> Iterator[str]:
    setting = training.setting
    dtype = str(setting.dtype).removeprefix("torch.")
    sizes = f"B, d, h, q = {', '.join(map(str, (setting.batch, *setting.widths)))}" if numbers else "B, d, h, q large"
    yield f"{sizes} · {dtype}"
    if numbers:
        yield f"beside {training.given_bytes:,} bytes of parameters and batch"
        yield f"prediction takes {prediction.peak_bytes:,} bytes"
        yield f"training takes {training.peak_bytes:,} bytes"
        yield f"of them kept for backward {training.kept_bytes:,} bytes"
    else:
        yield "in bytes, beside parameters and batch"
        yield f"prediction takes {prediction.formula}"
        yield f"training takes {training.formula}"
        yield f"kept for backward {formula(_waiting(training), {})}"
