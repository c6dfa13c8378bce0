"""The call that a plan is about, on random data: what `measure` is given to compare the two."""

import gc
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from ..nn import MLP, Objective
from .measure import measure
from .measurement import Measurement
from .setting import Setting

_NAMES = {"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"}
_EAGER: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


class Sample:
    """A net and a batch of a setting; calling it takes the setting's path once."""

    def __init__(self, setting: Setting) -> None:
        s = self._setting = setting
        generator = torch.Generator().manual_seed(0)
        d, h, q = s.widths
        biases = "b1" in s.parameters, "b2" in s.parameters
        self._mlp = MLP(d, h, q, s.activation, *biases, save=s.save, device=s.device, dtype=s.dtype)
        for name in s.parameters:
            self._mlp.get_parameter(_NAMES[name]).requires_grad_(name in s.trained)
        weight = torch.rand(q, dtype=s.sums, generator=generator).to(s.device) if s.class_weight else None
        tile_rows = s.tile_rows if s.path == "autograd" else None
        self._objective = Objective(
            self._mlp, s.loss.name, s.weight_decay, reduction=s.loss.reduction, class_weight=weight,
            label_smoothing=s.loss.label_smoothing, ignore_index=s.loss.ignore_index, tile_rows=tile_rows,
        )  # fmt: skip
        self._x = torch.randn(s.batch, d, generator=generator).to(s.device, s.dtype).requires_grad_(s.x_requires_grad)
        self._y = torch.randint(q, (s.batch,), generator=generator).to(s.device)
        if not s.loss.takes_classes:
            self._y = torch.rand(s.batch, q, generator=generator).to(s.device, s.dtype)
        self._optimizer = self._new_optimizer()
        module = s.phi.module
        self._eager = self._mlp if module is None else nn.Sequential(self._mlp.fc1, module(), self._mlp.fc2)

    def _new_optimizer(self) -> Optimizer | None:
        s, parameters = self._setting, [p for p in self._mlp.parameters() if p.requires_grad]
        if s.optimizer == "adamw":
            return AdamW(parameters, 1e-3)
        return SGD(parameters, 1e-3, momentum=0.9 if s.optimizer == "momentum" else 0.0) if s.optimizer else None

    def __call__(self) -> Tensor:
        """J, or the predictions."""
        s, objective, x, y = self._setting, self._objective, self._x, self._y
        with torch.autocast(s.device, s.autocast) if s.autocast else nullcontext():
            if s.path == "predict":
                with torch.no_grad():
                    return self._mlp(x)
            if s.path == "step":
                assert self._optimizer is not None
                clip_norm = 1.0 if s.clipped else None
                return objective.step(x, y, self._optimizer, tile_rows=s.tile_rows or "auto", clip_norm=clip_norm)
            if s.path == "accumulate_grad":
                J = objective.accumulate_grad(x, y, tile_rows=s.tile_rows or "auto")
            else:
                J = objective(x, y) if s.path == "autograd" else _EAGER[s.loss.name](self._eager(x), y)
                J.backward()
            if self._optimizer is not None:
                self._optimizer.step()
            return J

    def give_back(self) -> None:
        """Let gradients and workspace go, as before a step of a training loop that keeps neither."""
        self._mlp.zero_grad()
        self._x.grad = None
        self._objective.release_workspace()

    def measured(self) -> Measurement:
        """The memory of a call that is not the first."""
        s = self._setting
        for _ in range(2):  # the second finds the way that is bound to it
            self()
        self.give_back()
        gc.collect()  # what earlier samples held goes now, not while this one is watched
        measurement = measure(self, s.device)
        self.give_back()
        return measurement
