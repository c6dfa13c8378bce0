"""Updates inside matrix products."""

from collections.abc import Sequence

from torch import Tensor

from ._dispatch import kernels_for


def sgd_products_(
    w: Sequence[Tensor], left: Sequence[Tensor], right: Sequence[Tensor], w_keep: Sequence[float],
    w_rate: Sequence[float], b: Sequence[Tensor], db: Sequence[Tensor], b_keep: Sequence[float],
    b_rate: Sequence[float],
) -> None:  # fmt: skip
    """``W ← keep · W − rate · A B`` for each weight, then ``b ← keep · b − rate · db`` for each bias; all in one call.

    Args:
        w: matrices, contiguous, float32 or float64; overwritten.
        left: the factor A of each.
        right: the factor B of each.
        w_keep: a number for each.
        w_rate: a number for each.
        b: vectors, contiguous; overwritten.
        db: the gradient of each.
        b_keep: a number for each.
        b_rate: a number for each.
    """
    like = w[0] if w else b[0]
    kernels_for(like).sgd_products_(w, left, right, w_keep, w_rate, b, db, b_keep, b_rate)
