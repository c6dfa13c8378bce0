"""The rule for short dtypes: the error against float64 is at most twice that of eager PyTorch on the same inputs."""

import torch

from .reference import error, gradients, targets, tensors

SEEDS = 5


def mean_square_errors(compute, B, d, h, q, dtype, loss):
    """RMS over seeds of the relative errors of what ``compute(tensors, y, cotangent)`` returns, for the given dtype."""
    squares = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        t = tensors(B, d, h, q, dtype=dtype)
        y, do = targets(loss, B, q, dtype), torch.randn(B, q, dtype=torch.float64).to(dtype)
        exact = compute(*_double(t, y, do))
        squares.append([error(got, true) ** 2 for got, true in zip(compute(t, y, do), exact, strict=True)])
    return [(sum(column) / SEEDS) ** 0.5 for column in zip(*squares, strict=True)]


def _double(t, y, do):
    wide = tuple(tensor.detach().double().requires_grad_() for tensor in t)
    return wide, y.double() if y.is_floating_point() else y, do.double()


def assert_at_most_twice(ours, eagers, dtype, names):
    """J is a single float32 number: among a few seeds, a rounding of it more or less is luck."""
    for name, our, eager in zip(names, ours, eagers, strict=True):
        rounding = torch.finfo(torch.float32).eps if name == "J" else 0
        allowed = max(2 * (eager or torch.finfo(dtype).eps), rounding)
        assert our <= allowed, f"{name}: {our:.2e}, eager {eager:.2e}"


def under_autocast(function):
    """The function under autocast where its tensors are float32; the float64 reference is computed without."""

    def compute(t, y, do):
        with torch.autocast(t[0].device.type, torch.bfloat16, enabled=t[0].dtype == torch.float32):
            value = function(*t, y)
        do = do if value.dim() else torch.ones_like(value)
        return [value, *gradients(value, t, grad_outputs=do.to(value.dtype))]

    return compute
