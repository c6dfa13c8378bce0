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


FACTOR, DECAY = 0.25, 0.01  # of what is left of the gradients; weight_decay


def check_sgd_products(setting: Setting) -> Iterator[Finding]:
    """SGD inside the products of the weights' gradients, against the gradients multiplied out."""
    B, d, h, q = setting.sizes
    for dtype in DTYPES:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        samples = Samples("sgd_products_", setting.device, dtype)
        p = [samples.normal(*shape) for shape in ((h, d), (h,), (q, h), (q,))]
        left = [samples.normal(B, columns) for columns in (d, h, q, h)]
        db = [samples.normal(n).to(wide) for n in (h, q)]
        torchs = _products_by_torch(p, left, [t.to(dtype) for t in db])
        truth = _products_by_torch(*([t.double().cpu() for t in of] for of in (p, left, db)))
        w1, b1, w2, b2 = got = [t.clone() for t in p]
        x, hidden, g, dz = left
        hyper = _hyper(p, LEARNING_RATE, DECAY, 0.0)
        kernels.sgd_products_(w1, b1, w2, b2, x, hidden, g, dz, db[0], db[1], hyper, FACTOR)
        for name, ours, eager, true in zip(("w1", "b1", "w2", "b2"), got, torchs, truth, strict=True):
            yield compare(f"sgd_products_, {name}", dtype, ours, eager, true)


def _products_by_torch(p: Sequence[Tensor], left: Sequence[Tensor], db: Sequence[Tensor]) -> list[Tensor]:
    x, hidden, g, dz = left
    gradients = (FACTOR * (dz.T @ x), db[0], FACTOR * (g.T @ hidden), db[1])
    decays = (PENALTY + DECAY, DECAY) * 2
    return [t - LEARNING_RATE * (gradient + decay * t) for t, gradient, decay in zip(p, gradients, decays, strict=True)]


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
