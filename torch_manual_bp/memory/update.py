"""The update: training/update.py, and the ``step()`` of torch's optimizers."""

import torch

from .ledger import Planned
from .machine import EXACT, Machine
from .setting import Setting
from .tiles import Tiles, add_penalty, room
from .usual import arguments

_STATE = {"momentum": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}
_COLUMNS = {"sgd": 4, "momentum": 4, "adamw": 6}  # of the numbers of each parameter


def state_stands(m: Machine, s: Setting) -> None:
    """The optimizer's state, from the second step on."""
    for parameter in s.trained:
        for name in _STATE.get(s.optimizer or "", ()):
            m.stands(f"{name} of {parameter}", s.shape(parameter), s.dtype, "optimizer state")
        if s.optimizer == "adamw":
            m.stands(f"step of {parameter}", (), torch.float32, "optimizer state")


def own_step(m: Machine, s: Setting) -> None:
    """``optimizer.step()`` as torch has it: on the CPU one parameter after the other."""
    if s.optimizer is not None:
        m.begin("update")
    if s.optimizer == "momentum":
        with m.number(s.dtype):
            pass
    if s.optimizer != "adamw":
        return
    if not s.on_cpu:  # all parameters at once
        m.free(*[m.new(f"√v of {name}", s.shape(name), s.dtype) for name in s.trained])
        return
    before: Planned | None = None  # a local of its loop
    for name in s.trained:
        root = m.new(f"√v of {name}", s.shape(name), s.dtype)
        with m.number(s.dtype):
            denominator = m.new(f"√v of {name}, corrected", s.shape(name), s.dtype)
        m.free(root)
        m.free(before)
        before = denominator
    m.free(before)


def stepped_with_sums(m: Machine, s: Setting) -> None:
    """Sums in the workspace, then the fused update in one call."""
    with arguments(m, s):
        Tiles(m, s, room(m, s, s.trained))
        if s.on_cpu:
            m.brief("the optimizer's numbers", (len(s.trained), _COLUMNS[s.optimizer or "sgd"]), EXACT)


def stepped_in_products(m: Machine, s: Setting) -> None:
    """Plain SGD of a 16-bit net, in the weights' own products."""
    with arguments(m, s):
        Tiles(m, s, room(m, s, tuple(name for name in s.trained if name not in s.weights)), in_update=True)
        numbers = m.new("the optimizer's numbers", (len(s.trained), _COLUMNS["sgd"]), EXACT) if s.on_cpu else None
        m.mm(("h", "B"), ("B", "d"), s.product, transposed=True, add=True)
        m.mm(("q", "B"), ("B", "h"), s.product, transposed=True, add=True)
        m.free(numbers)


def stepped_by_optimizer(m: Machine, s: Setting) -> None:
    """Gradients that the optimizer's own ``step()`` is shown, in place of those that the parameters have."""
    with arguments(m, s):
        sums = room(m, s, s.trained)
        Tiles(m, s, sums)
        add_penalty(m, s, sums)
        others = {name: total for name, total in sums.items() if total.dtype is not s.dtype}
        shown = [m.new(name, total.shape, s.dtype, "gradient") for name, total in others.items()]
        own_step(m, s)
        m.free(*shown, *sums.values())
