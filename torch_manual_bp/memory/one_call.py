"""One call of the extension: csrc/cpu/one_call.cpp, small_net.cpp and large_net.cpp; csrc/cuda/one_call.cu."""

from .. import kernels
from .cuda import small_net_sums
from .ledger import Planned
from .machine import BYTE, EXACT, Machine, scratch
from .setting import Setting
from .usual import BH, BQ, Made


def of_call(s: Setting) -> kernels.Scratch:
    """What the ops of this batch take beside their results."""
    return scratch(s.batch, *s.widths, s.activation, s.dtype)


def accumulated(m: Machine, s: Setting) -> None:
    """`objective_gradient_` into new gradients, which stay with J."""
    for name in s.trained:
        m.new(f"d{name}", s.shape(f"d{name}"), s.dtype, "gradient")
    sums = _gradient(m, s)
    m.new("J", (), s.dtype)
    m.free(*sums)


def stepped(m: Machine, s: Setting) -> None:
    """`objective_sgd_` and `objective_adam_`, bound; J stays."""
    if s.on_cpu and s.optimizer == "sgd" and not s.clipped and not of_call(s).gradient:
        work = _Pass(m, s)  # there is no dW1, nor, but for few outputs, a dW2
        m.new("J", (), s.dtype)
        m.free(*work.sums.values(), *work.factors)
        return
    sums = _gradient(m, s)
    m.new("J", (), s.dtype)
    m.free(*sums)


def _gradient(m: Machine, s: Setting) -> list[Planned]:
    """The sums of a pass: `gradient_of`."""
    if not s.on_cpu:
        chunks, stride = small_net_sums(s.batch, *s.widths)
        return [
            m.new("sums of each chunk of rows", (chunks, stride), s.dtype, "scratch"),
            m.new("loss, weight and squares of each chunk", (chunks, 3), EXACT, "scratch"),
        ]
    small = of_call(s).gradient
    if small:
        return [m.new("pass of a small net", (small,), BYTE, "scratch")]
    work = _Pass(m, s)
    for name in ("w1", "w2"):
        if name in s.trained:
            work.sum(f"d{name}")  # a product, unless it is there
    m.free(*work.factors)
    return list(work.sums.values())


class _Pass:
    """`large_pass`: it leaves sums by dX, and the factors of the weights' gradients."""

    def __init__(self, m: Machine, s: Setting) -> None:
        self.m, self.s = m, s
        self.sums: Made = {}
        taken, needs = of_call(s), s.needs
        keeps_z = needs.dz and not s.phi.from_output
        z = m.new("z" if keeps_z else "z, then h", BH, s.dtype, "activation")
        self.factors = [z]
        if taken.layer:
            z.name = "z, then dz"
            self._narrow(taken)
            return
        if keeps_z:
            self.factors.append(m.new("h", BH, s.dtype, "activation"))
        self.factors.append(m.new("o, then Ĝ", BQ, s.dtype, "activation"))
        if needs.b2:
            self.sum("db2")
        if needs.dz:
            self.factors.append(m.new("dh, then dz", BH, s.dtype, "upstream gradient"))
            db1 = m.dact("B", s.dtype, "db1" if needs.b1 else None, s.activation == "identity")
            self.sums |= {} if db1 is None else {"db1": db1}
        if keeps_z:
            self.factors.remove(z)
            m.free(z)

    def _narrow(self, taken: kernels.Scratch) -> None:
        """With few outputs: blocks of rows go from z to dz, over threads."""
        m, needs = self.m, self.s.needs
        layer = m.new("output layer, prepared", (taken.layer,), BYTE, "scratch")
        sums = m.new("sums of parts of the rows", (taken.sums,), BYTE, "scratch")
        m.brief("blocks of rows", (taken.blocks,), BYTE, "scratch")
        for name in ("b1", "w2", "b2"):
            if getattr(needs, name):
                self.sum(f"d{name}")
        m.free(layer, sums)

    def sum(self, name: str) -> None:
        """∂L/∂X, up to the scale of Ĝ."""
        if name not in self.sums:
            self.sums[name] = self.m.new(f"{name}, unscaled", self.s.shape(name), self.s.dtype, "gradient")
