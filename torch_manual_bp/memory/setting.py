"""What a plan is about: the net, the objective, the batch, the path; and which way the code will go on it."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, AdamW, Optimizer

from ..autograd.keep import Needs
from ..equations import ACTIVATIONS, Activation, Loss
from ..equations.symbols import CLASSES, SYMBOLS, TARGETS
from ..training.gradient import Share, is_one_tile
from ..training.one_call import fits_one_call
from ..training.optimizers import fused_rule
from ..training.problem import PARAMETERS, WEIGHTS, Batch, Net, sum_dtype
from ..training.tiling import Tiling, tiling
from ..training.update import way_of
from .ledger import Shape

OPTIMIZERS = ("sgd", "momentum", "adamw")
_LEAN = ("accumulate_grad", "step")


class Choice(NamedTuple):
    """What the code looks at, and what follows.

    Attributes:
        way: "whole batch" or "tiles" of the usual loop; "one call" or "tiles" of accumulate_grad; "one call", "in
            products", "sums" or "optimizer" of a step; else the path.
        tile: the largest tile.
        one_tile: whether it is the whole batch.
    """

    way: str
    tile: Tiling
    one_tile: bool


@dataclass(frozen=True)
class Setting:
    """One case of a path.

    Attributes:
        batch: B.
        widths: d, h, q.
        activation: φ by name.
        parameters: those that there are, of w1, b1, w2, b2.
        trained: those that need a gradient.
        loss: the loss and its options.
        weight_decay: λ.
        class_weight: whether the classes have weights.
        path: "autograd", "accumulate_grad", "step", "predict" or "eager".
        optimizer: one of `OPTIMIZERS`, or None.
        clipped: whether the gradient's norm is.
        tile_rows: rows of a tile, "auto", or None.
        save: the save policy.
        dtype: of parameters and batch.
        autocast: the dtype of autocast, or None.
        x_requires_grad: whether there is a dx.
        device: "cpu" or "cuda".
        schedule: of a pipeline.
        microbatches: of a pipeline.
        stage: of a pipeline: 0, with x, w1 and b1, or 1, with w2, b2 and y.
    """

    batch: int
    widths: tuple[int, int, int]
    activation: str
    parameters: tuple[str, ...]
    trained: tuple[str, ...]
    loss: Loss
    weight_decay: float
    class_weight: bool
    path: str
    optimizer: str | None
    clipped: bool
    tile_rows: int | str | None
    save: str
    dtype: torch.dtype
    autocast: torch.dtype | None
    x_requires_grad: bool
    device: str
    schedule: str = ""
    microbatches: int = 1
    stage: int = 0

    def __str__(self) -> str:
        short = str(self.autocast).removeprefix("torch.")
        parts = [self.net]
        parts += [self.loss.name] * (self.path != "predict")
        parts += [f"autocast {short}"] * (self.autocast is not None)
        parts += ['save="input"'] * (self.save == "input")
        return " · ".join([*parts, self._path()])

    @property
    def net(self) -> str:
        """The sizes, φ and the dtype, in words."""
        sizes = ", ".join(map(str, (self.batch, *self.widths)))
        return f"B, d, h, q = {sizes} · {self.activation} · {str(self.dtype).removeprefix('torch.')}"

    def _path(self) -> str:
        with_optimizer = f", {self.optimizer}" if self.optimizer else ""
        way = self.choice.way
        return self.path + with_optimizer + (f" ({way})" if way != self.path else "")

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU's memory that is planned."""
        return self.device == "cpu"

    @property
    def longer_sums(self) -> str:
        """How sums are made that are longer than their products: of `training.steps.SUMS`."""
        return "rounded" if self.on_cpu else "longer"

    @property
    def phi(self) -> Activation:
        """φ."""
        return ACTIVATIONS[self.activation]

    @property
    def needs(self) -> Needs:
        """Which gradients are asked for."""
        return Needs(self.x_requires_grad, *(name in self.trained for name in PARAMETERS))

    @property
    def sums(self) -> torch.dtype:
        """The dtype that losses and sums of gradients have."""
        return sum_dtype(self.dtype)

    @property
    def product(self) -> torch.dtype:
        """The dtype of the matrix products, as `door.lean_arguments` and autocast choose it."""
        dtype = self.dtype if self.autocast is None or self.dtype is torch.float64 else self.autocast
        lean = self.path in _LEAN or self.tile_rows is not None
        return torch.float32 if lean and dtype is torch.float16 and self.on_cpu else dtype  # there float16 is slow

    def split(self, microbatches: int, schedule: str) -> "tuple[Setting, Setting]":
        """The same net's two stages on two devices."""
        whole = replace(
            self, path="pipeline", tile_rows=None, clipped=False, autocast=None, x_requires_grad=False,
            microbatches=microbatches, schedule=schedule,
        )  # fmt: skip
        first, last = PARAMETERS[:2], PARAMETERS[2:]
        return whole._stage(0, first), whole._stage(1, last)

    def _stage(self, stage: int, names: tuple[str, ...]) -> "Setting":
        parameters, trained = (tuple(n for n in of if n in names) for of in (self.parameters, self.trained))
        class_weight = self.class_weight and stage == 1
        return replace(self, stage=stage, parameters=parameters, trained=trained, class_weight=class_weight)

    @property
    def has_x(self) -> bool:
        """Whether the batch's x is here: all but a pipeline's second stage have it."""
        return self.stage == 0

    @property
    def has_y(self) -> bool:
        """Whether the batch's y is here."""
        return self.path != "predict" and (self.path != "pipeline" or self.stage == 1)

    @property
    def weight(self) -> str:
        """That of a pipeline's stage."""
        return WEIGHTS[self.stage]

    @property
    def weights(self) -> dict[str, Shape]:
        """W1 and W2, on which λ acts."""
        return {name: self.shape(name) for name in WEIGHTS}

    def shape(self, name: str) -> Shape:
        """Of a symbol of the equations; y's is its loss's."""
        if name == "y":
            return (CLASSES if self.loss.takes_classes else TARGETS).shape
        return SYMBOLS[name].shape

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of B, d, h, q, and of c and k of a tile."""
        d, h, q = self.widths
        tile = self.choice.tile
        return {"B": self.batch, "d": d, "h": h, "q": q, "c": tile.rows, "k": tile.classes, "⌈h/8⌉": -(-h // 8),
                "m": self.batch // self.microbatches}  # fmt: skip

    @cached_property
    def choice(self) -> Choice:
        """The very code that chooses on real tensors, on fake ones, which take no memory.

        A GPU need not be there: meta tensors stand for its, and the nets that have one call there follow a rule below.
        """
        if self.path == "pipeline":
            words = f"stage {self.stage} of 2, {self.schedule}, {self.microbatches} microbatches"
            return Choice(words, Tiling(self.batch, self.widths[2]), one_tile=True)
        with FakeTensorMode():
            net, batch = self._net(), self._batch()
            trained = {name: getattr(net, name) for name in self.trained}
            rows = None if self.tile_rows == "auto" else self.tile_rows
            tile = tiling(self.batch, self.widths, self.product.itemsize, rows, torch.device(self.device))  # type: ignore[arg-type]
            one_tile, share = is_one_tile(net, batch, tile), Share()
            way = self.path
            if way == "autograd":
                way = "whole batch" if self.tile_rows is None else "tiles"
            elif way == "accumulate_grad":
                whole = fits_one_call(net, batch, tile, self.product, share) or self._is_small_on_cuda
                way = "one call" if whole and not self.x_requires_grad else "tiles"
            elif way == "step":
                rule = fused_rule(_optimizer(self.optimizer, trained), trained)
                way = way_of(net, batch, rule, tile, self.product, share, 1.0 if self.clipped else math.inf)
                way = "one call" if self._is_small_on_cuda and self.trained == self.parameters else way
            return Choice(way if one_tile or way != "one call" else "tiles", tile, one_tile)

    @property
    def _is_small_on_cuda(self) -> bool:
        """csrc/cuda/one_call.cu's `fits`, for a GPU whose blocks have the shared memory that it takes."""
        if self.on_cpu or self.product is not self.dtype or self.dtype.itemsize < 4:
            return False
        return max(self.widths) <= (64 if self.dtype is torch.float64 else 128)

    @property
    def _where(self) -> str:
        return "cpu" if self.on_cpu else "meta"

    def _net(self) -> Net:
        d, h, q = self.widths
        shapes = {"w1": (h, d), "b1": (h,), "w2": (q, h), "b2": (q,)}
        made = {
            name: nn.Parameter(torch.empty(shapes[name], dtype=self.dtype, device=self._where), name in self.trained)
            for name in self.parameters
        }
        return Net(made["w1"], made.get("b1"), made["w2"], made.get("b2"), self.phi)

    def _batch(self) -> Batch:
        d, _, q = self.widths
        x = torch.empty(self.batch, d, dtype=self.dtype, device=self._where)
        if self.loss.takes_classes:
            return Batch(x, torch.empty(self.batch, dtype=torch.int64, device=self._where), None)
        return Batch(x, torch.empty(self.batch, q, dtype=self.dtype, device=self._where), None)


def _optimizer(name: str | None, parameters: dict[str, nn.Parameter]) -> Optimizer:
    if name == "adamw":
        return AdamW(parameters.values())
    return SGD(parameters.values(), 0.1, momentum=0.9 if name == "momentum" else 0.0)
