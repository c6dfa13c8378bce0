"""The penalty s = λ/2 (‖W1‖² + ‖W2‖²), D2L 5.3.5."""

import torch
from torch import Tensor

FEW = 1 << 14  # numbers, whose squares may be added one after another


def squared_norms(w1: Tensor, w2: Tensor, dtype: torch.dtype) -> Tensor:
    """``‖W1‖² + ‖W2‖²``, summed in this dtype.

    Row by row: over a whole matrix torch's norm on a CPU adds one square after another, 1e-3 off for 4096 × 4096.
    """
    return _squared_norm(w1, dtype) + _squared_norm(w2, dtype)


def _squared_norm(w: Tensor, dtype: torch.dtype) -> Tensor:
    if w.numel() <= FEW:
        return torch.linalg.vector_norm(w, dtype=dtype).square_()
    return torch.linalg.vector_norm(w, dim=1, dtype=dtype).square_().sum()
