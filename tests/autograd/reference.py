"""What the package is compared with: the MLP and its objective as PyTorch composes them, on problems of small sizes."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

import torch_manual_bp as tmb

NAMES = ("x", "w1", "b1", "w2", "b2")
LAMBDA = 0.3
SAVES = ("auto", "input")

PHI = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "softplus": F.softplus,
    "elu": F.elu,
    "relu_squared": lambda z: F.relu(z).square(),
}
LOSS = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def tensors(B=7, d=5, h=6, q=4, hidden_bias=True, output_bias=True, dtype=torch.float64, requires_grad=True):
    """x (B,d), w1 (h,d), b1 (h,), w2 (q,h), b2 (q,), as leaves, at the scale of an initialised network."""

    def leaf(*shape, scale=1.0):
        return (scale * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_(requires_grad)

    w1, w2 = leaf(h, d, scale=1 / math.sqrt(max(d, 1))), leaf(q, h, scale=1 / math.sqrt(max(h, 1)))
    b1 = leaf(h, scale=0.5) if hidden_bias else None
    b2 = leaf(q, scale=0.5) if output_bias else None
    return leaf(B, d), w1, b1, w2, b2


def targets(loss, B=7, q=4, dtype=torch.float64):
    """y as the loss takes it."""
    if loss == "cross_entropy":
        return torch.randint(q, (B,))
    return torch.rand(B, q, dtype=torch.float64).to(dtype)


def composition(x, w1, b1, w2, b2, activation):
    """O, by torch's own functions and autograd."""
    return F.linear(PHI[activation](F.linear(x, w1, b1)), w2, b2)


def objective_composition(activation, loss="cross_entropy", weight_decay=LAMBDA, **options):
    """J as a function of x, w1, b1, w2, b2 and y, by torch's own functions and autograd."""

    def J(x, w1, b1, w2, b2, y):
        o = composition(x, w1, b1, w2, b2, activation)
        return LOSS[loss](o, y, **options) + weight_decay / 2 * (w1.square().sum() + w2.square().sum())

    return J


def here(options):
    """Options of a loss, their tensors where the test's are: the cases stand in the file before there is a device."""
    where = torch.get_default_device()
    return {name: value.to(where) if isinstance(value, Tensor) else value for name, value in options.items()}


def objective(
    activation, loss="cross_entropy", save="auto", weight_decay=LAMBDA, *, d=5, h=6, q=4, hidden_bias=True,
    output_bias=True, dtype=torch.float64, **options,
):  # fmt: skip
    """J as a function of x, w1, b1, w2, b2 and y, by `torch_manual_bp.Objective`."""
    mlp = tmb.MLP(d, h, q, activation, hidden_bias, output_bias, save, dtype=dtype).requires_grad_(False)
    module = tmb.Objective(mlp, loss, weight_decay, **here(options))

    def J(x, w1, b1, w2, b2, y, row_weight=None):
        given = {"fc1.weight": w1, "fc1.bias": b1, "fc2.weight": w2, "fc2.bias": b2}
        parameters = {f"mlp.{name}": tensor for name, tensor in given.items() if tensor is not None}
        return functional_call(module, parameters, (x, y, row_weight))

    return J


def leaves(*arguments):
    """The tensors among the arguments by which one differentiates."""
    return [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]


def gradients(value, at, **options):
    """∂ value/∂ at, zeros where there is no path."""
    return torch.autograd.grad(value, at, materialize_grads=True, **options)


def error(got, expected):
    """‖got − expected‖ / ‖expected‖ in float64; ‖got‖ where nothing but zeros is expected."""
    expected = expected.double()
    scale = expected.norm()
    return ((got.double() - expected).norm() / (scale if scale > 0 else 1)).item()


def assert_close(got, expected, tolerance, names=None):
    """Each of ``got`` within a norm-wise relative error of its twin in ``expected``."""
    for i, (ours, torchs) in enumerate(zip(got, expected, strict=True)):
        name = names[i] if names else i
        assert ours.shape == torchs.shape, name
        assert error(ours, torchs) <= tolerance, f"{name}: {error(ours, torchs):.2e}"
