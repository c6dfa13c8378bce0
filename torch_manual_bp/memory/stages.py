"""The two stages of a pipeline: pipeline/deferred.py, gradients.py and loss.py in the order of a schedule.

How long upstream holds what it sends is not documented: it is as seen with torch 2.13. Buffers to receive into stand
from the first step on, one for each microbatch.
"""

from collections import deque

import torch

from ..pipeline.orders import order
from .ledger import Planned
from .machine import EXACT, Machine
from .setting import Setting
from .usual import Made

STAGES = 2
MH, MQ = ("m", "h"), ("m", "q")


def hidden_stage(m: Machine, s: Setting) -> None:
    """Stage 0: x, w1, b1, z and h."""
    _Hidden(m, s).run()


def output_stage(m: Machine, s: Setting) -> None:
    """Stage 1: w2, b2, o and the loss."""
    _Output(m, s).run()


class _Stage:
    """The actions of a stage; the gradients come with the first microbatch and are added to by the others."""

    index: int

    def __init__(self, m: Machine, s: Setting) -> None:
        self.m, self.s = m, s
        self.made: Made = {}
        self.of_first_backward = "h" if self.index == 0 else "dh"

    def run(self) -> None:
        """All microbatches, then J."""
        s = self.s
        for kind, i in order(s.schedule, self.index, STAGES, s.microbatches):
            if kind == "F":
                self.forward(i)
            if kind in "BI":
                self.backward(i)
            if kind in "BW":
                self.weights(i)
                self.after_weights(i)
        self.end()
        self._value()

    def forward(self, i: int) -> None:
        raise NotImplementedError

    def backward(self, i: int) -> None:
        raise NotImplementedError

    def weights(self, i: int) -> None:
        raise NotImplementedError

    def after_weights(self, i: int) -> None:
        """What a schedule lets go when a microbatch is done."""

    def end(self) -> None:
        """What goes with the schedule's end."""

    def gradient(self, name: str) -> Planned | None:
        """A new one of a parameter: the sum itself the first time, and then something that is added to it."""
        fresh = self.m.new(name, self.s.shape(name), self.s.dtype, "gradient")
        if name in self.made:
            return fresh
        self.made[name] = fresh
        return None

    def _value(self) -> None:
        """J = Σ_i L_i + s, which stays."""
        m, s = self.m, self.s
        L, total = m.new("L", (), s.sums), m.new("‖W‖²", (), s.sums)
        square = None
        if s.weight_decay:
            rows = s.shape(s.weight)[:1]
            norms = m.new("‖W‖ of each row", rows, s.sums)
            squares = m.new("‖W‖² of each row", rows, s.sums)
            m.free(norms)
            square = m.new("‖W‖²", (), s.sums)
            m.free(squares)
        with m.number(s.sums):
            penalty = m.new("s", (), s.sums)
        m.free(total, square)
        m.new("J", (), s.sums)
        m.free(L, penalty)


class _Hidden(_Stage):
    index = 0

    def __init__(self, m: Machine, s: Setting) -> None:
        super().__init__(m, s)
        m.stands("buffers for dh", (s.microbatches, *MH), s.dtype, "upstream gradient")
        self.h: dict[int, Planned] = {}
        self.z: dict[int, Planned] = {}

    def forward(self, i: int) -> None:
        """H = φ(X W1ᵀ + 1 b1ᵀ), which is sent."""
        m, s = self.m, self.s
        if not s.phi.from_output:
            self.z[i] = m.new("z", MH, s.dtype, "activation")
        self.h[i] = m.new("h", MH, s.dtype, "activation")

    def backward(self, i: int) -> None:
        """DZ = φ′(Z) ⊙ dH, in the buffer that dH came in, and db1."""
        m, s = self.m, self.s
        name = "db1" if "b1" in s.trained else None
        db1 = m.dact("m", s.dtype, name, s.activation == "identity")
        if db1 is not None and "db1" in self.made:
            m.free(db1)
        elif db1 is not None:
            self.made["db1"] = db1
        m.free(self.z.pop(i, None))

    def weights(self, i: int) -> None:
        """DW1 = dZᵀ X, added by the product itself."""
        if "dw1" not in self.made:
            self.gradient("dw1")

    def after_weights(self, i: int) -> None:
        """1F1B holds what it has sent until a microbatch later; the others until the end."""
        s = self.s
        if s.schedule != "1f1b":
            return
        last = s.microbatches - 1
        gone = [i - 1] if i < last else [i]
        if i == last - 1:
            gone.append(i)
        self.m.free(*(self.h.pop(j, None) for j in gone))

    def end(self) -> None:
        """The rest of what was sent goes."""
        self.m.free(*self.h.values())


class _Output(_Stage):
    index = 1

    def __init__(self, m: Machine, s: Setting) -> None:
        super().__init__(m, s)
        m.stands("buffers for h", (s.microbatches, *MH), s.dtype, "activation")
        self.G: deque[Planned] = deque()
        self.do: dict[int, Planned] = {}
        self.dh: deque[Planned] = deque()
        self._normalizer()
        self.losses: list[Planned] = []

    def _normalizer(self) -> None:
        m, s = self.m, self.s
        if s.loss.takes_classes:
            if s.on_cpu:
                m.brief("first bad label", (), torch.int64)
            if s.loss.reduction == "mean":
                m.brief("y ≠ ignore_index", ("B",), torch.bool)
        self.numbers = [
            m.new("normaliser", (), EXACT),
            m.new("scale of Ĝ", (), s.sums),
            m.new("numbers of microbatches", (s.microbatches,), torch.int64),
        ]

    def forward(self, i: int) -> None:
        """O = H W2ᵀ + 1 b2ᵀ, and the loss, which leaves Ĝ in its place."""
        m, s = self.m, self.s
        self.G.append(m.new("o, then Ĝ", MQ, s.dtype, "activation"))
        if s.schedule == "1f1b" and len(self.G) > 1:
            m.free(self.G.popleft())
        L, scale = m.loss(s.sums, "m", "q", s.loss.takes_classes, biased=False)
        with m.number(EXACT, s.sums if s.sums is not EXACT else EXACT):
            m.brief("L", (), EXACT)
        self.losses.append(m.new("L of a microbatch", (), s.sums))
        m.free(L, scale)

    def backward(self, i: int) -> None:
        """DO = scale · Ĝ; dH = dO W2, which is sent."""
        m, s = self.m, self.s
        dL = m.new("dL", (), s.sums)
        with m.held("dL · scale", (), s.sums):
            self.do[i] = m.new("do", MQ, s.dtype, "upstream gradient")
        self.dh.append(m.new("dh", MH, s.dtype, "upstream gradient"))
        m.free(dL)
        if s.schedule == "zero_bubble":
            m.free(self.G.popleft())

    def weights(self, i: int) -> None:
        """DW2 = dOᵀ H, added by the product itself; db2 = dOᵀ 1."""
        m, s = self.m, self.s
        if "dw2" not in self.made:
            self.gradient("dw2")
        if "b2" in s.trained:
            m.free(self.gradient("db2"))
        m.free(self.do.pop(i))

    def after_weights(self, i: int) -> None:
        """1F1B holds what it has sent until a microbatch later; the others until the end."""
        if self.s.schedule == "1f1b" and len(self.dh) > 1:
            self.m.free(self.dh.popleft())
        elif self.s.schedule == "gpipe":
            self.m.free(self.G.popleft())

    def end(self) -> None:
        """The rest of what was sent goes, and what the loss knew of the batch."""
        self.m.free(*self.G, *self.dh, *self.losses, *self.numbers)
