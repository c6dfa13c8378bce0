"""Forward, backward and the tangent routine in plain differentiable torch, out of place.

Functorch, compilers and the passes of higher order run these: whatever is recorded here can be differentiated again.
Shapes: x (B,d), w1 (h,d), b1 (h,), w2 (q,h), b2 (q,), o and do (B,q), z, h, dh, dz (B,h). ``None`` stands for a zero
tensor: a term with a factor that is absent is absent.
"""

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..equations import Activation, Loss
from . import state
from .keep import Hidden, Needs

Maybe = Tensor | None
Gradients = tuple[Maybe, Maybe, Maybe, Maybe, Maybe]


def composition(x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, phi: Activation) -> Tensor:
    """O = φ(X W1ᵀ + 1 b1ᵀ) W2ᵀ + 1 b2ᵀ, left to torch's own autograd."""
    return F.linear(phi.phi(F.linear(x, w1, b1)), w2, b2)


def forward(
    x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, phi: Activation, keep: str
) -> tuple[Tensor, Maybe]:
    """O, and the kept tensor of kind "h" or "z" (None for "input" and "nothing")."""
    z = F.linear(x, w1, b1)  # Z = X W1ᵀ + 1 b1ᵀ
    h = phi.phi(z)  # H = φ(Z)
    o = F.linear(h, w2, b2)  # O = H W2ᵀ + 1 b2ᵀ
    return o, {"h": h, "z": z}.get(keep)


def backward(
    do: Maybe, ds: Maybe, x: Maybe, w1: Maybe, b1: Maybe, w2: Maybe, hidden: Hidden, needs: Needs
) -> Gradients:
    """(dx, dw1, db1, dw2, db2) for the cotangents of O and of the kept tensor; None where not needed."""
    dw2 = mm(T(do), hidden.h) if needs.w2 and do is not None else None  # dW2 = dOᵀ H
    db2 = rows(do) if needs.b2 else None  # db2 = dOᵀ 1
    if not needs.dz:
        return None, None, None, dw2, db2
    dz = _dz(do, ds, w2, hidden)
    return (
        mm(dz, w1) if needs.x else None,  # dX = dZ W1
        mm(T(dz), x) if needs.w1 else None,  # dW1 = dZᵀ X
        rows(dz) if needs.b1 else None,  # db1 = dZᵀ 1
        dw2,
        db2,
    )


def _dh(do: Maybe, ds: Maybe, w2: Maybe, hidden: Hidden) -> Maybe:
    return add(mm(do, w2), ds if hidden.kind == "h" else None)  # dH = dO W2


def _dz(do: Maybe, ds: Maybe, w2: Maybe, hidden: Hidden) -> Maybe:
    dh = _dh(do, ds, w2, hidden)
    dz = None if dh is None else hidden.dphi(dh) * dh  # dZ = φ′(Z) ⊙ dH
    return add(dz, ds if hidden.kind == "z" else None)


def objective(
    o: Tensor,
    y: Tensor,
    w1: Tensor,
    w2: Tensor,
    loss: Loss,
    class_weight: Maybe,
    row_weight: Maybe,
    weight_decay: float,
) -> Tensor:
    """J = L + λ/2 (‖W1‖² + ‖W2‖²) for logits (..., q); L and s at least in float32."""
    y, class_weight, row_weight = loss_rows(loss, y, class_weight, row_weight, o.dtype)
    with state.without_autocast(o.device.type):
        L = loss.value(matrix(o), y, class_weight, row_weight)
        return L + penalty(w1, w2, weight_decay) if weight_decay else L


def penalty(w1: Tensor, w2: Tensor, weight_decay: float) -> Tensor:
    """S = λ/2 (‖W1‖² + ‖W2‖²)."""
    return 0.5 * weight_decay * (accurate(w1).square().sum() + accurate(w2).square().sum())


def loss_rows(
    loss: Loss, y: Tensor, class_weight: Maybe, row_weight: Maybe, dtype: torch.dtype
) -> tuple[Tensor, Maybe, Maybe]:
    """Y as (B,) or (B,q), contiguous, and the weights as vectors of the dtype that sums have."""
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    y = y.reshape(-1) if loss.takes_classes else matrix(y)
    class_weight = None if class_weight is None else class_weight.to(sums).contiguous()
    row_weight = None if row_weight is None else row_weight.reshape(-1).to(sums).contiguous()
    return y.contiguous(), class_weight, row_weight


def matrix(x: Tensor) -> Tensor:
    """(..., d) as (B, d)."""
    if x.dim() == 2:
        return x
    return x[None] if x.dim() == 1 else x.flatten(0, -2)


class Tangents(NamedTuple):
    """Tangents of the MLP's tensors (forward mode), or the cotangents of their gradients (backward of the backward)."""

    x: Maybe
    w1: Maybe
    b1: Maybe
    w2: Maybe
    b2: Maybe


def forward_tangent(
    t: Tangents, x: Maybe, w1: Maybe, w2: Maybe, hidden: Hidden, batch: int
) -> tuple[Maybe, Maybe, Maybe]:
    """Ż, Ḣ, Ȯ."""
    tz = add(mm(t.x, T(w1)), mm(x, T(t.w1)), each_row(t.b1, batch))  # Ż = Ẋ W1ᵀ + X Ẇ1ᵀ + 1 ḃ1ᵀ
    th = None if tz is None else hidden.dphi(tz) * tz  # Ḣ = φ′ ⊙ Ż
    return tz, th, output_tangent(th, t, w2, hidden, batch)


def output_tangent(th: Maybe, t: Tangents, w2: Maybe, hidden: Hidden, batch: int) -> Maybe:
    """Ȯ = Ḣ W2ᵀ + H Ẇ2ᵀ + 1 ḃ2ᵀ."""
    return add(mm(th, T(w2)), mm(hidden.h, T(t.w2)) if t.w2 is not None else None, each_row(t.b2, batch))


class BackwardInputs(NamedTuple):
    """One thing for each input of the backward pass: its gradient, or whether one is asked for."""

    do: Any
    ds: Any
    x: Any
    w1: Any
    b1: Any
    w2: Any
    s: Any


def double_backward(
    t: Tangents, do: Maybe, ds: Maybe, x: Maybe, w1: Maybe, w2: Maybe, hidden: Hidden, keep: str, batch: int,
    wants: BackwardInputs,
) -> BackwardInputs:  # fmt: skip
    """The vjp of the backward pass: the tangent routine, its tangents := the cotangents of dX … db2, and Ġ = 0.

    E = φ″ ⊙ Ż ⊙ dH + φ′ ⊙ (dO Ẇ2) goes on to X, W1 and b1 where z was recomputed here; where s was kept it is, up to
    the factor ∂z/∂s, the gradient by s, and the forward's backward pass carries it on. ``wants`` says what is asked.
    """
    tz, th, to = forward_tangent(t, x, w1, w2, hidden, batch)
    dh = _dh(do, ds, w2, hidden) if tz is not None else None
    dz = _dz(do, ds, w2, hidden) if t.x is not None or t.w1 is not None else None
    do_tw2 = mm(do, t.w2)  # dO Ẇ2: what W2's tangent adds to dH
    curve = mul(hidden.dphi_ds(), tz, dh) if tz is not None and dh is not None else None  # ∂φ′/∂s ⊙ Ż ⊙ dH
    if hidden.kind == "h":
        grad_s = add(curve, do_tw2)
    else:
        grad_s = add(curve, None if do_tw2 is None else hidden.dphi(do_tw2) * do_tw2)  # = E
    e = grad_s if keep == "input" else None
    return BackwardInputs(
        do=to if wants.do else None,
        ds=(th if hidden.kind == "h" else tz) if wants.ds else None,
        x=add(mm(dz, t.w1), mm(e, w1)) if wants.x else None,  # dẊ = E W1 + dZ Ẇ1
        w1=add(mm(T(dz), t.x), mm(T(e), x)) if wants.w1 else None,  # dẆ1 = Eᵀ X + dZᵀ Ẋ
        b1=rows(e) if wants.b1 else None,  # dḃ1 = Eᵀ 1
        w2=mm(T(do), th) if wants.w2 else None,  # dẆ2 = dOᵀ Ḣ
        s=grad_s if wants.s else None,
    )


def backward_tangent(
    t: Tangents, tdo: Maybe, tds: Maybe, ts: Maybe, do: Maybe, ds: Maybe,
    x: Tensor, w1: Tensor, w2: Tensor, hidden: Hidden, keep: str, batch: int,
) -> Gradients:  # fmt: skip
    """The jvp of the backward pass (forward over reverse): the tangent routine with Ġ := the tangent of dO."""
    if keep == "input":
        ts, _, _ = forward_tangent(t, x, w1, w2, hidden, batch)  # z's tangent follows from X, W1, b1
    dh, dz = _dh(do, ds, w2, hidden), _dz(do, ds, w2, hidden)
    th = ts if hidden.kind == "h" or ts is None else hidden.dphi(ts) * ts
    tdh = add(mm(tdo, w2), mm(do, t.w2), tds if hidden.kind == "h" else None)  # Ḋ = Ġ W2 + G Ẇ2
    e = add(
        mul(hidden.dphi_ds(), ts, dh),  # E = φ″ ⊙ Ż ⊙ dH
        None if tdh is None else hidden.dphi(tdh) * tdh,  # + φ′ ⊙ Ḋ
        tds if hidden.kind == "z" else None,
    )
    return (
        add(mm(e, w1), mm(dz, t.w1)),  # dẊ = E W1 + dZ Ẇ1
        add(mm(T(e), x), mm(T(dz), t.x)),  # dẆ1 = Eᵀ X + dZᵀ Ẋ
        rows(e),  # dḃ1 = Eᵀ 1
        add(mm(T(tdo), hidden.h) if tdo is not None else None, mm(T(do), th)),  # dẆ2 = Ġᵀ H + Gᵀ Ḣ
        rows(tdo),  # dḃ2 = Ġᵀ 1
    )


# ------------------------------------------------------------------------------- products in which None is a zero


def mm(a: Maybe, b: Maybe) -> Maybe:
    """A B."""
    return None if a is None or b is None else a @ b


def mul(*factors: Maybe) -> Maybe:
    """The product A ⊙ B ⊙ … of all factors."""
    present = [factor for factor in factors if factor is not None]
    return reduce(torch.mul, present) if len(present) == len(factors) else None


def add(*terms: Maybe) -> Maybe:
    """The sum A + B + … of all terms."""
    present = [term for term in terms if term is not None]
    return reduce(torch.add, present) if present else None


def T(a: Maybe) -> Maybe:
    """Aᵀ."""
    return None if a is None else a.t()


def rows(a: Maybe) -> Maybe:
    """Aᵀ 1, the sum of the rows."""
    return None if a is None else a.sum(0)


def each_row(b: Maybe, batch: int) -> Maybe:
    """1 bᵀ."""
    return None if b is None else b.expand(batch, -1)


def accurate(a: Tensor) -> Tensor:
    """A in float32 where its dtype is shorter."""
    return a.float() if a.dtype in (torch.bfloat16, torch.float16) else a
