"""float32, bfloat16, float16: the error against float64 is at most twice that of eager PyTorch on the same inputs."""

import pytest
import torch

import torch_manual_bp as tmb

from .precision import assert_at_most_twice, mean_square_errors, under_autocast
from .reference import NAMES, composition, gradients, objective, objective_composition, tensors

pytestmark = pytest.mark.usefixtures("backend")
SMALL_LAMBDA = 0.01
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = [
    pytest.param({"B": 64, "d": 32, "h": 48, "q": 10}, id="B64-d32-h48-q10"),
    pytest.param({"B": 4096, "d": 8, "h": 16, "q": 10}, id="B4096-d8-h16-q10"),
]


def of_mlp(function):
    def compute(t, y, do):
        o = function(*t)
        return [o, *gradients(o, t, grad_outputs=do.to(o.dtype))]

    return compute


def of_objective(function):
    def compute(t, y, do):
        J = function(*t, y)
        return [J, *gradients(J, t)]

    return compute


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mlp(activation, save, dtype, sizes):
    ours = mean_square_errors(
        of_mlp(lambda *t: tmb.functional.mlp(*t, activation, save)), **sizes, dtype=dtype, loss="mse"
    )
    eagers = mean_square_errors(of_mlp(lambda *t: composition(*t, activation)), **sizes, dtype=dtype, loss="mse")
    assert_at_most_twice(ours, eagers, dtype, ("o", *NAMES))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_objective(activation, dtype, sizes, loss):
    def ours(*t_and_y):
        of_dtype = {"d": sizes["d"], "h": sizes["h"], "q": sizes["q"], "dtype": t_and_y[0].dtype}
        return objective(activation, loss, weight_decay=SMALL_LAMBDA, **of_dtype)(*t_and_y)

    eager = objective_composition(activation, loss, SMALL_LAMBDA)
    errors = [mean_square_errors(of_objective(f), **sizes, dtype=dtype, loss=loss) for f in (ours, eager)]
    assert_at_most_twice(*errors, dtype, ("J", *NAMES))


# ------------------------------------------------------------------------------------------------------------- autocast


@pytest.mark.parametrize("sizes", SIZES)
def test_mlp_under_autocast(activation, save, sizes):
    ours = under_autocast(lambda *t: tmb.functional.mlp(*t[:5], activation, save))
    eager = under_autocast(lambda *t: composition(*t[:5], activation))
    errors = [mean_square_errors(f, **sizes, dtype=torch.float32, loss="mse") for f in (ours, eager)]
    assert_at_most_twice(*errors, torch.bfloat16, ("o", *NAMES))


@pytest.mark.parametrize("weight_decay", [SMALL_LAMBDA, 10.0], ids="λ={}".format)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
def test_objective_under_autocast(activation, loss, weight_decay, sizes=SIZES[0].values[0]):
    """With λ = 10 the penalty dominates: autocast leaves it, which is no product, in float32."""

    def ours(*t_and_y):
        of_dtype = {"d": sizes["d"], "h": sizes["h"], "q": sizes["q"], "dtype": t_and_y[0].dtype}
        return objective(activation, loss, weight_decay=weight_decay, **of_dtype)(*t_and_y)

    eager = under_autocast(objective_composition(activation, loss, weight_decay))
    errors = [mean_square_errors(f, **sizes, dtype=torch.float32, loss=loss) for f in (under_autocast(ours), eager)]
    assert_at_most_twice(*errors, torch.bfloat16, ("J", *NAMES))


def test_autocast_leaves_float64_alone():
    t = tensors()
    with torch.autocast(t[0].device.type, torch.bfloat16):
        o = tmb.functional.mlp(*t)
    assert torch.equal(o, tmb.functional.mlp(*t))


def test_the_backward_pass_outside_autocast_is_that_inside():
    """Where ``backward()`` is called must not matter: the dtype was chosen in the forward pass."""
    t = tensors(dtype=torch.float32)
    with torch.autocast(t[0].device.type, torch.bfloat16):
        o = tmb.functional.mlp(*t, "gelu")
        inside = gradients(o.float().square().sum(), t, retain_graph=True)
    outside = gradients(o.float().square().sum(), t)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(inside, outside, strict=True))
