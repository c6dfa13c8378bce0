"""What follows from a plan: figures by hand, formulas that hold, advice that does what it says."""

import math
import re

import pytest
import torch
from torch import nn

import torch_manual_bp as tmb
from torch_manual_bp import memory
from torch_manual_bp.memory.budget import bytes_of

B, D, H, Q = 5000, 784, 256, 10
COMPILED = not tmb.kernels.backend().startswith("python")


def planned(batch=B, *, widths=(D, H, Q), activation="relu", **options):
    return memory.plan(tmb.MLP(*widths, activation, device="meta"), batch, **options)


def value(formula, plan):
    """A formula's value: juxtaposed sizes are products."""
    sizes = {"B": B, "d": D, "h": H, "q": Q, "c": plan.setting.choice.tile.rows, "k": plan.setting.choice.tile.classes}
    formula = formula.replace(",", "").replace(" (", "*(")

    def product(match):
        return "*".join(part for part in (match[1], *(str(sizes[name]) for name in match[2])) if part)

    return eval(re.sub(r"(\d*) ?([A-Za-z]+)", product, formula))


def test_eager_by_hand():
    """At the peak of eager autograd stand h, do, dh, dz, dw2, db2, J and dJ; z went with the forward pass."""
    plan = planned(path="eager")
    assert plan.peak_bytes == plan.call_bytes == 4 * (3 * B * H + B * Q * (Q > H) + H * Q + Q) + 8
    assert plan.formula == "4 (3 Bh + hq + q) + 8"
    assert plan.given_bytes == 4 * (H * D + H + Q * H + Q + B * D) + 8 * B
    assert plan.total_bytes == plan.peak_bytes + plan.given_bytes
    assert plan.left_bytes == 4 * (H * D + H + Q * H + Q) + 4  # gradients and J


def test_the_optimizers_state_stands_before():
    plan, without = planned(path="step", optimizer="adamw"), planned(path="step", optimizer="sgd")
    state = [tensor for tensor in plan.tensors if tensor.kind == "optimizer state"]
    assert sum(tensor.bytes for tensor in state) == 8 * (H * D + H + Q * H + Q) + 16
    assert all((tensor.born, tensor.died) == (0, None) for tensor in state)
    assert plan.peak_bytes - plan.call_bytes == sum(tensor.bytes for tensor in state)
    assert without.peak_bytes == without.call_bytes


@pytest.mark.parametrize("options", [
    {}, {"path": "step"}, {"path": "step", "optimizer": "adamw"}, {"path": "predict"}, {"path": "eager"},
    {"path": "accumulate_grad", "tile_rows": 100}, {"tile_rows": "auto", "weight_decay": 0.1},
    {"activation": "gelu", "save": "input"}, {"loss": "mse", "dtype": torch.float64},
], ids=str)  # fmt: skip
def test_the_formula_is_the_peak(options):
    plan = planned(**options)
    assert value(plan.formula, plan) == plan.peak_bytes
    assert sum(tensor.bytes for tensor in plan.at_peak) == plan.peak_bytes == max(plan.timeline)


def test_tiles_are_flat_in_the_batch():
    small, large = (planned(batch, path="accumulate_grad") for batch in (10_000, 1_000_000))
    assert large.peak_bytes == small.peak_bytes
    assert "B" not in large.formula


def test_prediction_needs_less_than_training_which_keeps_h_for_the_backward_pass():
    training, prediction = planned(), planned(path="predict")
    assert prediction.formula == "4 (Bh + Bq)"
    assert training.peak_bytes > 2 * prediction.peak_bytes - 4 * B * Q


def test_a_plan_allocates_nothing():
    mlp = tmb.MLP(10_000, 10_000, 10_000, device="meta")
    memory.plan(mlp, 10, path="step")  # imports
    measured = memory.measure(lambda: memory.plan(mlp, 100_000, path="step", optimizer="adamw").total_bytes, "cpu")
    assert measured.peak_bytes < 10_000


def test_fits_at_the_byte():
    plan = planned()
    assert plan.fits(plan.total_bytes)
    assert not plan.fits(plan.total_bytes - 1)


@pytest.mark.parametrize("budget, number", [
    (7, 7), ("7", 7), ("8GB", 8 * 10**9), ("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("1e9", 10**9), (2.5e6, 2_500_000),
    (10**17, 10**17), ("20 kB", 20_000),
])  # fmt: skip
def test_bytes_as_people_write_them(budget, number):
    assert bytes_of(budget) == number


@pytest.mark.parametrize("budget", ["much", "", "8 gb", "-3", "1.2.3GB", "8iB", float("inf"), -1])
def test_what_is_no_number_of_bytes(budget):
    with pytest.raises(ValueError, match="budget must be a number of bytes such as 8GB"):
        planned().fits(budget)
    with pytest.raises(TypeError, match="budget must be a number of bytes or text"):
        planned().fits(None)


@pytest.mark.parametrize(
    "path, optimizer", [("eager", "sgd"), ("autograd", "adamw"), ("step", "adamw"), ("predict", None)]
)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.15])
def test_advice_keeps_its_word(path, optimizer, share):
    plan = planned(20_000, widths=(300, 500, 700), path=path, optimizer=optimizer)
    least = plan.total_bytes - plan.peak_bytes if path == "predict" else 0
    budget = max(int(plan.total_bytes * share), least and int(least * 0.5))
    given = plan.advice(budget)
    assert given, "something helps"
    assert any(advice.fits for advice in given) or share < 0.5
    assert [advice.fits for advice in given] == sorted((advice.fits for advice in given), reverse=True)
    for advice in given:
        assert advice.fits == (advice.plan.total_bytes <= budget)
        assert advice.plan.total_bytes < plan.total_bytes
        assert advice.cost


def test_what_is_kept_between_the_passes():
    """x aside: z or h, Ĝ, its scale and J; with save="input" neither z nor h, though the peak is no lower."""
    kept, of_input = planned(activation="gelu"), planned(activation="gelu", save="input")
    assert kept.kept_bytes == 4 * (B * H + B * Q) + 8
    assert of_input.kept_bytes == 4 * B * Q + 8
    assert of_input.peak_bytes >= kept.peak_bytes
    assert planned(path="step").kept_bytes == 0


def test_changes_are_put_on_top_of_each_other_where_one_is_not_enough():
    plan = planned(65_536, widths=(784, 4096, 1000), optimizer="adamw")
    together = plan.advice(250 * 10**6)[0]
    assert together.fits
    alone = [advice for advice in plan.advice(250 * 10**6)[1:] if advice.fits]
    assert not alone


def test_a_batch_that_is_cut_makes_no_step_of_its_own():
    """A step of a half of the rows is not half of a step."""
    plan = planned(65_536, widths=(784, 4096, 1000), optimizer="adamw")
    for share in (0.11, 0.09, 0.075):
        for advice in plan.advice(int(plan.total_bytes * share)):
            assert not ("microbatches of" in advice.change and advice.plan.setting.path == "step"), advice


def test_nothing_helps_where_the_parameters_alone_are_too_large():
    assert not any(advice.fits for advice in planned().advice(1000))


def test_the_table_shows_what_stands_when():
    text = str(planned(loss="cross_entropy", optimizer="adamw"))
    assert (
        text.splitlines()[0]
        == f"B, d, h, q = {B}, {D}, {H}, {Q} · relu · float32 · cross_entropy · autograd, adamw (whole batch)"
    )
    for name in ("w1", "exp_avg_sq of w1", "z, then h", "o, then Ĝ", "dh, then dz", "dw1"):
        assert any(line.startswith(name) for line in text.splitlines()), name
    assert "at the peak, in bytes: 4 (" in text


@pytest.mark.skipif(COMPILED, reason="the compiled kernels are here")
def test_without_the_compiled_kernels_the_plan_says_so():
    assert any("compiled kernels" in note for note in planned().notes)


@pytest.mark.parametrize("options, message", [
    ({"path": "train"}, "path must be one of autograd, accumulate_grad, step, predict, eager; got 'train'"),
    ({"batch": 0}, "batch must be a positive int, got 0"),
    ({"batch": True}, "batch must be a positive int, got True"),
    ({"optimizer": "lion"}, "optimizer must be one of sgd, momentum, adamw; got 'lion'"),
    ({"optimizer": torch.optim.RMSprop([torch.zeros(1)])}, "optimizer must be torch's SGD, Adam or AdamW, got RMSprop"),
    ({"tile_rows": True}, 'tile_rows must be a positive int or "auto", got True'),
    ({"tile_rows": 0}, 'tile_rows must be a positive int or "auto", got 0'),
    ({"tile_rows": 8, "path": "predict"}, 'tile_rows does not go with path="predict"'),
    ({"clip_norm": 1.0}, 'clip_norm does not go with path="autograd"'),
    ({"optimizer": "sgd", "path": "predict"}, 'optimizer does not go with path="predict"'),
    ({"x_requires_grad": True, "path": "step"}, 'x_requires_grad does not go with path="step"'),
    ({"autocast": torch.bfloat16, "path": "eager"}, 'autocast does not go with path="eager"'),
    ({"autocast": torch.float32}, "autocast must be bfloat16 or float16, got torch.float32"),
    ({"dtype": torch.int32}, "dtype must be float64, float32, bfloat16 or float16, got torch.int32"),
    ({"save": "all"}, "save must be auto or input, got 'all'"),
    ({"loss": "hinge"}, "hinge"),
    ({"path": "eager", "activation": "relu_squared"}, "needs an activation that torch has a module of"),
    ({"path": "eager", "weight_decay": 0.1}, "leaves λ to the optimizer"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(**options)


def test_an_objective_brings_its_own_loss():
    objective = tmb.Objective(tmb.MLP(D, H, Q), "mse", 0.1, tile_rows=64)
    plan = memory.plan(objective, B)
    assert (plan.setting.loss.name, plan.setting.weight_decay, plan.setting.choice.way) == ("mse", 0.1, "tiles")
    with pytest.raises(ValueError, match="are the Objective's"):
        memory.plan(objective, B, loss="mse")


def test_models_that_are_not_known():
    with pytest.raises(TypeError, match=r"must be a torch_manual_bp.MLP or Objective, got Sequential"):
        memory.plan(nn.Sequential(), B)
    mlp = tmb.MLP(D, H, Q)
    mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks"):
        memory.plan(mlp, B)
    frozen = tmb.MLP(D, H, Q).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        memory.plan(frozen, B)
    assert math.isfinite(memory.plan(frozen, B, path="predict").peak_bytes)
