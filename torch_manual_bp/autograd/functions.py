"""The MLP as pairs of ``torch.autograd.Function``: a forward, and its backward pass as a Function of its own.

The kept tensor s is an *output* of the forward and an input of the backward, with a cotangent of its own: a Function
that hid it in its context would pass gradcheck and give a wrong Hessian. The user sees O alone.

| pair | who runs it | computed with |
|---|---|---|
| `MLPForward`, `MLPBackward` | the plain eager loop | fused kernels; second order by the tangent routine |
| `TracedForward` | `torch.compile` | plain torch, nothing in place |
| `TransformedForward`, `TransformedBackward` | torch.func, forward mode | plain torch; jvp by the tangent routine |

The first is written in the old style because ``setup_context`` costs more than the kernels of a small net; Dynamo
refuses a Function that has a ``jvp``, hence the second.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..equations import ACTIVATIONS, Activation
from . import fused, pure, state
from .keep import Hidden, Needs, what_to_keep
from .pure import BackwardInputs, Gradients, Maybe, Tangents

NO_GRADIENTS: Gradients = (None, None, None, None, None)


def gradients(
    do: Maybe, ds: Maybe, x: Maybe, w1: Maybe, b1: Maybe, w2: Maybe, s: Maybe, phi: Activation, keep: str, needs: Needs
) -> Gradients:
    """(dx, dw1, db1, dw2, db2) in eager mode, recorded where grad mode asks for a graph (``create_graph=True``)."""
    arriving = do if do is not None else ds
    if arriving is None:
        return NO_GRADIENTS
    with state.without_autocast(arriving.device.type):
        if state.is_wrapped(arriving):
            return pure.backward(do, ds, x, w1, b1, w2, Hidden(phi, keep, s, x, w1, b1), needs)
        if torch.is_grad_enabled():
            return MLPBackward.apply(do, ds, x, w1, b1, w2, s, phi.name, keep, needs)
        return _first_order(do, ds, x, w1, b1, w2, s, phi, keep, needs)


def _first_order(
    do: Maybe, ds: Maybe, x: Maybe, w1: Maybe, b1: Maybe, w2: Maybe, s: Maybe, phi: Activation, keep: str, needs: Needs
) -> Gradients:
    if do is not None and ds is None:
        return fused.backward(do, x, w1, b1, w2, s, phi, keep, needs)
    # a cotangent of the kept tensor arrives only from a pass of second order
    return pure.backward(do, ds, x, w1, b1, w2, Hidden(phi, keep, s, x, w1, b1), needs)


def save_for_gradients(
    ctx: Any, x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, s: Maybe, phi: Activation, keep: str, needs: Needs,
    *more: Maybe,
) -> None:  # fmt: skip
    """Keep in ``ctx`` what `gradients` will need, and nothing else: a frozen parameter costs nothing."""
    again = keep == "input"
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x if needs.w1 or again else None,
        w1 if needs.x or again else None,
        b1 if again else None,
        w2 if needs.dz else None,
        s,
        *more,
    )
    ctx.phi, ctx.keep, ctx.needs = phi, keep, needs
    if keep == "mask":
        ctx.mark_non_differentiable(s)


class MLPForward(Function):
    """(o, s) = MLP(x, w1, b1, w2, b2) on the fused kernels; s is the kept tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, activation: str, save: str) -> Any:
        """O = φ(X W1ᵀ + 1 b1ᵀ) W2ᵀ + 1 b2ᵀ."""
        phi, needs = ACTIVATIONS[activation], Needs(*ctx.needs_input_grad[:5])
        keep = what_to_keep(phi, save, needs)
        o, s = fused.forward(x, w1, b1, w2, b2, phi, keep)
        save_for_gradients(ctx, x, w1, b1, w2, s, phi, keep, needs)
        return o, s

    @staticmethod
    def backward(ctx: Any, do: Maybe, ds: Maybe = None) -> Any:
        """(dX, dW1, db1, dW2, db2)."""
        x, w1, b1, w2, s = ctx.saved_tensors
        return *gradients(do, ds, x, w1, b1, w2, s, ctx.phi, ctx.keep, ctx.needs), None, None


class MLPBackward(Function):
    """(dx, dw1, db1, dw2, db2) as a Function of dO, the kept tensor and its cotangent, X, W1, b1 and W2."""

    @staticmethod
    def forward(
        ctx: Any, do: Maybe, ds: Maybe, x: Maybe, w1: Maybe, b1: Maybe, w2: Maybe, s: Maybe,
        activation: str, keep: str, needs: Needs,
    ) -> Gradients:  # fmt: skip
        """The backward pass."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(do, ds, x, w1, b1, w2, s)
        ctx.phi, ctx.keep = ACTIVATIONS[activation], keep
        return _first_order(do, ds, x, w1, b1, w2, s, ctx.phi, keep, needs)

    @staticmethod
    def backward(ctx: Any, *t: Maybe) -> Any:
        """The backward of the backward, by the tangent routine; recorded, so third order is autograd's."""
        do, ds, x, w1, b1, w2, s = ctx.saved_tensors
        arriving = next((tangent for tangent in t if tangent is not None), None)
        if arriving is None:
            return (None,) * 10
        with state.without_autocast(arriving.device.type):
            hidden = Hidden(ctx.phi, ctx.keep, s, x, w1, b1)
            batch = next(tensor for tensor in (do, ds) if tensor is not None).shape[0]
            wants = BackwardInputs(*ctx.needs_input_grad[:7])
            grads = pure.double_backward(Tangents(*t), do, ds, x, w1, w2, hidden, ctx.keep, batch, wants)
            return *grads, None, None, None


class TracedForward(Function):
    """`MLPForward` for compilers: plain torch, out of place."""

    @staticmethod
    def forward(x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, activation: str, keep: str) -> Any:
        """O, and the kept tensor."""
        return pure.forward(x, w1, b1, w2, b2, ACTIVATIONS[activation], keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the inputs and the kept tensor."""
        x, w1, b1, w2, _, activation, keep = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w1, b1, w2, output[1])
        ctx.activation, ctx.keep = activation, keep

    @staticmethod
    def backward(ctx: Any, do: Maybe, ds: Maybe) -> Any:
        """(dX, dW1, db1, dW2, db2)."""
        x, w1, b1, w2, s = ctx.saved_tensors
        hidden = Hidden(ACTIVATIONS[ctx.activation], ctx.keep, s, x, w1, b1)
        return *pure.backward(do, ds, x, w1, b1, w2, hidden, Needs(*ctx.needs_input_grad[:5])), None, None


class TransformedForward(Function):
    """`MLPForward` for torch.func and forward mode, at most one level of it."""

    generate_vmap_rule = True
    forward = TracedForward.forward

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the inputs and the kept tensor, for both modes."""
        TracedForward.setup_context(ctx, inputs, output)
        x, w1, b1, w2, _, _, _ = inputs
        ctx.save_for_forward(x, w1, b1, w2, output[1])

    @staticmethod
    def backward(ctx: Any, do: Maybe, ds: Maybe) -> Any:
        """(dX, dW1, db1, dW2, db2)."""
        needs = Needs(*ctx.needs_input_grad[:5])
        return *TransformedBackward.apply(do, ds, *ctx.saved_tensors, ctx.activation, ctx.keep, needs), None, None

    @staticmethod
    def jvp(ctx: Any, *t: Maybe) -> Any:
        """Ȯ, and the kept tensor's tangent."""
        x, w1, b1, w2, s = ctx.saved_tensors
        hidden = Hidden(ACTIVATIONS[ctx.activation], ctx.keep, s, x, w1, b1)
        tz, th, to = pure.forward_tangent(Tangents(*t[:5]), x, w1, w2, hidden, x.shape[0])
        if s is None:
            return to, None
        ts = th if hidden.kind == "h" else tz
        return to, torch.zeros_like(s) if ts is None else ts


class TransformedBackward(Function):
    """`MLPBackward` for torch.func and forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        do: Maybe, ds: Maybe, x: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, s: Maybe,
        activation: str, keep: str, needs: Needs,
    ) -> Gradients:  # fmt: skip
        """The backward pass."""
        return pure.backward(do, ds, x, w1, b1, w2, Hidden(ACTIVATIONS[activation], keep, s, x, w1, b1), needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Gradients) -> None:
        """Keep the inputs, for both modes."""
        *tensors, activation, keep, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.phi, ctx.keep, ctx.given = ACTIVATIONS[activation], keep, [gradient is not None for gradient in output]

    backward = MLPBackward.backward

    @staticmethod
    def jvp(ctx: Any, tdo: Maybe, tds: Maybe, tx: Maybe, tw1: Maybe, tb1: Maybe, tw2: Maybe, ts: Maybe, *_: Any) -> Any:
        """Forward over reverse: the tangents of dX, dW1, db1, dW2, db2."""
        do, ds, x, w1, b1, w2, s = ctx.saved_tensors
        hidden = Hidden(ctx.phi, ctx.keep, s, x, w1, b1)
        t = Tangents(tx, tw1, tb1, tw2, None)
        tangents = pure.backward_tangent(t, tdo, tds, ts, do, ds, x, w1, w2, hidden, ctx.keep, x.shape[0])
        likes = (x, w1, w1[:, 0], w2, w2[:, 0])  # what dX, dW1, db1, dW2, db2 look like
        return tuple(
            None if not given else torch.zeros_like(like) if tangent is None else tangent
            for given, tangent, like in zip(ctx.given, tangents, likes, strict=True)
        )
