"""φ, φ′ and φ″ of every activation, in plain differentiable torch: the definition that all else is tested against.

Each derivative is written as it stands in the formula beside it. At kinks, and at softplus's threshold, the values
are PyTorch's. ``from_output`` holds φ′ and φ″ as functions of h = φ(z), where that is exact in every dtype: then h,
which ∂J/∂W2 needs anyway, is all that the backward pass keeps. Elsewhere z is kept (elu, softplus and relu² have such
formulas too, but they lose digits next to the kink or the threshold), and h is φ(z) once more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Elementwise = Callable[[Tensor], Tensor]

LEAKY_SLOPE = 0.01
SOFTPLUS_THRESHOLD = 20.0


class FromOutput(NamedTuple):
    """φ′ and φ″ as functions of h, and the derivative of the former by h (φ″ = ∂φ′/∂h · φ′)."""

    dphi: Elementwise
    d2phi: Elementwise
    dphi_dh: Elementwise


@dataclass(frozen=True)
class Activation:
    """An elementwise φ with its first two derivatives.

    ``phi``, ``dphi`` and ``d2phi`` are functions of z; ``latex`` holds their right-hand sides in the same order.
    ``from_output`` is None where z itself has to be kept. ``binary_slope`` is φ′ for z ≤ 0 where φ′ takes two values
    only (1 for z > 0): then one bit a unit is enough for ∂J/∂z.
    """

    name: str
    phi: Elementwise
    dphi: Elementwise
    d2phi: Elementwise
    latex: tuple[str, str, str]
    from_output: FromOutput | None = None
    binary_slope: float | None = None
    module: Callable[[], nn.Module] | None = field(default=None, compare=False)

    @property
    def is_piecewise_linear(self) -> bool:
        """Whether φ″ is 0 wherever there is one."""
        return self.latex[2] == "0"

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


def _zeros(z: Tensor) -> Tensor:
    return torch.zeros_like(z)


# Constants enter as tensors of z's dtype (new_tensor): torch.where(c, 1.0, 0.01) would round 0.01 to float32.


def _step(z: Tensor, low: float = 0.0) -> Tensor:
    """1 where z > 0, ``low`` elsewhere, and NaN where z is NaN: ⌈min(max(z, 0), 1)⌉, without a branch or a mask."""
    step = z.detach().clamp(0, 1).ceil()
    return step.clamp(min=low) if low else step


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _normal_distribution(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def _gelu_tanh_parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T = tanh u, u′ and u″ of u = √(2/π)(z + 0.044715 z³)."""
    k = math.sqrt(2 / math.pi)
    u = k * (z + 0.044715 * z**3)
    return torch.tanh(u), k * (1 + 3 * 0.044715 * z * z), k * 6 * 0.044715 * z


def _gelu_tanh_d(z: Tensor) -> Tensor:
    t, du, _ = _gelu_tanh_parts(z)
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * du


def _gelu_tanh_d2(z: Tensor) -> Tensor:
    t, du, d2u = _gelu_tanh_parts(z)
    return (1 - t * t) * (du + 0.5 * z * (d2u - 2 * t * du * du))


def _silu_d(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _silu_d2(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _sigmoid_d(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _sigmoid_d2(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_d2(z: Tensor) -> Tensor:
    t = torch.tanh(z)
    return -2 * t * (1 - t * t)


def _exp_below_zero(z: Tensor) -> Tensor:
    """exp(z) for z ≤ 0; the clamp keeps exp of a large z, which no one reads, from becoming inf · 0 in a derivative."""
    return torch.exp(z.clamp(max=0))


_sign = FromOutput(_step, _zeros, _zeros)

_ALL = (
    Activation("identity", lambda z: z, torch.ones_like, _zeros, ("z", "1", "0"),
               FromOutput(torch.ones_like, _zeros, _zeros), module=nn.Identity),
    Activation("relu", F.relu, _step, _zeros, (r"\max(z,0)", "[z>0]", "0"), _sign, binary_slope=0.0, module=nn.ReLU),
    Activation("leaky_relu", lambda z: F.leaky_relu(z, LEAKY_SLOPE), lambda z: _step(z, LEAKY_SLOPE), _zeros,
               (r"\max(z,az),\ a=0.01", "[z>0]+a[z\\le 0]", "0"),
               FromOutput(lambda h: _step(h, LEAKY_SLOPE), _zeros, _zeros), binary_slope=LEAKY_SLOPE,
               module=nn.LeakyReLU),
    Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, _tanh_d2,
               (r"\tanh z", r"1-\tanh^2 z", r"-2\tanh z\,(1-\tanh^2 z)"),
               FromOutput(lambda h: 1 - h * h, lambda h: -2 * h * (1 - h * h), lambda h: -2 * h), module=nn.Tanh),
    Activation("sigmoid", torch.sigmoid, _sigmoid_d, _sigmoid_d2,
               (r"\sigma(z)=\frac{1}{1+e^{-z}}", r"\sigma(1-\sigma)", r"\sigma(1-\sigma)(1-2\sigma)"),
               FromOutput(lambda h: h * (1 - h), lambda h: h * (1 - h) * (1 - 2 * h), lambda h: 1 - 2 * h),
               module=nn.Sigmoid),
    Activation("silu", F.silu, _silu_d, _silu_d2,
               (r"z\,\sigma(z)", r"\sigma(1+z(1-\sigma))", r"\sigma(1-\sigma)(2+z(1-2\sigma))"), module=nn.SiLU),
    Activation("gelu", F.gelu, lambda z: _normal_distribution(z) + z * _normal_density(z),
               lambda z: _normal_density(z) * (2 - z * z),
               (r"z\,\Phi(z)", r"\Phi(z)+z\,\varphi(z)", r"\varphi(z)(2-z^2)"), module=nn.GELU),
    Activation("gelu_tanh", lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_d, _gelu_tanh_d2,
               (r"\tfrac12 z(1+t),\ t=\tanh u,\ u=\sqrt{2/\pi}\,(z+0.044715z^3)",
                r"\tfrac12(1+t)+\tfrac12 z(1-t^2)u'", r"(1-t^2)(u'+\tfrac12 z(u''-2tu'^2))"),
               module=lambda: nn.GELU(approximate="tanh")),
    Activation("softplus", F.softplus,
               lambda z: torch.where(z > SOFTPLUS_THRESHOLD, z.new_ones(()), torch.sigmoid(z)),
               lambda z: torch.where(z > SOFTPLUS_THRESHOLD, z.new_zeros(()), _sigmoid_d(z)),
               (r"\log(1+e^z)", r"\sigma(z)", r"\sigma(1-\sigma)"), module=nn.Softplus),
    Activation("elu", F.elu, _exp_below_zero,
               lambda z: torch.where(z < 0, _exp_below_zero(z), z.new_zeros(())),
               (r"z\ (z>0),\ e^z-1\ (z\le 0)", r"1\ (z>0),\ e^z\ (z\le 0)", r"0\ (z\ge 0),\ e^z\ (z<0)"),
               module=nn.ELU),
    Activation("relu_squared", lambda z: F.relu(z).square(), lambda z: 2 * F.relu(z), lambda z: 2 * _step(z),
               (r"\max(z,0)^2", r"2\max(z,0)", "2[z>0]")),
)  # fmt: skip

ACTIVATIONS: dict[str, Activation] = {activation.name: activation for activation in _ALL}


def activation_named(name: str, op: str = "activation") -> Activation:
    """The activation of this name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f"{op}: activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}") from None


def activation_of_module(module: nn.Module, op: str = "activation") -> Activation:
    """The activation that an ``nn.Module`` such as ``nn.GELU(approximate="tanh")`` computes.

    Raises:
        ValueError: a module of another type, or one whose settings (slope, alpha, beta) are not the default ones.
    """
    for activation in _ALL:
        twin = activation.module() if activation.module else None
        # (in place or not makes no difference to what is computed)
        if type(twin) is type(module) and _settings(twin) == _settings(module):
            return activation
    raise ValueError(
        f"{op}: activation must be one of {', '.join(ACTIVATIONS)} or the nn.Module of one of them "
        f"with its default settings; got {module!r}"
    )


def _settings(module: nn.Module | None) -> dict[str, object]:
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in ("training", "inplace")}
