"""The comparison: the same net in torch's own modules and loss, by autograd; λ is left to the optimizer.

``loss(nn.Sequential(nn.Linear, φ, nn.Linear)(x), y).backward()``
"""

from collections.abc import Callable

from .ledger import Planned
from .machine import Machine
from .setting import Setting
from .usual import BH, BQ

SAVES_OUTPUT = ("relu", "tanh", "sigmoid")  # what torch's φ keeps for its backward pass; the others keep their input


def gradient_by_autograd(m: Machine, s: Setting) -> None:
    """Forward and backward; gradients and J stay."""
    dtype, needs, identity = s.dtype, s.needs, s.activation == "identity"
    saves_output = needs.dz and (s.activation in SAVES_OUTPUT or identity)
    saves_input = needs.dz and not saves_output
    m.begin("forward pass")
    z = h = m.new("h" if identity else "z", BH, dtype, "activation")
    m.mm(("B", "d"), ("d", "h"), dtype)
    if not identity:
        h = m.new("h", BH, dtype, "activation")
        m.free(None if saves_input else z)
    o = m.new("o", BQ, dtype, "activation")
    m.mm(("B", "h"), ("h", "q"), dtype)
    h_is_saved = needs.w2 or (saves_output and not identity)
    m.free(None if h_is_saved else h)
    do, dJ = _LOSSES[s.loss.name](m, s, o)
    dh: Planned | None = None
    if needs.dz:
        dh = m.new("dh", BH, dtype, "upstream gradient")
        m.mm(("B", "q"), ("q", "h"), dtype)
    if needs.w2:
        m.new("dw2", ("q", "h"), dtype, "gradient")
        m.mm(("q", "B"), ("B", "h"), dtype, transposed=True)
    if needs.b2:
        m.new("db2", ("q",), dtype, "gradient")
    m.free(do, h if h_is_saved and (identity or not saves_output) else None)
    if needs.dz:
        dz = dh
        if not identity:
            dz = m.new("dz", BH, dtype, "upstream gradient")
            m.free(dh, h if saves_output else z)
        if needs.x:
            m.new("dx", ("B", "d"), dtype, "gradient")
            m.mm(("B", "h"), ("h", "d"), dtype)
        if needs.w1:
            m.new("dw1", ("h", "d"), dtype, "gradient")
            m.mm(("h", "B"), ("B", "d"), dtype, transposed=True)
        if needs.b1:
            m.new("db1", ("h",), dtype, "gradient")
        m.free(dz)
    m.free(dJ)


def _cross_entropy(m: Machine, s: Setting, o: Planned) -> tuple[Planned, Planned]:
    p = m.new("log softmax(o)", BQ, s.dtype, "activation")
    m.new("J", (), s.dtype)
    N = m.new("N", (), s.dtype)
    m.free(o)
    m.begin("backward pass")
    dJ = m.new("dJ", (), s.dtype)
    dp = m.new("∂J/∂log softmax(o)", BQ, s.dtype, "upstream gradient")
    m.free(N)
    do = m.new("do", BQ, s.dtype, "upstream gradient")
    m.free(dp, p)
    return do, dJ


def _mse(m: Machine, s: Setting, o: Planned) -> tuple[Planned, Planned]:
    with m.held("(o − y)²", BQ, s.dtype):
        m.new("J, in the memory of (o − y)²", BQ, s.dtype)  # torch leaves it there
        with m.number(s.dtype):
            pass
    m.begin("backward pass")
    dJ = m.new("dJ", (), s.dtype)
    do = m.new("do", BQ, s.dtype, "upstream gradient")
    m.free(o)
    return do, dJ


def _bce_with_logits(m: Machine, s: Setting, o: Planned) -> tuple[Planned, Planned]:
    with m.held("log σ(o)", BQ, s.dtype):
        m.brief("buffer of log σ", BQ, s.dtype)
        with m.held("l(o, y)", BQ, s.dtype):
            m.new("J", (), s.dtype)
            with m.number(s.dtype):
                pass
    m.begin("backward pass")
    dJ = m.new("dJ", (), s.dtype)
    do = m.new("do", BQ, s.dtype, "upstream gradient")
    with m.number(s.dtype):
        pass
    m.free(o)
    return do, dJ


_LOSSES: dict[str, Callable[[Machine, Setting, Planned], tuple[Planned, Planned]]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "bce_with_logits": _bce_with_logits,
}
