"""After a run: each equation's value, its norm, and how far it is from autograd.

An equation is evaluated on the reference's own inputs. So a wrong one is wrong alone: what is computed from it is not
blamed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..equations import ACTIVATIONS, Table
from ..equations import table as table_of
from .model import Facts


def run(table: Table, values: Mapping[str, Any]) -> dict[str, Facts]:
    """Norms of all tensors; of what equations give, the largest error too, over the reference's largest value.

    The reference is float64: the forward equations as torch's autograd differentiates them.

    Args:
        table: the equations.
        values: x, y, the parameters and ``weight_decay``, as of `Table.evaluate`; besides, under an equation's name,
            what somebody else has computed for it: that is then compared in its place.

    Raises:
        KeyError, ValueError: as of `Table.evaluate`; a name that is not the table's.
    """
    right = _written_by_us(table)
    givens = {given.name for given in (*table.givens, *right.givens)}
    symbols = {equation.symbol for equation in table}
    unknown = set(values) - givens - symbols - {"weight_decay"}
    if unknown:
        known = ", ".join([*sorted(givens), "weight_decay", *(equation.symbol for equation in table)])
        raise ValueError(f"draw: values must be of {known}; got {', '.join(sorted(unknown))}")
    given = {name: value for name, value in values.items() if name not in symbols}
    right.evaluate(given)  # its checks, with their words
    reference = _by_autograd(right, given)
    facts = {name: Facts(norm=_norm(reference[name])) for name in givens}
    for equation in table:
        name, exact = equation.symbol, reference[equation.symbol]
        mine = values[name] if name in values else equation.evaluate(reference)
        tolerance = torch.finfo(mine.dtype).eps ** 0.5 if mine.is_floating_point() else 0.0
        if tuple(mine.shape) != tuple(exact.shape):
            raise ValueError(f"draw: {name} must have shape {tuple(exact.shape)}, got {tuple(mine.shape)}")
        mine = mine.detach().to("cpu", torch.float64)
        error = _error(mine, exact)
        facts[name] = Facts(norm=_norm(mine), error=error, wrong=not error <= tolerance)
    return facts


def _norm(value: Tensor) -> float:
    return float(value.double().norm())


def _error(mine: Tensor, exact: Tensor) -> float:
    """The largest difference over the largest value (absolute where all is 0)."""
    if not exact.numel():
        return 0.0
    scale = float(exact.abs().max())
    return float((mine - exact).abs().max()) / (scale or 1.0)


def _by_autograd(table: Table, given: Mapping[str, Any]) -> dict[str, Any]:
    """All tensors by name: the forward equations' values, and their gradients by autograd."""
    gradients = [equation.symbol for equation in table if equation.direction == "backward"]
    known: dict[str, Any] = {"weight_decay": float(given.get("weight_decay", 0.0))}
    for symbol in table.givens:
        value = given[symbol.name].detach().cpu()
        known[symbol.name] = value.double() if value.is_floating_point() else value
        if f"d{symbol.name}" in gradients:
            known[symbol.name] = known[symbol.name].clone().requires_grad_()
    forward = [equation for equation in table if equation.direction == "forward"]
    with torch.enable_grad():
        for equation in forward:
            known[equation.symbol] = equation.evaluate(known)
        found = torch.autograd.grad(known[forward[-1].symbol], [known[name[1:]] for name in gradients])
    known.update(zip(gradients, found, strict=True))
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in known.items()}


def _written_by_us(table: Table) -> Table:
    """The package's own table of the same net, so that a wrong forward equation is seen too; else the given one."""
    names = {equation.symbol for equation in table}
    if table.activation not in ACTIVATIONS:
        return table
    ours = table_of(table.activation, table.loss, "db1" in names, "db2" in names)
    same = [equation.symbol for equation in ours] == [equation.symbol for equation in table]
    return ours if same else table
