"""The loss of a batch, a microbatch at a time: L = Σ_i L_i, each over the normaliser of the whole batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .. import kernels
from ..autograd import pure
from ..equations import Loss
from ..training.problem import exact_dtype, sum_dtype

Maybe = Tensor | None


class MicrobatchLoss:
    """What the last stage knows of a batch, and the loss function that it gives to a schedule.

    A mean is that of the whole batch, however many rows of a microbatch are ignored and whatever they weigh. A schedule
    cuts its target into microbatches; what it is given as one is their numbers, and the rows are looked up here.

    Args:
        loss: which, and its options.
        class_weight: (q,), or None.
        device: of the last stage.
    """

    def __init__(self, loss: Loss, class_weight: Maybe, device: torch.device) -> None:
        self.loss, self.class_weight = loss, None if class_weight is None else class_weight.to(device)

    def begin(
        self, y: Tensor, row_weight: Maybe, rows: int, q: int, dtype: torch.dtype, group: "dist.ProcessGroup | None"
    ) -> Tensor:  # fmt: skip
        """Take a batch; the numbers of its microbatches, the schedule's target.

        Args:
            y: labels (...) or targets (..., q), checked.
            row_weight: (...), or None.
            rows: of a microbatch; the last one may have fewer.
            q: width of the logits.
            dtype: of the logits.
            group: the processes whose rows make up the batch together, or None.
        """
        y, self._class_weight, row_weight = pure.loss_rows(self.loss, y, self.class_weight, row_weight, dtype)
        divisor = torch.ones((), dtype=exact_dtype(y.device), device=y.device)
        if self.loss.reduction == "mean":
            divisor *= self.loss.normalizer(y, self._class_weight, row_weight)
            if group is not None:
                dist.all_reduce(divisor, group=group)
            divisor *= self.loss.terms(q)
        factor = self.loss.gradient_factor / divisor
        self._factor = torch.where(divisor == 0, 0.0, factor).to(sum_dtype(dtype))  # for no rows: L is NaN, dO is 0
        self._divisor = divisor
        self._y = y.split(rows)
        self._row_weight = None if row_weight is None else row_weight.split(rows)
        return torch.arange(len(self._y), device="cpu")  # so that nobody waits to read a number

    def __call__(self, o: Tensor, number: Tensor | int) -> Tensor:
        """L_i for the logits o (m,q) of microbatch i, which are overwritten.

        Args:
            o: the logits.
            number: i, as a tensor of one element or a number.
        """
        i = int(number)
        row_weight = None if self._row_weight is None else self._row_weight[i]
        return LossForward.apply(o, self._y[i], self._class_weight, row_weight, self.loss, self._divisor, self._factor)

    def end(self) -> None:
        """Let the batch go."""
        del self._y, self._row_weight, self._divisor, self._factor


class LossForward(Function):
    """L_i = Σ_b r_b l_b / N over the rows of a microbatch, which leaves Ĝ where the logits were."""

    @staticmethod
    def forward(
        ctx: Any, o: Tensor, y: Tensor, class_weight: Maybe, row_weight: Maybe, loss: Loss, divisor: Tensor,
        factor: Tensor,
    ) -> Tensor:  # fmt: skip
        """L_i; o is not read any more by anybody: prediction has a pass of its own."""
        G = o if o.is_contiguous() else o.contiguous()
        total, _ = kernels.loss_(G, None, y, class_weight, row_weight, loss, "sum")
        torch.autograd.graph.increment_version(o)  # who did save it gets an error and no wrong gradient
        ctx.save_for_backward(G, factor)
        return (total / divisor).to(factor.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dL: Tensor) -> Any:
        """∂L/∂O = factor · Ĝ."""
        G, factor = ctx.saved_tensors
        return kernels.scaled(G, factor * dL), *(None,) * 6
