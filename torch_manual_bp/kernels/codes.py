"""The numbers by which the ops know activations and kinds of kept tensors (csrc/activations.h has the same enums).

An op takes a number because a string costs a heap object on its way through the stable ABI, on every call.
"""

from typing import NoReturn

from ..equations.activations import ACTIVATIONS, activation_named

# in the order of `enum class Activation` and `enum class Kind`
ACTIVATION_NAMES = (
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh", "softplus", "elu", "relu_squared",
)  # fmt: skip
KIND_NAMES = ("h", "z", "mask")
LOSS_CODES = {"cross_entropy": 0, "mse": 1, "bce_with_logits": 2}  # `enum class LossKind`


class _Codes(dict[str, int]):
    """A dict whose missing keys are user errors; a hit costs no more than in any dict."""

    def __missing__(self, name: str) -> NoReturn:
        activation_named(name, "kernels")
        raise ValueError(f"bias_act_mask_: activation must be one of {', '.join(self)}; got {name!r}")


class _KindCodes(dict[tuple[str, str], tuple[int, int]]):
    def __missing__(self, key: tuple[str, str]) -> NoReturn:
        activation, kind = key
        activation_named(activation, "dact_")
        legal = ", ".join(k for a, k in self if a == activation)
        raise ValueError(f"dact_: kind must be one of {legal} for {activation}; got {kind!r}")


def _legal_kinds(name: str) -> list[str]:
    phi = ACTIVATIONS[name]
    return ["z"] + ["h"] * (phi.from_output is not None) + ["mask"] * (phi.binary_slope is not None)


CODES = _Codes({name: code for code, name in enumerate(ACTIVATION_NAMES)})
MASKED_CODES = _Codes({name: code for name, code in CODES.items() if "mask" in _legal_kinds(name)})
KIND_CODES = _KindCodes(
    {(name, kind): (code, KIND_NAMES.index(kind)) for name, code in CODES.items() for kind in _legal_kinds(name)}
)
