"""The one-hidden-layer MLP as a module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..autograd import check, door
from ..equations import ACTIVATIONS, activation_named, activation_of_module

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class MLP(nn.Module):
    """O = φ(X W1ᵀ + 1 b1ᵀ) W2ᵀ + 1 b2ᵀ: a drop-in for ``nn.Sequential(nn.Linear, activation, nn.Linear)``.

    Parameters are ``fc1.weight`` (h,d), ``fc1.bias`` (h,), ``fc2.weight`` (q,h) and ``fc2.bias`` (q,), initialised as
    `torch.nn.Linear` does. The module computes with them directly. Where ``fc1`` or ``fc2`` is no longer a plain
    `torch.nn.Linear`, or carries hooks (pruning, weight_norm, parametrizations, LoRA, quantisation), it calls
    ``fc2(φ(fc1(x)))`` instead, so that whatever they do is done.

    Args:
        in_features: d.
        hidden_features: h.
        out_features: q.
        activation: φ by name, see `torch_manual_bp.equations.ACTIVATIONS`.
        hidden_bias: whether there is a b1.
        output_bias: whether there is a b2.
        save: what is kept for the backward pass, see `torch_manual_bp.functional.mlp`.
        device, dtype: as of `torch.nn.Linear`.

    Raises:
        ValueError: unknown activation or save, or a size that is negative.
        TypeError: a size that is no integer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        activation: str = "relu",
        hidden_bias: bool = True,
        output_bias: bool = True,
        save: str = "auto",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        for name, size in sizes.items():
            if isinstance(size, bool) or not hasattr(size, "__index__"):
                raise TypeError(f"MLP: {name} must be an int, got {size!r}")
            if size < 0:
                raise ValueError(f"MLP: {name} must not be negative, got {size}")
        super().__init__()
        self._set_options(activation_named(activation, "MLP").name, save)
        self.fc1 = nn.Linear(in_features, hidden_features, hidden_bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden_features, out_features, output_bias, device=device, dtype=dtype)

    @classmethod
    def from_linears(cls, fc1: nn.Linear, activation: str | nn.Module, fc2: nn.Linear, save: str = "auto") -> "MLP":
        """The MLP that shares its parameters with two linear layers.

        Args:
            fc1: the hidden layer.
            activation: φ by name, or as a module such as ``nn.GELU(approximate="tanh")``.
            fc2: the output layer; its inputs are fc1's outputs.
            save: see `torch_manual_bp.functional.mlp`.

        Raises:
            TypeError: fc1 or fc2 is no `torch.nn.Linear`.
            ValueError: sizes that do not fit, or an activation that is unknown (dropout between the layers is one).
        """
        for name, layer in (("fc1", fc1), ("fc2", fc2)):
            if not isinstance(layer, nn.Linear):
                raise TypeError(f"MLP.from_linears: {name} must be an nn.Linear, got {type(layer).__name__}")
        if fc1.out_features != fc2.in_features:
            raise ValueError(
                f"MLP.from_linears: fc2 must take fc1's {fc1.out_features} outputs, it takes {fc2.in_features} inputs"
            )
        of = activation_of_module if isinstance(activation, nn.Module) else activation_named
        mlp = cls.__new__(cls)
        nn.Module.__init__(mlp)
        mlp._set_options(of(activation, "MLP.from_linears").name, save)  # type: ignore[arg-type]
        mlp.fc1, mlp.fc2 = fc1, fc2
        return mlp

    def _set_options(self, activation: str, save: str) -> None:
        check.save_policy("MLP", save)
        self.activation, self.save = activation, save

    @property
    def in_features(self) -> int:
        """The width d of the inputs."""
        return self.fc1.in_features

    @property
    def hidden_features(self) -> int:
        """The width h of the hidden layer."""
        return self.fc1.out_features

    @property
    def out_features(self) -> int:
        """The width q of the outputs."""
        return self.fc2.out_features

    @property
    def composes(self) -> bool:
        """Whether fc1 and fc2 are called as modules, since one of them does more than a plain `torch.nn.Linear`."""
        return self.plain_weights() is None

    def plain_weights(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None] | None:
        """(w1, b1, w2, b2) to compute with; None where a layer does more with them and has to be called."""
        fc1, fc2 = self.fc1, self.fc2
        if _is_plain(fc1) and _is_plain(fc2) and not _has_any_global_hook():
            return fc1.weight, fc1.bias, fc2.weight, fc2.bias
        return None

    def forward(self, x: Tensor) -> Tensor:
        """O (..., q) for x (..., d); errors as of `torch_manual_bp.functional.mlp`."""
        phi = ACTIVATIONS[self.activation]
        weights = self.plain_weights()
        if weights is None:
            return self.fc2(phi.phi(self.fc1(x)))
        return door.mlp(x, *weights, phi, self.save, "MLP")

    def extra_repr(self) -> str:
        """The options that its layers do not show."""
        return f"activation={self.activation!r}, save={self.save!r}"


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer does nothing but x Wᵀ + b."""
    return type(layer) is nn.Linear and is_untouched(layer)


def is_untouched(module: nn.Module) -> bool:
    """Whether the module carries no hooks, and no forward but its class's."""
    members: dict[str, Any] = vars(module)
    return "forward" not in members and not any(members[hooks] for hooks in HOOKS)
