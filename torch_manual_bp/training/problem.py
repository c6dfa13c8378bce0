"""What a step is about, in three parts: the net, what is to become small, and on which rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..equations import Activation, Loss

Maybe = Tensor | None

WEIGHTS = ("w1", "w2")  # what λ acts on
PARAMETERS = ("w1", "b1", "w2", "b2")


class Net(NamedTuple):
    """w1 (h,d), b1 (h,) or None, w2 (q,h), b2 (q,) or None, and φ."""

    w1: Tensor
    b1: Maybe
    w2: Tensor
    b2: Maybe
    phi: Activation

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The widths d, h and q."""
        return self.w1.shape[1], *self.w2.shape[::-1]


class Goal(NamedTuple):
    """The objective J = L + λ/2 (‖W1‖² + ‖W2‖²); class_weight (q,) in the dtype that sums have, or None."""

    loss: Loss
    class_weight: Maybe
    weight_decay: float


class Batch(NamedTuple):
    """x (B,d), y (B,) or (B,q), row_weight (B,) in the dtype that sums have, or None."""

    x: Tensor
    y: Tensor
    row_weight: Maybe


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which losses and gradients of tensors of this dtype are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exact_dtype(device: torch.device) -> torch.dtype:
    """The longest dtype that the device computes in."""
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32
