"""One net and one batch, from the same seed for every candidate; and the matrix products that are the floor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..equations import ACTIVATIONS
from ..nn import MLP

Shape = tuple[int, int, int, int]
SHAPE = "B, d, h, q"

# B, d, h, q: a small net, digits-sized ones, a wide one, one with a large output layer
SHAPES: tuple[Shape, ...] = (
    (32, 20, 64, 10),
    (128, 784, 256, 10),
    (1024, 784, 256, 10),
    (256, 784, 2048, 10),
    (1024, 256, 1024, 8192),
)
# for a GPU: a small net, a middling one, and a transformer's feed-forward block
GPU_SMALL, GPU_MIDDLING, GPU_BLOCK = (256, 64, 64, 10), (4096, 784, 1024, 10), (8192, 1024, 4096, 1024)
GPU_SHAPES: tuple[Shape, ...] = (GPU_SMALL, GPU_MIDDLING, GPU_BLOCK)
# the output layer of a language model: its logits are 2 GiB in bfloat16; d = h, so that the head is 30 times the rest
HEAD: Shape = (8192, 4096, 4096, 128256)
WEIGHT_DECAY = 1e-4
FLOOR = "matrix products"


@dataclass(frozen=True)
class Candidate:
    """One way to make a training step, or its gradients.

    `parameters` are what it trains, in the order w1, b1, w2, b2; `release` gives back what it keeps between calls.
    """

    name: str
    call: Callable[[], Any]
    parameters: Sequence[Tensor] = ()
    release: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Problem:
    """A net with B rows of d numbers and B labels below q; float32 on the CPU unless said otherwise."""

    shape: Shape
    activation: str = "relu"
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._module()

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The inputs x (B, d) and the labels y (B,)."""
        B, d, _, q = self.shape
        torch.manual_seed(0)
        x = torch.randn(B, d, dtype=self.dtype, device=self.device)
        return x, torch.randint(q, (B,), device=self.device)

    def mlp(self) -> MLP:
        """A net with parameters of its own, each time the same."""
        torch.manual_seed(1)
        return MLP(*self.shape[1:], self.activation, device=self.device, dtype=self.dtype)

    def eager_mlp(self) -> nn.Sequential:
        """The same net in torch's own modules."""
        mlp = self.mlp()
        return nn.Sequential(mlp.fc1, self._module(), mlp.fc2)

    def _module(self) -> nn.Module:
        make = ACTIVATIONS[self.activation].module
        if make is None:
            raise ValueError(f"bench: activation must have an nn.Module to compare with, got {self.activation!r}")
        return make()

    @property
    def labels(self) -> dict[str, str]:
        """What tells this problem from others, for a table."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {SHAPE: ", ".join(map(str, self.shape)), "φ": self.activation, "dtype": dtype}


def penalty(w1: Tensor, w2: Tensor, weight_decay: float = WEIGHT_DECAY) -> Tensor:
    """The penalty s = λ/2 (‖W1‖² + ‖W2‖²), as one writes it into a loss."""
    return weight_decay / 2 * (w1.square().sum() + w2.square().sum())


def matrix_products(problem: Problem) -> Candidate:
    """The five matrix products of a step whose input needs no gradient, each result allocated afresh."""
    mlp, (x, _) = problem.mlp(), problem.batch
    w1, w2 = mlp.fc1.weight.detach(), mlp.fc2.weight.detach()

    def products() -> None:
        h = x @ w1.t()
        o = h @ w2.t()
        o.t() @ h
        (o @ w2).t() @ x

    return Candidate(FLOOR, products)
