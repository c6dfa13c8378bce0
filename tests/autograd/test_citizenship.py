"""The MLP among torch's own modules: inputs of every layout, frozen parameters, contexts, containers, optimizers."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import torch_manual_bp as tmb
from torch_manual_bp.equations import LOSSES

from .reference import (
    LAMBDA, LOSS, PHI, assert_close, composition, gradients, leaves, objective, objective_composition, targets, tensors,
)  # fmt: skip

TOLERANCE = 1e-12


class Phi(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, z):
        return PHI[self.activation](z)


KEYS = {"fc1.weight": "0.weight", "fc1.bias": "0.bias", "fc2.weight": "2.weight", "fc2.bias": "2.bias"}


def twins(activation="tanh", save="auto", dtype=torch.float64, **options):
    """An MLP, and the nn.Sequential that loads its state."""
    mlp = tmb.MLP(5, 6, 4, activation, save=save, dtype=dtype)
    sequential = nn.Sequential(nn.Linear(5, 6), Phi(activation), nn.Linear(6, 4)).to(dtype)
    sequential.load_state_dict({KEYS[name]: value for name, value in mlp.state_dict().items()})
    return mlp, sequential


def batch(B=9, dtype=torch.float64):
    return torch.randn(B, 5, dtype=torch.float64).to(dtype), torch.randint(4, (B,))


def penalised(sequential, x, y):
    return F.cross_entropy(sequential(x), y) + LAMBDA / 2 * sum(sequential[i].weight.square().sum() for i in (0, 2))


def both(t, y, activation, loss, save, cotangent=None):
    """(O and its gradients, J and its gradients), by us and by the composition."""
    functions = (
        (lambda *t: tmb.functional.mlp(*t, activation, save), objective(activation, loss, save)),
        (lambda *t: composition(*t, activation), objective_composition(activation, loss)),
    )
    for mlp, J in functions:
        o, value = mlp(*t), J(*t, y)
        do = torch.ones_like(o) if cotangent is None else cotangent
        yield [o, *gradients(o, leaves(*t), grad_outputs=do), value, *gradients(value, leaves(*t))]


# --------------------------------------------------------------------------------------------------- shapes and strides


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 3), (2, 1, 3)], ids=str)
def test_inputs_of_any_dimension(lead, loss, save):
    _, *parameters = tensors()
    x = torch.randn(*lead, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, lead) if loss == "cross_entropy" else torch.rand(*lead, 4, dtype=torch.float64)
    o = tmb.functional.mlp(x, *parameters, "gelu", save)
    J = objective("gelu", loss, save)(x, *parameters, y)
    flat = composition(x.reshape(-1, 5), *parameters, "gelu")
    expected = LOSS[loss](flat, y.reshape(-1, *y.shape[len(lead) :]))
    expected = expected + LAMBDA / 2 * (parameters[0].square().sum() + parameters[2].square().sum())
    assert o.shape == (*lead, 4) and J.shape == ()
    at = (x, *parameters)
    assert_close([J, *gradients(J, at)], [expected, *gradients(expected, at)], TOLERANCE)
    got, twice = (gradients(value.square().sum(), at) for value in (o, flat))
    assert_close([o.reshape(-1, 4), *got], [flat, *twice], TOLERANCE)


def test_row_weights_have_the_shape_of_the_labels():
    _, *parameters = tensors()
    x, y = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(4, (2, 3))
    r = torch.rand(2, 3, dtype=torch.float64)
    J = objective("tanh")
    assert_close([J(x, *parameters, y, r)], [J(x.view(6, 5), *parameters, y.view(6), r.view(6))], TOLERANCE)


LAYOUTS = {
    "transposed": lambda a: a.t().contiguous().t() if a.dim() == 2 else a,
    "every other row": lambda a: a.repeat_interleave(2, 0)[::2],
    "every other column": lambda a: a.repeat_interleave(2, -1)[..., ::2],
    "zero stride in rows": lambda a: a[:1].expand(a.shape[0], *a.shape[1:]),
    "zero stride in columns": lambda a: a[..., :1].expand(a.shape),
    "with an offset": lambda a: torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_all_tensors(layout, loss, save):
    t = tuple(LAYOUTS[layout](a.detach()).requires_grad_() for a in tensors())
    y = LAYOUTS[layout](targets(loss))
    for activation in ("relu", "gelu"):
        assert_close(*both(t, y, activation, loss, save), TOLERANCE)


COTANGENTS = {
    "zero stride": lambda: torch.ones((), dtype=torch.float64).expand(7, 4),
    "zero stride in rows": lambda: torch.randn(1, 4, dtype=torch.float64).expand(7, 4),
    "transposed": lambda: torch.randn(4, 7, dtype=torch.float64).t(),
    "strided": lambda: torch.randn(14, 8, dtype=torch.float64)[::2, ::2],
}


@pytest.mark.parametrize("name", COTANGENTS)
def test_layouts_of_cotangents(name, activation, save):
    do = COTANGENTS[name]()
    before = do.clone()
    assert_close(*both(tensors(), targets("mse"), activation, "mse", save, do), TOLERANCE)
    assert torch.equal(do, before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_empty_batch_is_as_in_torch(loss, reduction, activation):
    """The mean over no rows is NaN; gradients are what they are there, and the penalty's remains."""
    t, y = tensors(B=0), targets(loss, B=0)
    J = objective(activation, loss, reduction=reduction)(*t, y)
    expected = objective_composition(activation, loss, reduction=reduction)(*t, y)
    got, torchs = [J, *gradients(J, t)], [expected, *gradients(expected, t)]
    for ours, theirs in zip(got, torchs, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-14, atol=0)
    o = tmb.functional.mlp(*t, activation)
    assert o.shape == (0, 4) and all(not g.any() for g in gradients(o.sum(), t))


def test_an_empty_batch_with_leading_dimensions():
    _, *parameters = tensors()
    x = torch.zeros(2, 0, 5, dtype=torch.float64, requires_grad=True)
    o = tmb.functional.mlp(x, *parameters)
    assert o.shape == (2, 0, 4) and gradients(o.sum(), [x])[0].shape == x.shape


@pytest.mark.parametrize("sizes", [{"d": 0}, {"h": 0}, {"q": 0}], ids=str)
def test_a_width_of_zero(sizes, activation, save):
    """h = 0 leaves the output bias; its gradient must not depend on uninitialised memory."""
    t = tensors(**sizes)
    results = []
    for f in (lambda *t: tmb.functional.mlp(*t, activation, save), lambda *t: composition(*t, activation)):
        o = f(*t)
        results.append([o, *gradients(o.sin().sum(), t)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-13, atol=1e-15)


# ------------------------------------------------------------------------------------------------- what is kept, in bytes

B, D, H, Q = 16, 32, 24, 10
FLOAT = 4
X, HIDDEN = B * D * FLOAT, B * H * FLOAT


def kept_bytes(make, parameters):
    """Bytes that autograd keeps for the backward pass, parameters aside; each storage once."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda s: (kept.__setitem__(s.untyped_storage().data_ptr(), s.untyped_storage().nbytes()), s)[1], lambda s: s
    ):
        alive = make()
    for p in parameters:
        kept.pop(p.untyped_storage().data_ptr(), None)
    del alive
    return sum(kept.values())


def module(activation, save="auto", frozen=()):
    mlp = tmb.MLP(D, H, Q, activation, save=save)
    for name in frozen:
        mlp.get_parameter(name).requires_grad_(False)
    return mlp


ALL_FROZEN = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
KEPT = [
    ("relu", "auto", (), X + HIDDEN, "x and h"),
    ("tanh", "auto", (), X + HIDDEN, "x and h"),
    ("gelu", "auto", (), X + HIDDEN, "x and z, not h, which eager keeps too"),
    ("gelu", "auto", ("fc2.weight",), X + HIDDEN, "x and z"),
    ("relu", "auto", ("fc2.weight",), X + B * H // 8, "x and one bit a unit"),
    ("leaky_relu", "auto", ("fc2.weight",), X + B * H // 8, "x and one bit a unit"),
    ("relu", "auto", ("fc1.weight",), HIDDEN, "h: x is not needed"),
    ("gelu", "auto", ("fc1.weight", "fc1.bias"), HIDDEN, "h, not z: nothing goes through φ"),
    ("relu", "auto", ("fc1.weight", "fc1.bias", "fc2.weight"), 0, "b2 alone needs nothing"),
    ("relu", "auto", ALL_FROZEN, 0, "no gradient, nothing kept"),
    ("relu", "input", (), X, "x alone"),
    ("gelu", "input", (), X, "x alone"),
    ("gelu", "input", ALL_FROZEN, 0, "no gradient, nothing kept"),
]
kept_cases = pytest.mark.parametrize(
    ("activation", "save", "frozen", "expected", "why"),
    KEPT, ids=[f"{c[0]}-{c[1]}-{'-'.join(c[2]) or 'none'} frozen" for c in KEPT],
)  # fmt: skip


@kept_cases
def test_bytes_kept_by_the_mlp(activation, save, frozen, expected, why):
    mlp, x = module(activation, save, frozen), torch.randn(B, D)
    assert kept_bytes(lambda: mlp(x), mlp.parameters()) == expected, why


@kept_cases
def test_bytes_kept_by_the_objective(activation, save, frozen, expected, why):
    """The logits' buffer, which ends as Ĝ, the labels and the scale come on top."""
    mlp, x, y = module(activation, save, frozen), torch.randn(B, D), torch.randint(Q, (B,))
    loss = B * Q * FLOAT + B * 8 + FLOAT if frozen != ALL_FROZEN else 0
    assert kept_bytes(lambda: tmb.Objective(mlp, weight_decay=0.1)(x, y), mlp.parameters()) == expected + loss, why


def test_eager_torch_keeps_more_for_gelu_and_as_much_for_relu():
    """What the figures above are to be compared with."""
    x = torch.randn(B, D)
    for activation, expected in (("relu", X + HIDDEN), ("gelu", X + 2 * HIDDEN)):
        sequential = nn.Sequential(nn.Linear(D, H), Phi(activation), nn.Linear(H, Q))
        assert kept_bytes(lambda s=sequential: s(x), sequential.parameters()) == expected


@pytest.mark.parametrize("frozen", [("fc1.weight",), ("fc1.bias", "fc2.weight"), ("fc1.weight", "fc1.bias"), ALL_FROZEN])
def test_frozen_parameters_get_no_gradient(frozen, save):
    mlp, x = module("silu", save, frozen), torch.randn(B, D)
    if frozen == ALL_FROZEN:
        assert not mlp(x).requires_grad and not tmb.Objective(mlp)(x, torch.zeros(B, dtype=torch.long)).requires_grad
        return
    tmb.Objective(mlp, weight_decay=0.1)(x, torch.randint(Q, (B,))).backward()
    assert {name for name, p in mlp.named_parameters() if p.grad is None} == set(frozen)


# ------------------------------------------------------------------------------------------------- copies and containers


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file], ids=lambda f: f.__name__)
def test_copies_compute_the_same_and_share_nothing(copied, save):
    mlp, _ = twins("gelu", save)
    weight = torch.rand(4, dtype=torch.float64)
    J = tmb.Objective(mlp, "cross_entropy", LAMBDA, label_smoothing=0.1, class_weight=weight)
    twin, (x, y) = copied(J), batch()
    value, other = J(x, y), twin(x, y)
    assert torch.equal(value, other)
    at, at_twin = list(J.parameters()), list(twin.parameters())
    assert all(torch.equal(a, b) for a, b in zip(gradients(value, at), gradients(other, at_twin), strict=True))
    assert not {p.data_ptr() for p in at} & {p.data_ptr() for p in at_twin}
    assert str(twin) == str(J)


def test_state_dict_round_trip_with_sequential():
    mlp, sequential = twins()
    with torch.no_grad():
        for p in sequential.parameters():
            p.add_(1)
    back = {ours: sequential.state_dict()[theirs] for ours, theirs in KEYS.items()}
    assert not mlp.load_state_dict(back, strict=True).missing_keys
    x, _ = batch()
    assert_close([mlp(x)], [sequential(x)], TOLERANCE)


def test_the_objectives_state_is_the_mlps():
    """Class weights are the task's, not the network's: they are no part of the state."""
    J = tmb.Objective(twins()[0], class_weight=torch.ones(4))
    assert list(J.state_dict()) == [f"mlp.{name}" for name in KEYS]


def test_moving_a_module_moves_its_class_weights():
    J = tmb.Objective(tmb.MLP(5, 6, 4), class_weight=torch.ones(4)).to("meta")
    assert J.class_weight.device.type == "meta" and J.mlp.fc1.weight.device.type == "meta"


def test_functional_call(save):
    mlp, sequential = twins("silu", save)
    other = {name: torch.randn_like(p).requires_grad_() for name, p in mlp.named_parameters()}
    x, _ = batch()
    ours = functional_call(mlp, other, (x,))
    torchs = functional_call(sequential, {KEYS[name]: p for name, p in other.items()}, (x,))
    at = list(other.values())
    assert_close([ours, *gradients(ours.sin().sum(), at)], [torchs, *gradients(torchs.sin().sum(), at)], TOLERANCE)


def test_inside_a_larger_network():
    """A residual block with norm: gradients flow on to what is before and after."""
    mlp, sequential = twins("gelu")
    norm = nn.LayerNorm(5, dtype=torch.float64)
    head = nn.Linear(4, 1, dtype=torch.float64)
    x, _ = batch()
    results = [head(m(norm(x))).square().mean() for m in (mlp, sequential)]
    at = [*norm.parameters(), *head.parameters()]
    assert_close(*[gradients(r, [*at, *m.parameters()]) for r, m in zip(results, (mlp, sequential), strict=True)], TOLERANCE)


def test_called_twice_in_one_graph(save):
    """Weight sharing in time: gradients add."""
    mlp = tmb.MLP(5, 6, 5, "tanh", save=save, dtype=torch.float64)
    sequential = nn.Sequential(copy.deepcopy(mlp.fc1), nn.Tanh(), copy.deepcopy(mlp.fc2))
    x, _ = batch()
    results = [gradients((m(m(x)) + m(2 * x)).square().sum(), list(m.parameters())) for m in (mlp, sequential)]
    assert_close(*results, TOLERANCE)


def test_weights_tied_between_two_networks(save):
    first, second = (tmb.MLP(5, 6, 4, "gelu", save=save, dtype=torch.float64) for _ in range(2))
    second.fc1.weight = first.fc1.weight
    x, y = batch()
    J = tmb.Objective(first, weight_decay=LAMBDA)(x, y) + tmb.Objective(second, weight_decay=LAMBDA)(-x, y)
    J.backward()
    expected = 0
    for m, at in ((first, x), (second, -x)):
        t = (m.fc1.weight, m.fc1.bias, m.fc2.weight, m.fc2.bias)
        expected = expected + objective_composition("gelu")(at, *t, y)
    (torchs,) = gradients(expected, [first.fc1.weight])
    assert_close([first.fc1.weight.grad], [torchs], TOLERANCE)


def test_weights_tied_within_one_network(save):
    """W2 = W1 (h = d = q): the same leaf twice, also in the penalty."""
    x = torch.randn(7, 5, dtype=torch.float64)
    w = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (7,))
    ours = objective("tanh", save=save, d=5, h=5, q=5, hidden_bias=False, output_bias=False)(x, w, None, w, None, y)
    torchs = objective_composition("tanh")(x, w, None, w, None, y)
    assert_close([ours, *gradients(ours, [w])], [torchs, *gradients(torchs, [w])], TOLERANCE)


# ----------------------------------------------------------------------------------------------------------- contexts


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant, save):
    mlp, sequential = twins("gelu", save)
    x = batch()[0].requires_grad_()
    o = checkpoint(mlp, x, use_reentrant=use_reentrant)
    at = [x, *mlp.parameters()]
    o.square().sum().backward()
    torchs = gradients(sequential(x).square().sum(), [x, *sequential.parameters()])
    assert_close([a.grad for a in at], torchs, TOLERANCE)


def test_checkpointed_objective(save):
    mlp, sequential = twins("relu", save)
    x, y = batch()
    J = checkpoint(tmb.Objective(mlp, weight_decay=LAMBDA), x, y, use_reentrant=False)
    J.backward()
    expected = gradients(penalised(sequential, x, y), list(sequential.parameters()))
    assert_close([p.grad for p in mlp.parameters()], expected, TOLERANCE)


def shapes_of(t):
    return [(a.shape, a.dtype, a.stride()) for a in t]


def fake_or_meta(mode, activation, save):
    """O, J and all gradients, as one list."""
    with FakeTensorMode() if mode == "fake" else torch.device("meta" if mode == "meta" else "cpu"):
        mlp = tmb.MLP(5, 6, 4, activation, save=save)
        x, y = torch.randn(3, 5, requires_grad=True), torch.zeros(3, dtype=torch.long)
        o, J = mlp(x), tmb.Objective(mlp, weight_decay=LAMBDA)(x, y)
        at = [x, *mlp.parameters()]
        return [o, J, *torch.autograd.grad(o.sum(), at), *torch.autograd.grad(J, at)]


@pytest.mark.parametrize("mode", ["fake", "meta"])
def test_fake_and_meta_tensors_have_the_shapes_of_real_ones(mode, activation, save):
    got = fake_or_meta(mode, activation, save)
    assert shapes_of(got) == shapes_of(fake_or_meta("real", activation, save))
    assert all(isinstance(a, FakeTensor) if mode == "fake" else a.is_meta for a in got)


def test_inference_mode(activation, save):
    mlp, sequential = twins(activation, save)
    x, y = batch()
    with torch.inference_mode():
        o, J = mlp(x), tmb.Objective(mlp, weight_decay=LAMBDA)(x, y)
    assert o.is_inference() and J.is_inference()
    assert_close([o, J], [sequential(x), penalised(sequential, x, y)], TOLERANCE)


def test_an_inference_tensor_cannot_be_trained_on():
    mlp, _ = twins()
    with torch.inference_mode():
        x, _ = batch()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        mlp(x)


def test_backward_passes_from_two_threads():
    """Each thread its own graph over the same parameters; nothing in the package is shared between calls."""
    mlp, sequential = twins("gelu")
    J = tmb.Objective(mlp, weight_decay=LAMBDA)
    batches = [batch(64) for _ in range(2)]
    results = [[], []]

    def work(i):
        for _ in range(20):
            results[i].append(gradients(J(*batches[i]), list(mlp.parameters())))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, (x, y) in enumerate(batches):
        assert len(results[i]) == 20
        expected = gradients(penalised(sequential, x, y), list(sequential.parameters()))
        for got in results[i]:
            assert_close(got, expected, TOLERANCE)


# ----------------------------------------------------------------------------------------------------------- training

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
}


def train(module, J, optimizer, steps=20):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(4, (9,), generator=generator)
        optimizer.zero_grad()
        J(x, y).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_sequential(name, activation, save):
    mlp, sequential = twins(activation, save)
    start = [p.detach().clone() for p in mlp.parameters()]
    train(mlp, tmb.Objective(mlp, weight_decay=LAMBDA), OPTIMIZERS[name](mlp.parameters()))
    train(sequential, lambda x, y: penalised(sequential, x, y), OPTIMIZERS[name](sequential.parameters()))
    assert_close(mlp.parameters(), sequential.parameters(), 1e-10)
    assert all((p - before).abs().max() > 1e-3 for p, before in zip(mlp.parameters(), start, strict=True))


def test_lbfgs_with_its_closure():
    mlp, sequential = twins("tanh")
    x, y = batch()
    J = tmb.Objective(mlp, weight_decay=LAMBDA)
    for module, value in ((mlp, J), (sequential, lambda x, y: penalised(sequential, x, y))):
        optimizer = torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe", max_iter=10)

        def closure(optimizer=optimizer, value=value):
            optimizer.zero_grad()
            loss = value(x, y)
            loss.backward()
            return loss

        before = closure().item()
        optimizer.step(closure)
        assert closure().item() < 0.9 * before
    assert_close(mlp.parameters(), sequential.parameters(), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_grad_scaler_with_autocast(dtype):
    """Scaled, unscaled, stepped: to the rounding of the dtype what nn.Sequential gets."""
    mlp, sequential = twins("gelu", dtype=torch.float32)
    x, y = batch(64, torch.float32)
    for module, J in ((mlp, tmb.Objective(mlp)), (sequential, lambda x, y: F.cross_entropy(sequential(x), y))):
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD(module.parameters(), 1.0)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = J(x, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 1024.0
    assert_close(mlp.parameters(), sequential.parameters(), 4 * torch.finfo(dtype).eps)


def test_grad_scaler_skips_a_step_that_overflowed():
    mlp, _ = twins("relu", dtype=torch.float32)
    before = [p.detach().clone() for p in mlp.parameters()]
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**16), torch.optim.SGD(mlp.parameters(), 1.0)
    x, y = batch(8, torch.float32)
    scaler.scale(tmb.Objective(mlp)(x * 1e38, y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert all(torch.equal(p, b) for p, b in zip(mlp.parameters(), before, strict=True))


def test_float16_gradients_do_not_underflow_in_the_loss():
    """Ĝ is kept unnormalised: with 1/B inside it, float16 would round small entries to zero, as eager does."""
    t = tensors(B=4096, dtype=torch.float16)
    t[0].data.mul_(0.01)
    y = targets("mse", 4096, dtype=torch.float16)
    exact = gradients(objective_composition("tanh", "mse", 0.0)(*(a.detach().double().requires_grad_() for a in t), y.double()), [])
    assert exact == ()
    wide = tuple(a.detach().double().requires_grad_() for a in t)
    expected = gradients(objective_composition("tanh", "mse", 0.0)(*wide, y.double()), wide[1:])
    got = gradients(objective("tanh", "mse", weight_decay=0.0, dtype=torch.float16)(*t, y), t[1:])
    assert_close(got, expected, 4 * torch.finfo(torch.float16).eps)
