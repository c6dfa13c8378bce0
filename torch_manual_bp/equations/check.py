"""`check`: which equation of a derivation is wrong, and how."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

import torch

from .activations import Activation, activation_named
from .diagnose import judge
from .localise import localise
from .mistakes import Catalogue
from .mlp import Table, table
from .notation import LAYOUTS, VALUES, Notation
from .report import Report
from .student import asked_for, output_of, run_backward, run_equation, run_function
from .trials import trials

Mine = Mapping[str, Callable[..., Any]] | Callable[..., Any] | type[torch.autograd.Function]


def check(
    mine: Mine,
    activation: str | Activation = "relu",
    loss: str = "cross_entropy",
    *,
    weight_decay: float = 0.3,
    hidden_bias: bool = True,
    output_bias: bool = True,
    layout: str = "rows",
    values: str = "torch",
) -> Report:
    """Hold a derivation against the table, equation by equation, and say what is wrong with it.

    >>> mine = {"dw2": lambda do, h, w2, weight_decay: do.T @ h + weight_decay * w2}
    >>> check(mine, activation="tanh").ok
    True
    >>> check({"dw2": lambda do, h: do.T @ h}, activation="tanh").kinds
    {'dw2': 'missing weight decay'}

    ``mine`` is one of three:

    - A dictionary from symbols to functions. Arguments are filled by their names: x, y, w1, b1, z, h, w2, b2, o, do,
      dh, dz and the table's other symbols, weight_decay (λ) and batch (B). Each function gets true values, also of the
      gradients that come before, so that no error reaches the next equation. Symbols that are missing are not checked;
      a function that returns nothing is not filled in.
    - A backward function of the same names. It returns a dictionary by symbol, or the gradients of w1, b1, w2, b2, or
      of x, w1, b1, w2, b2, in this order. Beside them do, dh and dz make a mistake easier to find.
    - A ``torch.autograd.Function`` class. Its ``forward`` takes x, w1, b1, w2, b2 by name and returns o (B,q); or it
      takes y as well, and weight_decay if it likes, and returns J.

    In the last two a wrong value may come from an earlier equation: the mistake that explains the most is blamed.

    Args:
        mine: the derivation.
        activation: a name of `ACTIVATIONS`.
        loss: "cross_entropy", "mse" or "bce_with_logits", each the mean over the batch.
        weight_decay: λ.
        hidden_bias: whether there is a b1.
        output_bias: whether there is a b2.
        layout: "rows" (x (B,d)); "columns" (x (d,B), z (h,B), b1 (h,1): dw1 = dz xᵀ); or "in_out" (rows, with
            w1 (d,h) and w2 (h,q): z = x w1). Results are expected in the same.
        values: "torch", or "numpy" for arrays. Either may be returned; in float32 it is held to float32's accuracy.

    Raises:
        ValueError: an unknown activation, loss, layout or symbol; a λ below 0; a tuple of another length.
        TypeError: an argument with an unknown name (the message lists the valid ones); ``mine`` is none of the three.
    """
    for name, given, known in (("layout", layout, tuple(LAYOUTS)), ("values", values, VALUES)):
        if given not in known:
            raise ValueError(f"check: {name} must be one of {', '.join(known)}; got {given!r}")
    if not 0 <= weight_decay < inf:
        raise ValueError(f"check: weight_decay must be finite and not negative, got {weight_decay}")
    phi = activation if isinstance(activation, Activation) else activation_named(activation, "check")
    equations = table(phi, loss, hidden_bias, output_bias)
    notation = Notation(layout, values)
    if isinstance(mine, Mapping):
        return _equations(mine, equations, phi, weight_decay, notation)
    if isinstance(mine, type) and issubclass(mine, torch.autograd.Function):
        return _function(mine, equations, phi, weight_decay, Notation(layout))
    if not callable(mine):
        expected = "a dictionary of functions, a function or an autograd.Function"
        raise TypeError(f"check: mine must be {expected}, got {type(mine).__name__}")
    cases = trials(equations, weight_decay)
    runs = run_backward(equations, mine, cases, notation)
    return localise(
        _title(equations, weight_decay), equations, cases, runs, asked_for(mine, equations), Catalogue(equations, phi)
    )


def _equations(
    mine: Mapping[str, Callable[..., Any]], equations: Table, phi: Activation, weight_decay: float, notation: Notation
) -> Report:
    known = [equation.symbol for equation in equations]
    for symbol, function in mine.items():
        if symbol not in known:
            raise ValueError(f"check: a symbol must be one of {', '.join(known)}; got {symbol!r}")
        if not callable(function):
            raise TypeError(f"check: {symbol} must be a function, got {type(function).__name__}")
    cases, catalogue = trials(equations, weight_decay), Catalogue(equations, phi)
    findings = tuple(
        judge(e, cases, run_equation(equations, e.symbol, mine[e.symbol], cases, notation), catalogue)
        for e in equations
        if e.symbol in mine
    )
    backward = [e.symbol for e in equations if e.direction == "backward"]
    unfilled = [f.equation.symbol for f in findings if f.verdict == "not filled in"]
    unchecked = tuple(s for s in known if s in unfilled or (s in backward and s not in mine))
    return Report(_title(equations, weight_decay), findings, unchecked)


def _function(
    mine: type[torch.autograd.Function], equations: Table, phi: Activation, weight_decay: float, notation: Notation
) -> Report:
    given: tuple[str, ...] = ()
    if output_of(mine) == "o":  # an MLP knows of no penalty, and is sent ∂J/∂o
        bare = [replace(e, terms=tuple(t for t in e.terms if not t.coefficient.penalty) or e.terms) for e in equations]
        equations, given = Table(bare, equations.activation, equations.loss), ("do",)
    cases = trials(equations, weight_decay)
    runs = run_function(equations, mine, cases, notation)
    return localise(_title(equations, weight_decay), equations, cases, runs, given, Catalogue(equations, phi))


def _title(equations: Table, weight_decay: float) -> str:
    return f"one hidden layer, φ = {equations.activation}, l = {equations.loss}, λ = {weight_decay:g}"
