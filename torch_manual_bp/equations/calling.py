"""A student's function, called with values by the names of its arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .mlp import Table
from .notation import Notation
from .trials import Trial, symbols_of


def named_values(table: Table) -> tuple[str, ...]:
    """All that an argument may be called."""
    return (*symbols_of(table), "weight_decay", "batch")


def arguments(function: Any, known: Sequence[str], what: str, skip: int = 0) -> list[inspect.Parameter]:
    """The parameters that are to be filled; one with an unknown name and a default is left alone.

    Raises:
        TypeError: a parameter that is none of the known names; the message lists them.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):
        raise TypeError(f"check: {what} must be a function whose arguments have names, got {function!r}") from None
    wanted = []
    for parameter in parameters:
        if parameter.name in known or parameter.kind is parameter.VAR_KEYWORD:
            wanted.append(parameter)
        elif parameter.default is parameter.empty:
            raise TypeError(f"check: {what}: an argument must be one of {', '.join(known)}; got {str(parameter)!r}")
    return wanted


def call(function: Callable[..., Any], wanted: Sequence[inspect.Parameter], offered: Mapping[str, Any]) -> Any:
    """The function's result, each argument filled by its name."""
    positional = [offered[p.name] for p in wanted if p.kind is p.POSITIONAL_ONLY]
    rest = any(p.kind is p.VAR_KEYWORD for p in wanted)
    named = {p.name for p in wanted if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    taken = {p.name for p in wanted if p.kind is p.POSITIONAL_ONLY}
    return function(*positional, **{n: v for n, v in offered.items() if n in named or (rest and n not in taken)})


def offered(table: Table, trial: Trial, notation: Notation) -> dict[str, Any]:
    """Every named value, in the student's notation."""
    symbols = symbols_of(table)
    return {name: notation.hand_out(symbols.get(name), trial.values[name]) for name in named_values(table)}


def attempt(compute: Callable[[], Any]) -> tuple[Any, str]:
    """The result, or in one line what kept it from coming; NotImplementedError is how unfinished functions say so."""
    try:
        return compute(), ""
    except NotImplementedError:
        return None, ""
    except Exception as error:  # whatever a student's code may raise is an answer to report
        return None, " ".join(f"{type(error).__name__}: {error}".split())
