"""The gradient of J added to ``.grad``, or handed over by ``J.backward()``; neither keeps anything of the rows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function

from ..equations import Activation
from .gradient import Share, add_penalty, gradient, room
from .one_call import fits_one_call, gradient_in_one_call
from .problem import PARAMETERS, Batch, Goal, Maybe, Net
from .tiling import Tiling
from .workspace import Workspace


@torch.no_grad()
def accumulate(
    net: Net, goal: Goal, batch: Batch, parameters: dict[str, nn.Parameter], x: Tensor | None, tile: Tiling,
    dtype: torch.dtype, workspace: Workspace, share: Share,
) -> Tensor:  # fmt: skip
    """J, and ``p.grad`` ← ``p.grad`` + ∂J/∂p for the parameters, by symbol, and for x where it is given.

    All is computed before the first ``.grad`` is written.
    """
    sums = room(parameters, net, batch, tile, dtype, share)
    if x is None and fits_one_call(net, batch, tile, dtype, share):
        J = gradient_in_one_call(net, goal, batch, sums, share)
    else:
        if x is not None:
            sums |= room({"x": batch.x}, net, batch, tile, dtype, share)
        J, penalty, *_ = gradient(net, goal, batch, sums, tile, dtype, workspace, share)
        add_penalty(sums, net, penalty)
    for name, parameter in parameters.items():
        _add(parameter, sums[f"d{name}"])
    if x is not None:
        _add(x, sums["dx"].view(x.shape))
    return J


def _add(leaf: Tensor, gradient: Tensor) -> None:
    if leaf.grad is None:
        leaf.grad = gradient.to(leaf.dtype)
    else:
        leaf.grad.add_(gradient)


class TiledObjective(Function):
    """J, whose gradients are computed with it, tile by tile; ``backward`` scales them and hands them over."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, w1: Tensor, b1: Maybe, w2: Tensor, b2: Maybe, row_weight: Maybe,
        phi: Activation, goal: Goal, tile: Tiling, dtype: torch.dtype, workspace: Workspace, recorded: bool,
    ) -> Tensor:  # fmt: skip
        """J = L + λ/2 (‖W1‖² + ‖W2‖²), and ∂J/∂X of every X that needs it, where autograd records at all."""
        net = Net(w1, b1, w2, b2, phi)
        given: Any = {"x": x, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
        needs_gradient = zip(("x", "y", *PARAMETERS), ctx.needs_input_grad, strict=False)
        needed = [name for name, needs in needs_gradient if needs and recorded]
        batch, share = Batch(x, y, row_weight), Share()
        sums = room({name: given[name] for name in needed}, net, batch, tile, dtype, share)
        J, penalty, *_ = gradient(net, goal, batch, sums, tile, dtype, workspace, share)
        add_penalty(sums, net, penalty)
        ctx.set_materialize_grads(False)
        ctx.inputs = {name: given[name] for name in needed}  # not saved: nothing is computed from them any more
        ctx.save_for_backward(*(sums[f"d{name}"] for name in needed))
        return J

    @staticmethod
    def backward(ctx: Any, dJ: Maybe) -> Any:
        """∂J/∂X times what arrives."""
        gradients: dict[str, Tensor] = {}
        if dJ is not None:
            scaled = Tensor.mul_ if _is_the_last(dJ) else Tensor.mul  # in place where nobody will ask again
            for (name, like), gradient in zip(ctx.inputs.items(), ctx.saved_tensors, strict=True):
                gradients[name] = scaled(gradient, dJ).to(like.dtype)
            if torch.is_grad_enabled():
                once = OnceDifferentiable.apply(*gradients.values(), *ctx.inputs.values())
                gradients = dict(zip(gradients, once, strict=True))
        return *(gradients.get(name) for name in ("x", "y", *PARAMETERS)), *(None,) * 7


def _is_the_last(dJ: Tensor) -> bool:
    """Whether autograd lets the graph go once this backward pass is done, and hands over one cotangent."""
    kept = torch._C._autograd._get_current_graph_task_keep_graph()
    return not (kept or torch.is_grad_enabled() or is_legacy_batchedtensor(dJ))


class OnceDifferentiable(Function):
    """Gradients that depend on these inputs, by a derivative that is refused.

    Without the inputs a gradient would seem to be a constant, and a penalty on it would vanish without a word.
    """

    @staticmethod
    def forward(ctx: Any, *gradients_and_inputs: Tensor) -> tuple[Tensor, ...]:
        """The first half of the arguments, each as a new tensor."""
        return tuple(gradient.detach() for gradient in gradients_and_inputs[: len(gradients_and_inputs) // 2])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError(
            "Objective: with tile_rows there is no second derivative, since nothing of the rows is kept; "
            "use tile_rows=None, which is exact at every order"
        )
