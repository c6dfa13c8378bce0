"""float32, bfloat16, float16 and autocast: the error against float64 is at most twice that of eager PyTorch."""

import pytest
import torch
from autograd.precision import assert_at_most_twice, mean_square_errors, under_autocast
from autograd.reference import NAMES, gradients, objective_composition

import torch_manual_bp as tmb
from torch_manual_bp.autograd import door
from torch_manual_bp.equations import LOSSES

from .cases import batch, objective_of

SMALL_LAMBDA = 0.01
SIZES = {"B": 64, "d": 32, "h": 48, "q": 10}
THREE_TILES = 24
NO_FLOAT16 = "ignore:torch_manual_bp. float16 matrix products"


def of_tiles(way, activation, loss, weight_decay, autocast=False, tile_rows=THREE_TILES):
    """J, dx and the gradients of w1, b1, w2 and b2 of an objective that holds these tensors."""

    def compute(t, y, do):
        x, *parameters = t
        d, h, q = x.shape[1], parameters[0].shape[0], parameters[2].shape[0]
        mlp = tmb.MLP(d, h, q, activation, dtype=parameters[0].dtype)
        for p, value in zip(mlp.parameters(), parameters, strict=True):
            p.data = value.detach()
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and x.dtype == torch.float32):
            J = way(tmb.Objective(mlp, loss, weight_decay), x, y, tile_rows=tile_rows)
        found = [J, x.grad, *(p.grad for p in mlp.parameters())]
        assert [g.dtype for g in found[1:]] == [t[0].dtype] * 5
        return found

    return compute


def of_eager(function):
    def compute(t, y, do):
        J = function(*t, y)
        return [J, *gradients(J, t)]

    return compute


@pytest.mark.filterwarnings(NO_FLOAT16)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_at_most_twice_eagers_error(activation, dtype, loss, way):
    ours = mean_square_errors(of_tiles(way, activation, loss, SMALL_LAMBDA), **SIZES, dtype=dtype, loss=loss)
    eager = of_eager(objective_composition(activation, loss, SMALL_LAMBDA))
    assert_at_most_twice(ours, mean_square_errors(eager, **SIZES, dtype=dtype, loss=loss), dtype, ("J", *NAMES))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_tile_rounds_a_gradient_once(activation, loss, way):
    """Its sums are as short as the parameters are."""
    ours, eager = (
        of_tiles(way, activation, loss, SMALL_LAMBDA, tile_rows="auto"),
        of_eager(objective_composition(activation, loss, SMALL_LAMBDA)),
    )
    errors = [mean_square_errors(f, **SIZES, dtype=torch.bfloat16, loss=loss) for f in (ours, eager)]
    assert_at_most_twice(*errors, torch.bfloat16, ("J", *NAMES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_classes_in_tiles(dtype, way, three_classes):
    for activation in ("relu", "gelu"):
        for loss in LOSSES:
            test_at_most_twice_eagers_error(activation, dtype, loss, way)


@pytest.mark.parametrize("weight_decay", [SMALL_LAMBDA, 10.0], ids="λ={}".format)
@pytest.mark.parametrize("loss", LOSSES)
def test_under_autocast(activation, loss, weight_decay, way):
    """With λ = 10 the penalty dominates: autocast leaves it, which is no product, in float32."""
    eager = under_autocast(objective_composition(activation, loss, weight_decay))
    ours = of_tiles(way, activation, loss, weight_decay, autocast=True)
    errors = [mean_square_errors(f, **SIZES, dtype=torch.float32, loss=loss) for f in (ours, eager)]
    assert_at_most_twice(*errors, torch.bfloat16, ("J", *NAMES))


def test_the_sum_over_many_tiles_is_longer_than_its_terms():
    """4096 rows in tiles of one: gradients added up in bfloat16 would stop growing after some 256 of them."""
    objective, (x, y) = (
        objective_of("tanh", dtype=torch.bfloat16, weight_decay=0.0),
        batch(B=4096, dtype=torch.bfloat16),
    )
    y.fill_(1)  # all rows pull in one direction
    exact = objective_of("tanh", weight_decay=0.0)
    exact.load_state_dict(objective.state_dict())
    exact(x.double(), y).backward()
    objective.accumulate_grad(x, y, tile_rows=1)
    for p, true in zip(objective.parameters(), exact.parameters(), strict=True):
        assert (p.grad.double() - true.grad).norm() <= 2**-7 * true.grad.norm()


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_the_number_of_rows_is_not_rounded_to_the_targets_dtype(loss, way):
    """1001 is none of bfloat16's numbers."""
    objective, (x, y) = objective_of(loss=loss, dtype=torch.bfloat16), batch(loss, B=1001, dtype=torch.bfloat16)
    J = objective(x, y).detach()
    for tile_rows in (100, "auto"):
        torch.testing.assert_close(way(objective, x, y, tile_rows=tile_rows), J, rtol=1e-5, atol=0)


def test_float16_on_a_cpu_is_told_of_once():
    door._warn_of_float16.cache_clear()
    objective, (x, y) = objective_of(dtype=torch.float16), batch(dtype=torch.float16)
    with pytest.warns(UserWarning, match="float16 matrix products take 20 to 100 times as long") as warned:
        objective.accumulate_grad(x, y)
        objective.accumulate_grad(x, y)
    assert len(warned) == 1 and warned[0].filename == __file__


@pytest.mark.filterwarnings(NO_FLOAT16)
def test_float16_gradients_do_not_underflow_before_they_are_scaled():
    """A mean over 60000 rows: ∂L/∂o is below float16's smallest number, its sum over the rows is not."""
    objective, (x, y) = objective_of("identity", dtype=torch.float16), batch(B=60000, dtype=torch.float16)
    y.fill_(1)
    objective.accumulate_grad(x, y)
    exact = objective_of("identity")
    exact.load_state_dict(objective.state_dict())
    exact(x.double(), y).backward()
    for p, true in zip(objective.parameters(), exact.parameters(), strict=True):
        assert (p.grad.double() - true.grad).norm() <= 2**-10 * true.grad.norm()


def test_autocast_leaves_float64_alone(way):
    objective, (x, y) = objective_of(), batch()
    way(objective, x, y, tile_rows=3)
    before = [p.grad.clone() for p in objective.parameters()]
    objective.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        way(objective, x, y, tile_rows=3)
    assert all(torch.equal(p.grad, g) for p, g in zip(objective.parameters(), before, strict=True))


def test_mixed_inputs_under_autocast(way):
    """bfloat16 rows from one autocast layer into another, float32 targets from a data set."""
    objective, (x, y) = objective_of("gelu", "mse", dtype=torch.float32), batch("mse", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        J = way(objective, x.bfloat16(), y, tile_rows=3)
        expected = objective_of("gelu", "mse", dtype=torch.float32)
        expected.load_state_dict(objective.state_dict())
        untiled = expected(x.bfloat16(), y)
    untiled.backward()
    # both are sums of squares of outputs that bfloat16 has rounded, to 8 bits, in products of other shapes
    torch.testing.assert_close(J, untiled.detach(), rtol=2**-7, atol=0)
    for p, twin in zip(objective.parameters(), expected.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        assert (p.grad - twin.grad).norm() <= 2**-6 * twin.grad.norm()
