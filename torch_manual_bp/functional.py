"""The MLP as a function of tensors."""

from torch import Tensor

from .autograd import door
from .equations import activation_named


def mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str = "relu",
    save: str = "auto",
) -> Tensor:
    """O = φ(X W1ᵀ + 1 b1ᵀ) W2ᵀ + 1 b2ᵀ, with the backward pass derived by hand.

    dW2 = dOᵀH, db2 = dOᵀ1, dH = dO W2, dZ = φ′(Z) ⊙ dH, dW1 = dZᵀX, db1 = dZᵀ1, dX = dZ W1 (D2L 5.3.9 to 5.3.14).

    Args:
        x: inputs, shape (..., d), one floating dtype and device with all others.
        w1: the hidden layer's weight, shape (h, d).
        b1: its bias, shape (h,), or None.
        w2: the output layer's weight, shape (q, h).
        b2: its bias, shape (q,), or None.
        activation: φ by name, see `torch_manual_bp.equations.ACTIVATIONS`.
        save: ``"auto"`` keeps for the backward pass the least that needs no extra matrix product (h, or z where φ′
            does not follow from h, or a bit a unit for relu where w2 is frozen); ``"input"`` keeps only x and computes
            z once more.

    Returns:
        The outputs, shape (..., q).

    Raises:
        TypeError: an argument is no tensor, no floating dtype, or of another dtype than x.
        ValueError: shapes or devices that do not fit; unknown activation or save.
    """
    return door.mlp(x, w1, b1, w2, b2, activation_named(activation, "mlp"), save, "mlp")
