"""Small objectives, their batches, and the two ways to their gradients by tiles."""

import copy
import functools
import itertools

import pytest
import torch
from autograd.reference import here

import torch_manual_bp as tmb

LAMBDA = 0.3
TILES = (1, 3, 4, 7, 100, "auto")  # of 7 rows: each alone, uneven ones, two halves but for a row, all, more than all
BIASES = [
    pytest.param(
        *biases, id="-".join(name for name, there in zip(("b1", "b2"), biases, strict=True) if there) or "none"
    )
    for biases in itertools.product((True, False), repeat=2)
]


makers_device = None  # of what the makers here make; None for torch's default: see the fixture `made_on_device`


def maker(make):
    """Makes its tensors on ``makers_device``; the test that asked for them goes on in no mode of torch."""

    @functools.wraps(make)
    def made(*arguments, **options):
        if makers_device is None:
            return make(*arguments, **options)
        with torch.device(makers_device):
            return make(*arguments, **options)

    return made


@maker
def objective_of(activation="tanh", loss="cross_entropy", *, d=5, h=6, q=4, hidden_bias=True, output_bias=True,
                 dtype=torch.float64, weight_decay=LAMBDA, **options):  # fmt: skip
    mlp = tmb.MLP(d, h, q, activation, hidden_bias, output_bias, dtype=dtype)
    return tmb.Objective(mlp, loss, weight_decay, **here(options))


@maker
def batch(loss="cross_entropy", B=7, d=5, q=4, dtype=torch.float64):
    """x (B,d) and y as the loss takes it."""
    x = torch.randn(B, d, dtype=torch.float64).to(dtype)
    return x, torch.randint(q, (B,)) if loss == "cross_entropy" else torch.rand(B, q, dtype=torch.float64).to(dtype)


def by_accumulate_grad(objective, x, y, row_weight=None, tile_rows="auto"):
    return objective.accumulate_grad(x, y, row_weight, tile_rows=tile_rows)


def by_usual_loop(objective, x, y, row_weight=None, tile_rows="auto"):
    objective.tile_rows = tile_rows
    J = objective(x, y, row_weight)
    J.backward()
    return J.detach()


WAYS = {"accumulate_grad": by_accumulate_grad, "usual loop": by_usual_loop}


def untiled(objective, x, y, row_weight=None):
    """J, ∂J/∂x and ∂J/∂p of the objective without tiles; no ``.grad`` is touched."""
    twin, x = copy.deepcopy(objective), x.detach().requires_grad_()
    twin.tile_rows = None
    J = twin(x, y, row_weight)
    return [J.detach(), *torch.autograd.grad(J, [x, *twin.parameters()], materialize_grads=True)]


def found(J, objective, x=None):
    """J, x.grad and every p.grad, as `untiled` has them."""
    return [J, *([] if x is None else [x.grad]), *(p.grad for p in objective.parameters())]


def state_of(objective, optimizer=None):
    """A copy of all that a step may change: parameters, their ``.grad``, the optimizer's state and groups."""
    tensors = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in objective.parameters()]
    return copy.deepcopy((tensors, optimizer and optimizer.state_dict()))


def assert_same_state(now, before):
    """Bit for bit; NaN is NaN."""
    torch.testing.assert_close(now, before, rtol=0, atol=0, equal_nan=True)
