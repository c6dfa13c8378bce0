"""The cross-entropy of logits that are never whole: two walks over tiles of classes, with statistics in between.

The first walk shows each tile's logits to ``class_statistics_``; ``class_loss`` is the loss; the second walk, over the
same logits computed once more, turns each tile into its Ĝ by ``cross_entropy_classes_``. All three equal what
``cross_entropy_`` does to the whole o; rows are as independent as there, so they may come in tiles as well.

Labels are taken to be in [0,q) or ``ignore_index`` (``find_bad_label`` says so beforehand): a negative label is that of
a row that is left out.
"""

import torch
from torch import Tensor

from ._dispatch import kernels_for

_COLUMNS = 6  # of the statistics; what they are stands in csrc/cross_entropy.h and in fallback/classes.py


def new_statistics(rows: int, like: Tensor) -> Tensor:
    """What is known of rows of which no class has been read.

    Args:
        rows: B.
        like: a tensor on the device of the logits.

    Returns:
        (B,6), float64 (float32 on MPS, which has no other): the largest logit, −∞ so far; Σ_k e^{x_k − top} = 0; the
        label's logit and weight, NaN, so that a walk that misses the label's tile is not silently wrong; Σ_k w_k = 0;
        Σ_k w_k (top − x_k) = 0.
    """
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    statistics = torch.zeros(rows, _COLUMNS, dtype=dtype, device=like.device)
    statistics[:, 0] = -torch.inf
    statistics[:, 2:4] = torch.nan
    return statistics


def class_statistics_(
    o: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None, first_class: int, statistics: Tensor
) -> None:
    """Adds the classes k₀ … k₀+n−1 to the statistics of their rows.

    Each class is to be shown once; the order of the tiles does not matter but for rounding.

    Args:
        o: (B,n), contiguous: the logits of these classes before the bias is added; left alone.
        bias: (n,) in o's dtype, these classes' slice, or None.
        target: (B,), int64: labels among all q classes; rows with a negative one, no class, may be passed over.
        class_weight: (n,), these classes' slice, float32 (float64 where o is), or None.
        first_class: k₀.
        statistics: (B,6) of ``new_statistics``; what is known with these classes afterwards.
    """
    kernels_for(o).class_statistics_(o, bias, target, class_weight, first_class, statistics)


def class_loss(
    statistics: Tensor, target: Tensor, row_weight: Tensor | None, classes: int, label_smoothing: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Σ_b r_b l_b and Σ_b r_b w_{y_b} over the rows not ignored, when all classes have been read.

    l is that of ``cross_entropy_``: (1−ε) w_y (−log p_y) + (ε/q) Σ_k w_k (−log p_k), −log p_k = log mass + top − x_k.

    Args:
        statistics: (B,6).
        target: (B,), int64.
        row_weight: r (B,), float32 or float64, or None.
        classes: q.
        label_smoothing: ε in [0,1].
        ignore_index: the label of rows that are left out.

    Returns:
        Both 0-dim in the statistics' dtype; their quotient is the mean L.
    """
    return kernels_for(statistics).class_loss(statistics, target, row_weight, classes, label_smoothing, ignore_index)


def cross_entropy_classes_(
    o: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    first_class: int, classes: int, label_smoothing: float, ignore_index: int, statistics: Tensor,
) -> None:  # fmt: skip
    """``o ← Ĝ``, the columns of these classes: Ĝ_bk = r_b (a_b p_k − (1−ε) w_y [k=y] − (ε/q) w_k), 0 in ignored rows.

    As in ``cross_entropy_``, with p_k = e^{x_k − top} / mass and a_b = (1−ε) w_y + (ε/q) Σ_k w_k from the statistics.

    Args:
        o: (B,n), contiguous: the logits that ``class_statistics_`` was shown; Ĝ afterwards.
        bias: (n,) in o's dtype, these classes' slice, or None.
        target: (B,), int64: labels among all q classes.
        class_weight: (n,), these classes' slice, as ``class_statistics_`` had it, or None.
        row_weight: r (B,), as class_weight, or None.
        first_class: k₀.
        classes: q.
        label_smoothing: ε in [0,1].
        ignore_index: the label of rows that are left out.
        statistics: (B,6), of all classes.
    """
    kernels_for(o).cross_entropy_classes_(
        o, bias, target, class_weight, row_weight, first_class, classes, label_smoothing, ignore_index, statistics
    )
