"""Check: sgd_ and adam_ against torch.optim, with λ and clipping inside as torch would have them outside."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from .. import kernels
from .finding import Finding, compare
from .setting import DTYPES, Samples, Setting

PENALTY, LEARNING_RATE, STEPS = 0.1, 0.05, 3
EPSILON = 1e-3  # of Adam: torch's 1e-8 is 0 in float16, and 0/0 where v underflows

Kernel = Callable[[list[Tensor], Sequence[Tensor], float], None]


@dataclass(frozen=True)
class Update:
    """A torch optimizer, and our kernel's calls for the same: made anew for parameters, whose state it then keeps."""

    name: str
    torchs: Callable[[Sequence[Tensor]], Optimizer]
    ours: Callable[[Sequence[Tensor]], Kernel]


def _sgd(momentum: float, nesterov: bool, weight_decay: float) -> Callable[[Sequence[Tensor]], Kernel]:
    def made(parameters: Sequence[Tensor]) -> Kernel:
        buffers = [torch.zeros_like(p) for p in parameters] if momentum else []

        def step(p: list[Tensor], g: Sequence[Tensor], clip_norm: float) -> None:
            kernels.sgd_(p, g, buffers, _hyper(p, LEARNING_RATE, weight_decay, momentum), clip_norm, nesterov)

        return step

    return made


def _adam(decoupled: bool, weight_decay: float) -> Callable[[Sequence[Tensor]], Kernel]:
    def made(parameters: Sequence[Tensor]) -> Kernel:
        first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        steps = [torch.tensor(0.0) for _ in parameters]

        def step(p: list[Tensor], g: Sequence[Tensor], clip_norm: float) -> None:
            hyper = _hyper(p, LEARNING_RATE, weight_decay, 0.9, 0.999, EPSILON)
            kernels.adam_(p, g, first, second, steps, hyper, clip_norm, decoupled)

        return step

    return made


def _hyper(p: Sequence[Tensor], *numbers: float) -> Tensor:
    """The numbers of each parameter behind its penalty, which biases have not."""
    return torch.tensor([(PENALTY * (t.dim() == 2), *numbers) for t in p], dtype=torch.float64)


UPDATES = (
    Update("SGD", lambda p: SGD(p, LEARNING_RATE), _sgd(0.0, False, 0.0)),
    Update("SGD, momentum", lambda p: SGD(p, LEARNING_RATE, 0.9), _sgd(0.9, False, 0.0)),
    Update(
        "SGD, Nesterov, weight_decay",
        lambda p: SGD(p, LEARNING_RATE, 0.9, weight_decay=0.01, nesterov=True),
        _sgd(0.9, True, 0.01),
    ),
    Update("Adam, weight_decay", lambda p: Adam(p, LEARNING_RATE, eps=EPSILON, weight_decay=0.01), _adam(False, 0.01)),
    Update("AdamW", lambda p: AdamW(p, LEARNING_RATE, eps=EPSILON, weight_decay=0.01), _adam(True, 0.01)),
)


def check_updates(setting: Setting) -> Iterator[Finding]:
    """Three steps of each update, with and without clipping, all parameters of a net at once."""
    _, d, h, q = setting.sizes
    for update in UPDATES:
        for dtype in DTYPES:
            for clip_norm in (math.inf, 0.5):
                samples = Samples(f"update {update.name}", setting.device, dtype)
                shapes = ((h, d), (h,), (q, h), (q,), (300, 1025))  # the last takes more than one block
                p, *g = ([samples.normal(*shape) for shape in shapes] for _ in range(1 + STEPS))
                got = _by_kernel(update, p, g, clip_norm)
                torchs = _by_torch(update, p, g, clip_norm)
                truth = _by_torch(
                    update, [t.double().cpu() for t in p], [[t.double().cpu() for t in of] for of in g], clip_norm
                )
                what = f"{update.name}{', clipping' if clip_norm < math.inf else ''}"
                for ours, eager, true in zip(got, torchs, truth, strict=True):
                    yield compare(f"{what}: {'×'.join(map(str, true.shape))}", dtype, ours, eager, true)


def _by_kernel(update: Update, p: list[Tensor], g: Sequence[Sequence[Tensor]], clip_norm: float) -> list[Tensor]:
    p = [t.clone() for t in p]
    step = update.ours(p)
    for gradients in g:
        step(p, gradients, clip_norm)
    return p


def _by_torch(update: Update, p: list[Tensor], g: Sequence[Sequence[Tensor]], clip_norm: float) -> list[Tensor]:
    parameters = [nn.Parameter(t.clone()) for t in p]
    optimizer = update.torchs(parameters)
    for gradients in g:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient + (PENALTY if gradient.dim() == 2 else 0.0) * parameter.detach()
        if clip_norm < math.inf:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]
