"""Updates inside matrix products, in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def sgd_products_(
    w: Sequence[Tensor], left: Sequence[Tensor], right: Sequence[Tensor], w_keep: Sequence[float],
    w_rate: Sequence[float], b: Sequence[Tensor], db: Sequence[Tensor], b_keep: Sequence[float],
    b_rate: Sequence[float],
) -> None:  # fmt: skip
    """``W ← keep · W − rate · A B`` for each weight, then ``b ← keep · b − rate · db`` for each bias."""
    for each, a, c, keep, rate in zip(w, left, right, w_keep, w_rate, strict=True):
        each.addmm_(a, c, beta=keep, alpha=-rate)
    for each, gradient, keep, rate in zip(b, db, b_keep, b_rate, strict=True):
        each.mul_(keep).sub_(gradient, alpha=rate)
