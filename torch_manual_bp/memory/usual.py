"""The usual loop, J = objective(x, y); J.backward(): autograd/objective.py, functions.py and fused.py, line for line.

This and the other modules that describe a path (`tiles`, `one_call`, `update`, `prediction`, `eager`) are that path's
code once more, with a line for each tensor in place of each call. A test holds them to what the code does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from ..autograd.keep import what_to_keep
from .ledger import Planned
from .machine import BYTE, Machine
from .setting import Setting

BH, BQ = ("B", "h"), ("B", "q")

Made = dict[str, Planned]


class Kept(NamedTuple):
    """What the forward pass leaves: the kept tensor, Ĝ, its scale."""

    s: Planned | None
    G: Planned
    scale: Planned


def gradient_by_backward(m: Machine, s: Setting) -> None:
    """Forward pass, backward pass; the gradients and J stay."""
    if s.product is not s.dtype:
        _under_autocast(m, s)
        return
    with arguments(m, s):
        _backward(m, s, _forward(m, s))


@contextmanager
def arguments(m: Machine, s: Setting) -> Iterator[None]:
    """The batch as the path takes it, its labels checked."""
    if s.loss.takes_classes:
        if s.on_cpu:
            m.brief("first bad label", (), torch.int64)
    elif s.product.itemsize > s.dtype.itemsize:
        with m.held("y in another dtype", s.shape("y"), s.product):
            yield
        return
    yield


def hidden(m: Machine, s: Setting, keep: str) -> tuple[Planned, Planned | None]:
    """H and the kept tensor: `fused.hidden`."""
    z = m.new("z, then h", BH, s.product, "activation") if keep != "z" else m.new("z", BH, s.product, "activation")
    m.mm(("B", "d"), ("d", "h"), s.product)  # Z = X W1ᵀ
    if keep == "z":
        return m.new("h", BH, s.product, "activation"), z
    if keep == "mask":
        return z, m.new("[z > 0], one bit a unit", ("B", "⌈h/8⌉"), BYTE, "activation")
    return z, z if keep == "h" else None


def _forward(m: Machine, s: Setting) -> Kept:
    """`ObjectiveForward.forward`."""
    m.begin("forward pass")
    h, kept = hidden(m, s, what_to_keep(s.phi, s.save, s.needs))
    G = m.new("o, then Ĝ", BQ, s.product, "activation")
    m.mm(("B", "h"), ("h", "q"), s.product)  # O = H W2ᵀ
    if h is not kept:
        m.free(h)
    L, scale = m.loss(s.sums, "B", "q", s.loss.takes_classes, "b2" in s.parameters)
    if s.weight_decay:
        squares = m.squared_norms(s.weights, s.dtype, s.sums)
        m.new("J", (), s.sums)
        m.free(squares, L)
    return Kept(kept, G, scale)


def _backward(m: Machine, s: Setting, kept: Kept) -> Made:
    """`ObjectiveForward.backward` and `fused.backward`; the gradients."""
    made: Made = {}
    needs, keep = s.needs, what_to_keep(s.phi, s.save, s.needs)
    m.begin("backward pass")
    dJ = m.new("dJ", (), s.sums)
    with m.held("dJ · scale", (), s.sums):
        do = m.new("do", BQ, s.product, "upstream gradient")
    again = None
    if keep == "input":
        again = m.new("z", BH, s.product, "activation")
        m.mm(("B", "d"), ("d", "h"), s.product)  # Z once more

    def gradient(name: str, left: str, right: str) -> None:
        made[name] = m.new(name, s.shape(name), s.product, "gradient")
        m.mm((left, "B"), ("B", right), s.product, transposed=True)

    if needs.w2:
        h = None if keep == "h" else m.new("h", BH, s.product, "activation")
        gradient("dw2", "q", "h")  # dW2 = dOᵀ H
        m.free(h)
    if needs.b2:
        made["db2"] = m.new("db2", ("q",), s.product, "gradient")
    if needs.dz:
        dz = m.new("dh, then dz", BH, s.product, "upstream gradient")
        m.mm(("B", "q"), ("q", "h"), s.product)  # dH = dO W2
        db1 = m.dact("B", s.product, "db1" if needs.b1 else None, s.activation == "identity")
        if db1 is not None:
            made["db1"] = db1
        if needs.w1:
            gradient("dw1", "h", "d")  # dW1 = dZᵀ X
        if needs.x:
            made["dx"] = m.new("dx", ("B", "d"), s.product, "gradient")
            m.mm(("B", "h"), ("h", "d"), s.product)  # dX = dZ W1
        m.free(dz)
    m.free(again)
    for name in s.weights:
        if getattr(needs, name) and s.weight_decay:
            m.cast((), s.sums, s.dtype)  # dJ, for λW
    m.free(do, *kept, dJ)
    return made


def _under_autocast(m: Machine, s: Setting) -> None:
    """Copies of x and the parameters in autocast's dtype; the penalty, which is theirs, beside: `door.objective`."""
    names = ("x", *s.parameters)
    copies = {name: m.new(f"{name} in another dtype", s.shape(name), s.product) for name in names}
    bare = replace(s, weight_decay=0.0)
    with arguments(m, s):
        kept = _forward(m, bare)
        needs, again = s.needs, what_to_keep(s.phi, s.save, s.needs) == "input"
        saved = {"x": needs.w1 or again, "w1": needs.x or again, "b1": again, "w2": needs.dz, "b2": False}
        m.free(*(copies.pop(name) for name in names if not saved[name]))
        penalties = _penalty(m, s) if s.weight_decay else {}
        made = _backward(m, bare, kept)
        m.free(*copies.values())
        for name, gradient in made.items():
            longer = m.new(name, gradient.shape, s.dtype, "gradient")
            m.free(gradient, longer if name in penalties else None)


def _penalty(m: Machine, s: Setting) -> Made:
    """λW as autograd makes it: the first part of a weight's gradient, to which the other is added."""
    norms = []
    for name, shape in s.weights.items():
        with m.held(f"{name}²", shape, s.dtype):
            norms.append(m.new(f"‖{name}‖²", (), s.dtype))
    m.free(*norms)
    made = {}
    for name, shape in reversed(s.weights.items()):
        if getattr(s.needs, name):
            with m.held(f"{name}¹", shape, s.dtype):
                with m.number(s.dtype):
                    twice = m.new(f"2 {name}", shape, s.dtype)
                made[f"d{name}"] = m.new(f"d{name}", shape, s.dtype, "gradient")
                m.free(twice)
    return made
