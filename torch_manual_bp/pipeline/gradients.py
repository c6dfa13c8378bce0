"""Weight gradients that wait, and the sums over the microbatches that they go to."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..training.problem import sum_dtype


class Waiting(NamedTuple):
    """A gradient that is still to be made: ∂J/∂p ← ∂J/∂p + Aᵀ B, or + Aᵀ 1 without B."""

    parameter: Tensor
    a: Tensor
    b: Tensor | None


class WeightGradients:
    """The gradients of one stage's parameters: those that wait for their turn, and the sums they go to.

    The backward pass of a stage makes ∂J/∂h or ∂J/∂z and defers ∂J/∂W and ∂J/∂b; the schedule runs them later (zero
    bubble), or at once. They are summed in place: in ``.grad`` itself where that is as long as sums must be, elsewhere
    apart from it until `finish`.

    Attributes:
        active: whether a pipe runs the stage; else its modules are ordinary modules under autograd.
    """

    def __init__(self) -> None:
        self.active = False
        self._waiting: list[Waiting] = []
        self._apart: Callable[[Tensor], bool] = lambda parameter: False
        self._sums: dict[Tensor, Tensor] = {}

    def begin(self, reduced_here: bool, reduced_upstream: bool) -> None:
        """Start a step.

        Args:
            reduced_here: the sums are reduced over a group in `finish`, so what ``.grad`` holds must stay out of them.
            reduced_upstream: FSDP reduces them at the end of the schedule, where it finds them in ``.grad`` alone.
        """
        self.abandon()
        if reduced_upstream:
            self._apart = lambda parameter: False
        else:
            self._apart = lambda parameter: reduced_here or sum_dtype(parameter.dtype) is not parameter.dtype

    def abandon(self) -> None:
        """Forget everything, after a step that failed."""
        self._waiting.clear()
        self._sums.clear()

    def defer(self, parameter: Tensor, a: Tensor, b: Tensor | None = None) -> None:
        """∂J/∂p += Aᵀ B is to be made later; += Aᵀ 1 without B.

        Args:
            parameter: p, (n,m), or (n,) without B.
            a: (rows, n).
            b: (rows, m).
        """
        self._waiting.append(Waiting(parameter, a, b))

    def runner(self) -> Callable[..., None]:
        """What has been deferred since the last call, as a function that makes it: upstream's ``dw_builder``."""
        taken, self._waiting = self._waiting, []

        @torch.no_grad()
        def run(*_: Any) -> None:
            while taken:  # each factor is let go as soon as it has been used
                self._add(*taken.pop(0))

        return run

    def add(self, parameter: Tensor, rows: Tensor) -> None:
        """∂J/∂p += a gradient that came with ∂J/∂z in one pass."""
        total = self._total(parameter)
        if total is None:
            self._set(parameter, rows)
        else:
            total.add_(rows)

    def _add(self, parameter: Tensor, a: Tensor, b: Tensor | None) -> None:
        total = self._total(parameter)
        if b is None:
            self.add(parameter, torch.sum(a, 0, dtype=sum_dtype(a.dtype)))
        elif total is None:
            self._set(parameter, torch.mm(a.t(), b))
        elif total.dtype is a.dtype:
            total.addmm_(a.t(), b)
        else:
            total.add_(torch.mm(a.t(), b))

    def _total(self, parameter: Tensor) -> Tensor | None:
        return self._sums.get(parameter) if self._apart(parameter) else parameter.grad

    def _set(self, parameter: Tensor, gradient: Tensor) -> None:
        if self._apart(parameter):
            self._sums[parameter] = gradient.to(sum_dtype(parameter.dtype))
        else:
            parameter.grad = gradient.to(parameter.dtype)

    @torch.no_grad()
    def finish(
        self, parameters: Iterable[nn.Parameter], penalised: Iterable[nn.Parameter], weight_decay: float,
        group: "dist.ProcessGroup | None",
    ) -> None:  # fmt: skip
        """Reduce what is apart, add ∂s/∂W = λW once, and leave all of it in ``.grad``.

        Args:
            parameters: the stage's, in the same order on each process of the group.
            penalised: those among them that λ acts on.
            weight_decay: λ.
            group: the processes that hold the same stage, or None.
        """
        assert not self._waiting, "a weight gradient was never made"
        decayed = set(penalised) if weight_decay else set()
        for parameter in parameters:
            if not parameter.requires_grad:
                continue
            total = self._sums.pop(parameter, None)
            if total is not None and group is not None:
                dist.all_reduce(total, group=group)
            into = parameter.grad if total is None else total
            if parameter in decayed and into is not None:
                into.add_(parameter, alpha=weight_decay)  # dW = … + λ W, once a step and not once a microbatch
            if total is None:
                continue
            if parameter.grad is None:
                parameter.grad = total.to(parameter.dtype)
            else:
                parameter.grad.add_(total)
