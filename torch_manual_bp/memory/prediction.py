"""Prediction, ``mlp(x)`` without gradients: `fused.forward` and csrc/cpu/one_call.cpp."""

from .machine import BYTE, Machine
from .one_call import of_call
from .setting import Setting
from .usual import BH, BQ, hidden


def predicted(m: Machine, s: Setting) -> None:
    """O, which stays."""
    copies = []
    if s.product is not s.dtype:
        copies = [m.new(f"{name} in another dtype", s.shape(name), s.product) for name in ("x", *s.parameters)]
    if s.product.itemsize == 2 or not s.on_cpu:
        h, _ = hidden(m, s, "nothing")
        m.new("o", BQ, s.product, "activation")
        m.mm(("B", "h"), ("h", "q"), s.product)  # O = H W2ᵀ
        m.free(h)
    elif small := of_call(s).forward:
        m.new("o", BQ, s.product, "activation")
        m.brief("pass of a small net", (small,), BYTE, "scratch")
    else:
        with m.held("z, then h", BH, s.product, "activation"):
            m.new("o", BQ, s.product, "activation")
    m.free(*copies)
