"""What can be chosen about a training run, checked before anything is computed."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from ..equations import ACTIVATIONS, activation_named, loss_named
from ..nn import MLP, Objective
from .paths import PATHS, TrainingPath

DTYPES = {"float32": torch.float32, "float64": torch.float64}


OPTIMIZERS = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}  # each with its usual learning rate


@dataclass(frozen=True)
class Settings:
    """The net, its objective, and how it is trained.

    Attributes:
        hidden: width h of the hidden layer.
        activation: φ by name.
        hidden_bias, output_bias: whether there is a b1, a b2.
        weight_decay: λ of J = L + λ/2 (‖W1‖² + ‖W2‖²), a part of the objective whatever the optimizer.
        epochs: how often each training row is seen.
        batch_size: rows a step; the last batch of an epoch may be smaller.
        optimizer: "sgd", "adam" or "adamw".
        lr: learning rate; None takes 0.05 for sgd and 0.001 for the others.
        momentum: of sgd.
        decoupled_decay: AdamW's own shrinking of all parameters, not a part of J; adamw only.
        held_out: share of the rows that is kept from training.
        seed: of the split, the initialisation and the order of the batches.
        dtype: "float32" or "float64".
        device: where to train, as torch names it.
        path: how the derived net takes its steps, a name of `PATHS`: "autograd" (the usual loop), "tiles" (the usual
            loop with ``Objective(tile_rows="auto")``) or "step" (``objective.step``). They agree up to rounding.

    Raises:
        ValueError: a value out of range, an unknown name, a device that is not there.
        TypeError: a count that is no integer.
    """

    hidden: int = 128
    activation: str = "relu"
    hidden_bias: bool = True
    output_bias: bool = True
    weight_decay: float = 1e-3
    epochs: int = 30
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    decoupled_decay: float = 0.0
    held_out: float = 0.25
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    path: str = "autograd"

    def __post_init__(self) -> None:
        activation_named(self.activation, "train")
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("path", self.path, PATHS)
        for name in ("hidden", "epochs", "batch_size"):
            _check_count(name, getattr(self, name), least=1)
        _check_count("seed", self.seed, least=0)
        _check_real("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "finite and not negative")
        decay = self.decoupled_decay
        _check_real("decoupled_decay", decay, 0 <= decay < math.inf, "finite and not negative")
        if self.lr is not None:
            _check_real("lr", self.lr, 0 < self.lr < math.inf, "finite and positive")
        _check_real("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check_real("held_out", self.held_out, 0 < self.held_out < 1, "in (0, 1)")
        if decay and self.optimizer != "adamw":
            raise ValueError(f"train: decoupled_decay belongs to adamw, got {decay} with {self.optimizer}")
        check_device(self.device, "train")

    @property
    def learning_rate(self) -> float:
        """``lr``, or the optimizer's usual one."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch's."""
        return DTYPES[self.dtype]

    @property
    def training_path(self) -> TrainingPath:
        """``path`` as what it does."""
        return PATHS[self.path]

    def make_mlp(self, in_features: int, out_features: int) -> MLP:
        """The net at its start: drawn on the CPU from the seed, so that it is the same on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mlp = MLP(
                in_features, self.hidden, out_features, self.activation, self.hidden_bias, self.output_bias,
                dtype=self.torch_dtype,
            )  # fmt: skip
        return mlp.to(self.device)

    def make_objective(self, mlp: MLP, loss: str) -> Objective:
        """J of this net, as the path needs it."""
        loss = loss_named(loss, "train")
        return Objective(mlp, loss, self.weight_decay, tile_rows=self.training_path.tile_rows)

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a module's parameters; λ is in J, so it gets no weight decay but AdamW's own."""
        parameters, lr = module.parameters(), self.learning_rate
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr, momentum=self.momentum)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=self.decoupled_decay)
        return torch.optim.Adam(parameters, lr)

    def phi_module(self) -> nn.Module:
        """φ as a module, for a net that autograd differentiates."""
        activation = ACTIVATIONS[self.activation]
        return activation.module() if activation.module else _Phi(self.activation)


class _Phi(nn.Module):
    """φ in plain torch, where torch.nn has no module for it."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return ACTIVATIONS[self.activation].phi(z)


def _one_of(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"train: {name} must be one of {', '.join(known)}; got {value!r}")


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"train: {name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"train: {name} must be at least {least}, got {value}")


def _check_real(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"train: {name} must be {expected}, got {value}")


def check_device(name: str, op: str) -> None:
    """Raise a ValueError unless a tensor with numbers can be made there; ``op``: who asks, for the message."""
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{op}: device must be one that is there, got {name!r} ({reason})") from error
