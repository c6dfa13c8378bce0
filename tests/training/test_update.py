"""``objective.step``: what ``optimizer.step()`` does after ``backward()``, and nothing else."""

import copy
import warnings

import pytest
import torch
from autograd.reference import assert_close
from torch import nn
from torch.optim import ASGD, SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from torch.optim.optimizer import register_optimizer_step_post_hook

from .cases import assert_same_state, batch, objective_of, state_of, untiled

TOLERANCE = 1e-10

FUSED = {
    "SGD": lambda p: SGD(p, 0.1),
    "SGD with weight decay": lambda p: SGD(p, 0.1, weight_decay=0.05),
    "SGD of a learning rate that is an int": lambda p: SGD(p, 1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9),
    "momentum with weight decay": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.05),
    "Nesterov": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: Adam(p, 0.01),
    "Adam with weight decay": lambda p: Adam(p, 0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05),
    "Adam decoupled": lambda p: Adam(p, 0.01, weight_decay=0.05, decoupled_weight_decay=True),
    "AdamW": lambda p: AdamW(p, 0.01, weight_decay=0.1),
    "AdamW foreach": lambda p: AdamW(p, 0.01, foreach=True),
    "AdamW fused": lambda p: AdamW(p, 0.01, fused=True),
}
BY_THEMSELVES = {
    "dampening": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "SGD maximize": lambda p: SGD(p, 0.01, maximize=True),
    "SGD of a tensor as learning rate": lambda p: SGD(p, torch.tensor(0.1)),
    "amsgrad": lambda p: AdamW(p, 0.01, amsgrad=True),
    "Adam maximize": lambda p: Adam(p, 0.01, maximize=True),
    "Adam of a tensor as learning rate": lambda p: Adam(p, torch.tensor(0.01), foreach=False),
    "RMSprop": lambda p: RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: Adagrad(p, 0.1),
    "NAdam": lambda p: NAdam(p, 0.01),
    "ASGD": lambda p: ASGD(p, 0.1),
}
OPTIMIZERS = FUSED | BY_THEMSELVES
of_every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
clipped_or_not = pytest.mark.parametrize("clip_norm", [None, 0.05, 100.0], ids="clip_norm={}".format)


def batches(steps, B=7, loss="cross_entropy"):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(B, 5, dtype=torch.float64, generator=generator)
        yield x, torch.randint(4, (B,), generator=generator)


def usual_step(objective, x, y, optimizer, row_weight=None, clip_norm=None):
    """J, and the norm that was clipped, by autograd without tiles; ``.grad`` is left as it was found."""
    norm, before = None, [p.grad for p in objective.parameters()]
    optimizer.zero_grad()
    J = objective(x, y, row_weight)
    J.backward()
    if clip_norm is not None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, clip_norm)
    optimizer.step()
    for p, grad in zip(objective.parameters(), before, strict=True):
        p.grad = grad
    return J.detach(), norm


def twins(make, of=lambda objective: objective.parameters(), **options):
    """An objective and its optimizer, twice."""
    objective = objective_of(**options)
    twin = copy.deepcopy(objective)
    return (objective, make(of(objective))), (twin, make(of(twin)))


def state_tensors(optimizer):
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


def assert_same_training(ours, torchs, tolerance=TOLERANCE):
    """Parameters, and the optimizer's state tensor by tensor."""
    assert_close(ours[0].parameters(), torchs[0].parameters(), tolerance)
    mine, theirs = (optimizer.state_dict()["state"] for _, optimizer in (ours, torchs))
    for key, state in theirs.items():
        for name, value in state.items():
            if value is not None:
                a, b = (torch.as_tensor(v) for v in (mine[key][name], value))
                assert a.dtype == b.dtype, name
                assert_close([a], [b], tolerance, [name])


# ------------------------------------------------------------------------------------------------------------- equality


def train(name, clip_norm, steps, tile_rows=("auto", 3), **options):
    """Ours and torch's, in one tile and in three by turns; how often the norm was clipped."""
    ours, torchs = twins(OPTIMIZERS[name], **options)
    clipped = 0
    for step, (x, y) in enumerate(batches(steps)):
        J = ours[0].step(x, y, ours[1], tile_rows=tile_rows[step % len(tile_rows)], clip_norm=clip_norm)
        expected, norm = usual_step(torchs[0], x, y, torchs[1], clip_norm=clip_norm)
        assert_close([J], [expected], TOLERANCE)
        clipped += norm is not None and bool(norm > clip_norm)
    assert_same_training(ours, torchs)
    return clipped


@clipped_or_not
@of_every_optimizer
def test_fifty_steps(name, clip_norm):
    clipped = train(name, clip_norm, 50)
    assert clipped == (0 if clip_norm in (None, 100.0) else 50)


@clipped_or_not
@pytest.mark.parametrize("name", FUSED)
def test_on_every_backend(name, clip_norm, backend):
    train(name, clip_norm, 5)


def sixteen_bit_step(name, step):
    """How far a step in bfloat16 leads from one in float64, parameter by parameter."""
    exact = objective_of("gelu", d=32, h=48, q=16, weight_decay=0.01)
    short = copy.deepcopy(exact).bfloat16()
    exact.load_state_dict(short.state_dict())
    x, y = batch(B=64, d=32, q=16)
    x = x.bfloat16()
    usual_step(exact, x.double(), y, OPTIMIZERS[name](exact.parameters()))
    step(short, x, y, OPTIMIZERS[name](short.parameters()))
    return [(p.double() - true).norm() for p, true in zip(short.parameters(), exact.parameters(), strict=True)]


@pytest.mark.parametrize("name", ["SGD", "SGD with weight decay", "momentum", "AdamW"])
def test_bfloat16_parameters(name, backend):
    """Plain SGD rounds a weight once, inside its product; torch rounds its gradient and the update."""
    eager = sixteen_bit_step(name, usual_step)
    for tile_rows in ("auto", 24):
        ours = sixteen_bit_step(name, lambda o, x, y, opt, tile_rows=tile_rows: o.step(x, y, opt, tile_rows=tile_rows))
        assert all(mine <= 2 * theirs for mine, theirs in zip(ours, eager, strict=True))


def test_sgd_in_the_products_holds_no_gradient():
    """bfloat16: z, in whose place h is, o, dh, and the biases' gradients in float32."""
    objective, (x, y) = objective_of("relu", dtype=torch.bfloat16), batch(dtype=torch.bfloat16)
    objective.step(x, y, SGD(objective.parameters(), 0.1))
    assert objective.workspace_bytes == 2 * 7 * (6 + 4 + 6) + 4 * (6 + 4)


@pytest.mark.parametrize(("name", "clip_norm"), [("SGD", None), ("AdamW", 1.0)])
def test_a_thousand_steps(name, clip_norm):
    train(name, clip_norm, 1000, tile_rows=("auto",), weight_decay=0.01)


OBJECTIVES = {
    "no bias": {"hidden_bias": False, "output_bias": False},
    "no penalty": {"weight_decay": 0.0},
    "sum": {"reduction": "sum", "weight_decay": 0.01},
    "class weights, smoothing, ignored rows": {
        "class_weight": torch.tensor([0.2, 1.5, 0.7, 1.0], dtype=torch.float64), "label_smoothing": 0.1,
        "ignore_index": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "RMSprop"])
@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_objectives_and_row_weights(options, name):
    ours, torchs = twins(OPTIMIZERS[name], activation="gelu", **options)
    row_weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.0], dtype=torch.float64)
    for step, (x, y) in enumerate(batches(10)):
        weight = row_weight if step % 2 else None
        ours[0].step(x, y, ours[1], weight, tile_rows=(3, "auto")[step % 3 == 0])
        usual_step(torchs[0], x, y, torchs[1], weight)
    assert_same_training(ours, torchs)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW"])
def test_every_activation_and_loss(activation, name):
    for loss in ("mse", "bce_with_logits"):
        ours, torchs = twins(OPTIMIZERS[name], activation=activation, loss=loss)
        x, y = batch(loss)
        for tile_rows in ("auto", 3, 7):
            ours[0].step(x, y, ours[1], tile_rows=tile_rows)
            usual_step(torchs[0], x, y, torchs[1])
        assert_same_training(ours, torchs)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW"])
def test_classes_in_tiles(name, three_classes):
    ours, torchs = twins(OPTIMIZERS[name])
    for x, y in batches(5):
        ours[0].step(x, y, ours[1])
        usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_an_empty_batch_steps_by_the_penalty(loss, name):
    ours, torchs = twins(OPTIMIZERS[name], loss=loss)
    x, y = batch(loss, B=0)
    J = ours[0].step(x, y, ours[1])
    assert J.isnan() and usual_step(torchs[0], x, y, torchs[1])[0].isnan()
    assert_same_training(ours, torchs)


def test_rows_that_are_not_finite_reach_the_parameters_as_in_torch():
    """Nothing is skipped: a NaN shows."""
    for name in ("SGD", "AdamW"):
        ours, torchs = twins(OPTIMIZERS[name])
        (x, y), clip_norm = batch(), 1.0
        x[2, 1] = float("nan")
        ours[0].step(x, y, ours[1], clip_norm=clip_norm)
        usual_step(torchs[0], x, y, torchs[1], clip_norm=clip_norm)
        for p, q in zip(ours[0].parameters(), torchs[0].parameters(), strict=True):
            assert torch.equal(p.isnan(), q.isnan()) and p.isnan().any()


# ------------------------------------------------------------------------------------------------------ what is trained


def of_two_groups(objective):
    weights, biases = ([layer.get_parameter(n) for layer in (objective.mlp.fc2, objective.mlp.fc1)]
                       for n in ("weight", "bias"))  # fmt: skip
    return [{"params": biases, "lr": 0.02, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.1}]


def of_groups_with_different_rules(objective):
    one, two = of_two_groups(objective)
    return [one | {"momentum": 0.0, "betas": (0.5, 0.9)}, two | {"momentum": 0.9}]


def without_the_output_layer(objective):
    return objective.mlp.fc1.parameters()


def biases_alone(objective):
    return [objective.mlp.fc1.bias, objective.mlp.fc2.bias]


def one_weight(objective):
    return [objective.mlp.fc2.weight]


@pytest.mark.parametrize("clip_norm", [None, 0.2])
@pytest.mark.parametrize("name", ["SGD", "momentum", "Nesterov", "AdamW", "RMSprop"])
@pytest.mark.parametrize(
    "of",
    [of_two_groups, of_groups_with_different_rules, without_the_output_layer, biases_alone, one_weight],
    ids=lambda of: of.__name__.replace("_", " "),
)
def test_groups_and_parameters_left_out(of, name, clip_norm):
    if of is of_groups_with_different_rules and name == "Nesterov":
        name = "momentum"  # Nesterov's rule is none without momentum
    ours, torchs = twins(OPTIMIZERS[name], of)
    for step, (x, y) in enumerate(batches(6)):
        ours[0].step(x, y, ours[1], clip_norm=clip_norm, tile_rows=(3, 7)[step % 2])
        usual_step(torchs[0], x, y, torchs[1], clip_norm=clip_norm)
    assert_same_training(ours, torchs)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "RMSprop"])
@pytest.mark.parametrize("frozen", ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])
def test_frozen_parameters_stay(frozen, name):
    """In the optimizer, but without a gradient: torch passes them by, their weight decay too."""
    ours, torchs = twins(lambda p: type(OPTIMIZERS[name]([nn.Parameter(torch.zeros(1))]))(p, 0.1, weight_decay=0.1))
    before = ours[0].mlp.get_parameter(frozen).detach().clone()
    for objective, _ in (ours, torchs):
        objective.mlp.get_parameter(frozen).requires_grad_(False)
    for x, y in batches(4):
        ours[0].step(x, y, ours[1])
        usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)
    assert torch.equal(ours[0].mlp.get_parameter(frozen), before)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "RMSprop"])
def test_bfloat16_parameters_step_as_the_optimizer_steps_them(name):
    ours, torchs = twins(OPTIMIZERS[name], dtype=torch.bfloat16)
    for x, y in batches(5):
        ours[0].step(x.bfloat16(), y, ours[1], tile_rows=3)
        usual_step(torchs[0], x.bfloat16(), y, torchs[1])
    assert_close(ours[0].parameters(), torchs[0].parameters(), 4 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW"])
def test_under_autocast(name):
    """Parameters and state are float32; products are bfloat16, one tile or three."""
    for tile_rows in ("auto", 3):
        ours, torchs = twins(OPTIMIZERS[name], dtype=torch.float32)
        start = [p.detach().clone() for p in ours[0].parameters()]
        for x, y in batches(5):
            with torch.autocast("cpu", torch.bfloat16):
                ours[0].step(x.float(), y, ours[1], tile_rows=tile_rows)
                usual_step(torchs[0], x.float(), y, torchs[1])
        for p, q, before in zip(ours[0].parameters(), torchs[0].parameters(), start, strict=True):
            assert p.dtype == torch.float32
            assert (p - q).norm() <= 0.05 * (
                q - before
            ).norm()  # Adam divides a gradient's bfloat16 rounding by its size


# --------------------------------------------------------------------------------- what is left as it was, and versions


@pytest.mark.parametrize("name", ["SGD", "momentum", "AdamW", "RMSprop", "Adam maximize"])
@pytest.mark.parametrize("grads", ["some", "none"])
def test_grad_is_neither_read_nor_written(name, grads):
    (objective, optimizer), torchs = twins(OPTIMIZERS[name])
    for p in objective.parameters():
        p.grad = torch.full_like(p, float("nan")) if grads == "some" else None
    held = [p.grad for p in objective.parameters()]
    for x, y in batches(2):
        objective.step(x, y, optimizer, tile_rows=3)
        usual_step(torchs[0], x, y, torchs[1])
    assert all(
        p.grad is g and (g is None or g.isnan().all()) for p, g in zip(objective.parameters(), held, strict=True)
    )
    assert_same_training((objective, optimizer), torchs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_graph_from_before_the_step_cannot_be_walked_after_it(name):
    """The versions of all parameters move: a stale backward raises, as after ``optimizer.step()``."""
    (objective, optimizer), _ = twins(OPTIMIZERS[name])
    x, y = batch()
    versions = [p._version for p in objective.parameters()]
    J = objective(x, y)
    objective.step(x, y, optimizer)
    assert all(p._version > v for p, v in zip(objective.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.backward()


def test_parameters_keep_their_memory():
    """Views of them, DDP buckets, another module's share: all see the step."""
    for name in ("SGD", "momentum", "AdamW", "RMSprop"):
        (objective, optimizer), _ = twins(OPTIMIZERS[name])
        x, y = batch()
        views = [p.detach().view(-1) for p in objective.parameters()]
        objective.step(x, y, optimizer)
        assert all(v.data_ptr() == p.data_ptr() for v, p in zip(views, objective.parameters(), strict=True))


def test_J_is_that_before_the_step():
    (objective, optimizer), _ = twins(OPTIMIZERS["SGD"])
    x, y = batch()
    before = objective(x, y)
    J = objective.step(x, y, optimizer)
    assert_close([J], [before], 1e-14)
    held = J.item()
    objective.step(x, y, optimizer)
    assert J.item() == held and not J.requires_grad


# -------------------------------------------------------------------------------------------------- the optimizer's own


@of_every_optimizer
def test_steps_of_ours_and_of_torchs_in_turn_and_a_state_that_was_saved(name, tmp_path):
    """Ours, then torch's, then a round trip through a file, then ours, then torch's."""
    ours, torchs = twins(OPTIMIZERS[name])
    for step, (x, y) in enumerate(batches(12)):
        if step == 6:
            torch.save([part.state_dict() for part in ours], tmp_path / "state.pt")
            fresh = objective_of()
            ours = fresh, OPTIMIZERS[name](fresh.parameters())
            for part, state in zip(ours, torch.load(tmp_path / "state.pt"), strict=True):
                part.load_state_dict(state)
            torchs[1].load_state_dict(torchs[1].state_dict())  # which changes dtypes of NAdam's and ASGD's numbers
        if step % 6 < 3:
            ours[0].step(x, y, ours[1])
        else:
            usual_step(ours[0], x, y, ours[1])
        usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)
    mine, theirs = (optimizer.state_dict() for _, optimizer in (ours, torchs))
    assert mine["param_groups"] == theirs["param_groups"]
    assert {k: list(v) for k, v in mine["state"].items()} == {k: list(v) for k, v in theirs["state"].items()}


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),  # moves momentum, too
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["momentum", "AdamW", "RMSprop"])
def test_schedulers_are_followed_and_say_nothing(name, scheduler):
    """A scheduler warns where it believes that the optimizer has not stepped before it."""
    ours, torchs = twins(OPTIMIZERS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedulers = [SCHEDULERS[scheduler](optimizer) for _, optimizer in (ours, torchs)]
        for x, y in batches(10):
            ours[0].step(x, y, ours[1])
            usual_step(torchs[0], x, y, torchs[1])
            for each in schedulers:
                each.step()
    assert ours[1].param_groups[0]["lr"] != OPTIMIZERS[name]([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
    assert_same_training(ours, torchs)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_hooks_of_the_optimizer_are_called(name):
    """On the optimizer, and on all optimizers: it takes its own step, and they see the gradient."""
    ours, torchs = twins(OPTIMIZERS[name])
    calls = []
    ours[1].register_step_pre_hook(lambda o, a, k: calls.append(o.param_groups[0]["params"][0].grad.clone()))
    ours[1].register_step_post_hook(lambda o, a, k: calls.append("post"))
    everywhere = register_optimizer_step_post_hook(lambda o, a, k: calls.append("all"))
    x, y = batch()
    try:
        ours[0].step(x, y, ours[1])
    finally:
        everywhere.remove()
    assert calls[1:] == ["post", "all"]
    assert_close(calls[:1], untiled(torchs[0], x, y)[2:3], TOLERANCE)
    usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)


class Halved(SGD):
    """A subclass has a step of its own."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.div_(2)
        return super().step(closure)


def test_a_subclass_takes_its_own_step():
    ours, torchs = twins(lambda p: Halved(p, 0.1))
    for x, y in batches(3):
        ours[0].step(x, y, ours[1])
        usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)


def test_a_step_that_was_replaced_on_the_instance_is_taken():
    """As trainers and profilers wrap it."""
    ours, torchs = twins(OPTIMIZERS["SGD"])
    own, calls = ours[1].step, []
    ours[1].step = lambda closure=None: calls.append(1) or own(closure)
    x, y = batch()
    ours[0].step(x, y, ours[1])
    usual_step(torchs[0], x, y, torchs[1])
    assert_same_training(ours, torchs)
    assert calls == [1]


def test_an_optimizers_own_step_that_raises_gives_grad_back():
    objective = objective_of()
    optimizer = RMSprop(objective.parameters())
    for p in objective.parameters():
        p.grad = torch.ones_like(p)
    before = state_of(objective, optimizer)
    optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        objective.step(*batch(), optimizer)
    assert_same_state(state_of(objective, optimizer), before)


def test_default_dtype_of_float64():
    """torch then keeps Adam's step counter in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        ours, torchs = twins(OPTIMIZERS["AdamW"])
        for step, (x, y) in enumerate(batches(6)):
            (usual_step if step % 3 == 2 else type(ours[0]).step)(ours[0], x, y, ours[1])
            usual_step(torchs[0], x, y, torchs[1])
        assert_same_training(ours, torchs)
    finally:
        torch.set_default_dtype(torch.float32)


class Remembers(SGD):
    """Keeps the gradient itself, without a copy, as `state` of its own."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["last"] = p.grad


def test_an_optimizer_may_keep_the_gradients():
    """They are no part of the workspace, which the next call overwrites."""
    ours, torchs = twins(lambda p: Remembers(p, 0.1))
    for x, y in batches(2):
        ours[0].step(x, y, ours[1], tile_rows=3)
        usual_step(torchs[0], x, y, torchs[1])
        held = [(state["last"], state["last"].clone()) for state in ours[1].state.values()]
        assert_same_training(ours, torchs)
        other = copy.deepcopy([p.detach() for p in ours[0].parameters()])
        ours[0].step(2 * x, y, AdamW(ours[0].parameters()), tile_rows=3)
        assert all(torch.equal(now, before) for now, before in held)
        for p, value in zip(ours[0].parameters(), other, strict=True):
            p.data.copy_(value)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_any_grad_mode(mode):
    for name in ("SGD", "AdamW", "RMSprop"):
        ours, torchs = twins(OPTIMIZERS[name])
        for x, y in batches(3):
            with mode():
                J = ours[0].step(x, y, ours[1])
            assert_close([J], [usual_step(torchs[0], x, y, torchs[1])[0]], TOLERANCE)
        assert_same_training(ours, torchs)
