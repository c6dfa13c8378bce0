"""Small objectives and batches, the same on every process and in the test, and their gradients by one process."""

import torch
from torch import nn

import torch_manual_bp as tmb

B, d, h, q = 40, 5, 6, 4
LAMBDA = 0.3
IGNORED = 2
SCHEDULES = ("gpipe", "1f1b", "zero_bubble")

MOST_OPTIONS = {"ignore_index": IGNORED, "label_smoothing": 0.1, "class_weight": [0.2, 1.5, 0.7, 1.0]}
LOSSES = {
    "cross_entropy": {},
    "rows ignored": {"ignore_index": IGNORED},
    "every option of cross_entropy": MOST_OPTIONS,
    "sum of cross_entropy": {"reduction": "sum", **MOST_OPTIONS},
    "mse": {"loss": "mse"},
    "sum of mse": {"loss": "mse", "reduction": "sum"},
    "bce_with_logits": {"loss": "bce_with_logits"},
    "sum of bce_with_logits": {"loss": "bce_with_logits", "reduction": "sum"},
}


def tensor_options(options, dtype=torch.float64):
    """Class weights as a tensor."""
    return {
        name: torch.tensor(value, dtype=dtype) if name == "class_weight" else value for name, value in options.items()
    }


def objective_of(
    activation="gelu",
    *,
    weight_decay=LAMBDA,
    hidden_bias=True,
    output_bias=True,
    dtype=torch.float64,
    frozen=(),
    **loss,
):
    torch.manual_seed(3)
    mlp = tmb.MLP(d, h, q, activation, hidden_bias, output_bias, dtype=dtype)
    for name, parameter in mlp.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return tmb.Objective(mlp, weight_decay=weight_decay, **tensor_options(loss, dtype))


def stack_of(blocks, dtype=torch.float64):
    """MLPs of different widths and activations, one after another."""
    torch.manual_seed(4)
    widths = [*[d, 7, 3, 8, q][:blocks], q]
    activations = ["gelu", "tanh", "relu", "silu"]
    return nn.Sequential(
        *(tmb.MLP(widths[i], h + i, widths[i + 1], activations[i], dtype=dtype) for i in range(blocks))
    )


def batch(loss="cross_entropy", dtype=torch.float64, rows=B, seed=0):
    """x, y and row weights; most of the rows that are ignored lie in the first microbatches, and one weight is 0."""
    torch.manual_seed(7 + seed)
    x, row_weight = torch.randn(rows, d, dtype=torch.float64), torch.rand(rows, dtype=torch.float64)
    y = torch.randint(q, (rows,)) if loss == "cross_entropy" else torch.rand(rows, q, dtype=torch.float64).to(dtype)
    if loss == "cross_entropy":
        y[: rows // 4] = IGNORED
    row_weight[1] = 0
    return x.to(dtype), y, row_weight.to(dtype)


def by_one_process(objective, x, y, row_weight=None, steps=1):
    """J, and ∂J/∂p by name, None where frozen."""
    for _ in range(steps):
        J = objective(x, y, row_weight)
        J.backward()
    return J.detach(), {name: p.grad for name, p in objective.mlp.named_parameters()}


def stack_by_one_process(stack, loss, x, y, weight_decay=LAMBDA, **options):
    """J and gradients of a stack, by autograd and torch's own layers: λ acts on every block's weights."""
    o = stack(x)
    J = loss(o, y, **options)
    for name, p in stack.named_parameters():
        if name.endswith("weight"):
            J = J + weight_decay / 2 * p.square().sum()
    J.backward()
    return J.detach(), {name: p.grad for name, p in stack.named_parameters()}


def gradients_of(pipe):
    """∂J/∂p by name, of this process's stage; shards gathered."""
    whole = {name: getattr(p.grad, "full_tensor", lambda g=p.grad: g)() for name, p in pipe.named_parameters()}
    return {name: None if g is None else g.detach().clone() for name, g in whole.items()}
