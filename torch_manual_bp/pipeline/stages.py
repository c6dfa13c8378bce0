"""The layers as modules of their own, which share the MLP's parameters, and how a model is dealt out over stages."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..equations import ACTIVATIONS
from ..nn import MLP, lean
from ..nn.mlp import is_untouched
from .deferred import hidden_layer, output_layer
from .gradients import WeightGradients


class Layers(nn.Module):
    """A part of an MLP.

    Attributes:
        gradients: where the weights' gradients wait while a pipeline runs; None outside of one, and then the module is
            plain torch under autograd, which upstream can split into input and weight gradients by itself.
    """

    gradients: WeightGradients | None = None


class Hidden(Layers):
    """h = φ(x w1ᵀ + 1 b1ᵀ), the first layer of an MLP; its parameters are ``fc1.weight`` (h,d) and ``fc1.bias`` (h,).

    Args:
        fc1: the layer, shared.
        activation: name of φ.
    """

    def __init__(self, fc1: nn.Linear, activation: str) -> None:
        super().__init__()
        self.fc1, self.activation = fc1, activation

    def forward(self, x: Tensor) -> Tensor:
        """H (..., h) for x (..., d)."""
        return hidden_layer(x, self.fc1, ACTIVATIONS[self.activation], self.gradients)

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation!r}"


class Output(Layers):
    """o = h w2ᵀ + 1 b2ᵀ, the second layer of an MLP; its parameters are ``fc2.weight`` (q,h) and ``fc2.bias`` (q,).

    Args:
        fc2: the layer, shared.
    """

    def __init__(self, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc2 = fc2

    def forward(self, h: Tensor) -> Tensor:
        """O (..., q) for h (..., h)."""
        return output_layer(h, self.fc2, self.gradients)


class Block(Layers):
    """o = φ(x w1ᵀ + 1 b1ᵀ) w2ᵀ + 1 b2ᵀ, both layers of an MLP of a stack, on one stage.

    Args:
        fc1: the hidden layer, shared.
        activation: name of φ.
        fc2: the output layer, shared.
    """

    def __init__(self, fc1: nn.Linear, activation: str, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1, self.activation, self.fc2 = fc1, activation, fc2

    def forward(self, x: Tensor) -> Tensor:
        """O (..., q) for x (..., d)."""
        h = hidden_layer(x, self.fc1, ACTIVATIONS[self.activation], self.gradients)
        return output_layer(h, self.fc2, self.gradients)

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation!r}"


def split(mlp: MLP) -> tuple[Hidden, Output]:
    """The MLP's two layers as modules that share its parameters: ``output(hidden(x))`` is ``mlp(x)``.

    Their state dicts, ``fc1.*`` and ``fc2.*``, make up the MLP's. Alone they are plain torch under autograd, so that
    they can stand in any schedule of `torch.distributed.pipelining`; `torch_manual_bp.pipeline.build` gives them their
    hand-written backward pass.

    Raises:
        TypeError: no `torch_manual_bp.MLP`.
        RuntimeError: a layer that is no plain `torch.nn.Linear`, or carries hooks.
    """
    _check_plain(mlp, "split")
    return Hidden(mlp.fc1, mlp.activation), Output(mlp.fc2)


def blocks_of(model: MLP | nn.Sequential, op: str) -> list[MLP]:
    """The MLPs of a model, one after another.

    Raises:
        TypeError: it holds something else.
        ValueError: none, or widths that do not fit.
        RuntimeError: a layer that is no plain `torch.nn.Linear`, or carries hooks.
    """
    blocks: list[Any] = [model] if isinstance(model, MLP) else list(model)
    if not blocks:
        raise ValueError(f"{op}: the stack must hold at least one torch_manual_bp.MLP, got none")
    for block in blocks:
        _check_plain(block, op)
    for i, (below, above) in enumerate(pairwise(blocks)):
        if below.out_features != above.in_features:
            raise ValueError(
                f"{op}: block {i + 1} must take block {i}'s {below.out_features} outputs, "
                f"it takes {above.in_features} inputs"
            )
    return blocks


def _check_plain(mlp: nn.Module, op: str) -> None:
    if not isinstance(mlp, MLP):
        raise TypeError(f"{op}: mlp must be a torch_manual_bp.MLP, got {type(mlp).__name__}")
    if type(mlp).forward is not MLP.forward or not is_untouched(mlp):
        raise RuntimeError(f"{op}: mlp must not carry hooks or a forward of its own, since its layers are called alone")
    lean.parameters_of(lean.net_of(mlp, op), op)


def deal(model: MLP | nn.Sequential, stages: int, op: str) -> list[nn.Module]:
    """The model cut into consecutive stages, whose state dicts make up the model's.

    An MLP is cut between its layers. A stack is dealt out by whole blocks, the first stages taking one more where they
    do not divide evenly; twice as many stages as blocks take a layer each.

    Raises:
        ValueError: the model cannot be cut into so many stages.
    """
    blocks = blocks_of(model, op)
    n = len(blocks)
    if stages == 2 * n:
        halves = [half for block in blocks for half in split(block)]
        if isinstance(model, MLP):
            return list(halves)
        return [_named({i // 2: half}) for i, half in enumerate(halves)]
    if isinstance(model, MLP) or not 1 <= stages <= n:
        can = "2 stages" if n == 1 else f"2 to {n} stages of whole blocks, or into {2 * n} of one layer each"
        what = "an MLP" if isinstance(model, MLP) else f"a stack of {n}"
        raise ValueError(f"{op}: {what} can be cut into {can}, one a process; got {stages}")
    whole = [Block(block.fc1, block.activation, block.fc2) for block in blocks]
    return [_named({i: whole[i] for i in part}) for part in _parts(n, stages)]


def _parts(n: int, stages: int) -> Iterator[range]:
    """[0, n) in consecutive ranges as equal as can be."""
    begin = 0
    for stage in range(stages):
        end = begin + n // stages + (stage < n % stages)
        yield range(begin, end)
        begin = end


def _named(blocks: dict[int, nn.Module]) -> nn.Sequential:
    """The blocks under the names that they have in the stack."""
    return nn.Sequential(OrderedDict((str(i), block) for i, block in blocks.items()))


def widths(stages: list[nn.Module]) -> list[int]:
    """The columns of what goes into the first stage and comes out of each: d, …, q."""
    linears = [[layer for layer in stage.modules() if isinstance(layer, nn.Linear)] for stage in stages]
    return [linears[0][0].in_features, *(of_stage[-1].out_features for of_stage in linears)]
