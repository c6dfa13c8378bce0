"""Forward and backward of first order, on the fused kernels, in place in buffers of their own.

Nothing here is recorded by autograd: the Functions call it where no gradient of what is computed can be asked for.
"""

import torch
from torch import Tensor

from .. import kernels
from ..equations import Activation
from .keep import Needs

Maybe = Tensor | None


def _product(x: Tensor, w: Tensor, b: Maybe) -> tuple[Tensor, Maybe]:
    """X Wᵀ, and the bias that is left to add.

    None is left in a 16-bit dtype: rounded before the bias is added, a z near 0 ends on the wrong side of a kink.
    """
    if b is None:
        return torch.mm(x, w.t()), None
    if x.dtype.itemsize == 2:
        return torch.addmm(b, x, w.t()), None
    return torch.mm(x, w.t()), b.contiguous()


def hidden(x: Tensor, w1: Tensor, b1: Maybe, phi: Activation, keep: str) -> tuple[Tensor, Maybe]:
    """H, and the kept tensor; both are one buffer where h is what is kept."""
    z, b1 = _product(x, w1, b1)  # Z = X W1ᵀ + 1 b1ᵀ, and H = φ(Z) in one pass over Z
    if keep == "z":
        h = torch.empty_like(z)
        kernels.bias_act_keep_(z, h, b1, phi.name)
        return h, z
    if keep == "mask":
        mask = kernels.bias_act_mask_(z, b1, phi.name)
        return z, mask
    kernels.bias_act_(z, b1, phi.name)
    return z, z if keep == "h" else None


def _dense(*tensors: Maybe) -> bool:
    return all(tensor is None or tensor.is_contiguous() for tensor in tensors)


def forward(
    x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, phi: Activation, keep: str
) -> tuple[Tensor, Maybe]:
    """O = H W2ᵀ + 1 b2ᵀ, and the kept tensor."""
    if keep == "nothing" and kernels.has_forward(x) and _dense(x, w1, b1, w2, b2):
        return kernels.mlp_forward(x, w1, b1, w2, b2, phi.name), None
    h, s = hidden(x, w1, b1, phi, keep)
    o = torch.mm(h, w2.t()) if b2 is None else torch.addmm(b2, h, w2.t())
    return o, s


def backward(
    do: Tensor, x: Maybe, w1: Maybe, b1: Maybe, w2: Maybe, s: Maybe, phi: Activation, keep: str, needs: Needs
) -> tuple[Maybe, Maybe, Maybe, Maybe, Maybe]:
    """(dx, dw1, db1, dw2, db2); None where not needed."""
    dx = dw1 = db1 = dw2 = None
    kind = keep
    if keep == "input":
        assert x is not None and w1 is not None
        (s, b1), kind = _product(x, w1, b1), "z"  # Z once more
        if b1 is not None:
            kernels.bias_act_(s, b1, "identity")
    if needs.w2:
        assert s is not None
        h = s if kind == "h" else kernels.act(s, phi.name)
        dw2 = torch.mm(do.t(), h)  # dW2 = dOᵀ H
        del h
    db2 = do.sum(0) if needs.b2 else None  # db2 = dOᵀ 1
    if needs.dz:
        assert s is not None and w2 is not None
        dz = torch.mm(do, w2)  # dH = dO W2
        db1 = kernels.dact_(dz, s, phi.name, kind, needs.b1)  # dZ = φ′(Z) ⊙ dH and db1 = dZᵀ 1 in one pass
        dw1 = torch.mm(dz.t(), x) if needs.w1 else None  # type: ignore[arg-type]  # dW1 = dZᵀ X
        dx = torch.mm(dz, w1) if needs.x else None  # type: ignore[arg-type]  # dX = dZ W1
    return dx, dw1, db1, dw2, db2
