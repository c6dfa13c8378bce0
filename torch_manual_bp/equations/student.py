"""The three forms in which a derivation may come, each run on every trial.

They are: functions of named values, one an equation; one backward function of named values, which returns gradients; an
``autograd.Function``. The names are the symbols', ``weight_decay`` (λ) and ``batch`` (B).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .calling import arguments, attempt, call, named_values, offered
from .mlp import Table
from .notation import Notation
from .trials import Outcome, Trial, agree

Run = dict[str, Outcome] | str  # what came of each symbol, or the error that was raised instead


def asked_for(function: Callable[..., Any], table: Table) -> tuple[str, ...]:
    """The symbols of the table whose values a function is handed."""
    names = [parameter.name for parameter in arguments(function, named_values(table), "backward")]
    return tuple(equation.symbol for equation in table if equation.symbol in names)


def run_equation(
    table: Table, symbol: str, function: Callable[..., Any], cases: Sequence[Trial], notation: Notation
) -> list[Outcome]:
    """The outcome of each trial for a function of named values.

    Raises:
        TypeError: an argument has an unknown name.
    """
    wanted = arguments(function, named_values(table), symbol)
    outcomes = []
    for trial in cases:
        values = offered(table, trial, notation)
        result, problem = attempt(lambda: call(function, wanted, values))  # noqa: B023  (called at once)
        outcomes.append(Outcome(problem=problem) if problem else notation.take_back(table[symbol].lhs, result, trial))
    return outcomes


def run_backward(table: Table, function: Callable[..., Any], cases: Sequence[Trial], notation: Notation) -> list[Run]:
    """What a backward function returned in each trial, by symbol, or the error that it raised.

    It returns a dictionary by symbol; or a tuple: the gradients of w1, b1, w2, b2, or of x, w1, b1, w2, b2.

    Raises:
        TypeError: an argument has an unknown name, or what is returned is no dictionary and no tuple.
        ValueError: an unknown symbol is returned, or a tuple of another length.
    """
    wanted = arguments(function, named_values(table), "backward")
    runs: list[Run] = []
    for trial in cases:
        values = offered(table, trial, notation)
        result, problem = attempt(lambda: call(function, wanted, values))  # noqa: B023  (called at once)
        if problem:
            runs.append(problem)
            continue
        gradients = {} if result is None or result is ... else by_symbol(result, table)
        runs.append({s: notation.take_back(table[s].lhs, value, trial) for s, value in gradients.items()})
    return runs


def by_symbol(result: Any, table: Table) -> dict[str, Any]:
    """What a backward function returned, by symbol."""
    gradients = [f"d{given.name}" for given in table.givens if given.name != "y"]  # dx, dw1, db1, dw2, db2
    if isinstance(result, Mapping):
        if unknown := [name for name in result if name not in {equation.symbol for equation in table}]:
            known = ", ".join(equation.symbol for equation in table if equation.direction == "backward")
            raise ValueError(f"check: backward must return values of {known}; got one of {unknown[0]!r}")
        return dict(result)
    if not isinstance(result, tuple | list):
        raise TypeError(f"check: backward must return a dictionary or a tuple, got {type(result).__name__}")
    expected = gradients if len(result) == len(gradients) else gradients[1:]
    if len(result) != len(expected):
        raise ValueError(
            f"check: backward must return {len(gradients) - 1} gradients, {', '.join(gradients[1:])}, or "
            f"{len(gradients)}, with dx in front; got {len(result)}"
        )
    return dict(zip(expected, result, strict=True))


def run_function(
    table: Table, function: type[torch.autograd.Function], cases: Sequence[Trial], notation: Notation
) -> list[Run]:
    """What ``apply`` and the backward pass of an ``autograd.Function`` gave in each trial.

    ``forward`` takes x, w1, b1, w2, b2 by name, and if it computes J also y, and weight_decay if it likes. It returns
    o (B,q), and is sent the true ∂J/∂o, or J (0-dim), and is sent 1. Sent 2, it must give twice the gradients: an
    outcome says where it does not.

    Raises:
        TypeError: an argument has an unknown name.
    """
    skip = int(function.setup_context is torch.autograd.Function.setup_context)  # forward(ctx, x, …), or forward(x, …)
    known = [*(given.name for given in table.givens), "weight_decay", "batch"]
    arguments(function.forward, known, "forward", skip)
    parameters = list(inspect.signature(function.forward).parameters.values())[skip:]
    return [_run_once(table, function, parameters, trial, notation) for trial in cases]


def _run_once(
    table: Table,
    function: type[torch.autograd.Function],
    parameters: Sequence[inspect.Parameter],
    trial: Trial,
    notation: Notation,
) -> Run:
    output, leaves = output_of(function), [p.name for p in parameters if p.name in ("x", "w1", "b1", "w2", "b2")]

    def run(factor: float) -> tuple[Any, ...]:
        values = offered(table, trial, notation)
        inputs = [values[name].requires_grad_() for name in leaves]
        result = function.apply(*(values.get(p.name, p.default) for p in parameters))
        if not isinstance(result, Tensor):
            raise TypeError(f"forward must return {output} as a tensor, got {type(result).__name__}")
        upstream = torch.ones_like(result) if output == "J" else values["do"]
        return result, *torch.autograd.grad(result, inputs, factor * upstream, allow_unused=True)

    both, problem = attempt(lambda: (run(1), run(2)))
    if problem:
        return problem
    (result, *once), (_, *twice) = both
    outcomes = {output: notation.take_back(table[output].lhs, result, trial)}
    for name, first, second in zip(leaves, once, twice, strict=True):
        outcome = notation.take_back(table[f"d{name}"].lhs, first, trial)
        doubled = first is None or second is None or agree(second, 2 * first.double())
        outcomes[f"d{name}"] = outcome if doubled else replace(outcome, unscaled=True)
    return outcomes


def output_of(function: type[torch.autograd.Function]) -> str:
    """J where ``forward`` takes y, else o."""
    return "J" if "y" in inspect.signature(function.forward).parameters else "o"
