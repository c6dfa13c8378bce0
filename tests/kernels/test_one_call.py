"""The ops of small nets: the oracle in float64, eager torch's error in float32, torch.optim's steps.

Each test runs with the kernels for the CPU and, where they take the net, with those for CUDA, emulated on the CPU.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch_manual_bp import equations, kernels
from torch_manual_bp.equations import ACTIVATIONS, Loss
from torch_manual_bp.kernels import _dispatch

from .precision import assert_loss_accurate
from .test_bias_act import eager

pytestmark = pytest.mark.usefixtures("one_call")
on_cpu = pytest.mark.parametrize("one_call", ["compiled"], indirect=True)
on_cuda = pytest.mark.parametrize("one_call", ["cuda_on_cpu"], indirect=True)


def most_columns(dtype):
    return 64 if dtype == torch.float64 else 128


LAMBDA = 0.3
LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
BIASES = [(True, True), (True, False), (False, True), (False, False)]
NAMES = ("w1", "b1", "w2", "b2")
# (B, d, h, q): less than a vector, whole vectors, a rest after 1, 2, 4 vectors and 4 rows; blocks of 32 rows, a rest;
# and more weights than the one-thread pass takes, with few outputs, of one chunk of rows and of several, and with many
SIZES = [
    (1, 1, 1, 1), (1, 20, 64, 10), (31, 3, 5, 1), (32, 20, 64, 10), (33, 17, 33, 17), (100, 7, 100, 3),
    (64, 16, 16, 16), (5, 40, 130, 70), (65, 65, 48, 2), (40, 200, 170, 30), (200, 300, 120, 10), (40, 300, 120, 40),
]  # fmt: skip


def net(B, d, h, q, dtype=torch.float64, hidden_bias=True, output_bias=True):
    x = torch.randn(B, d).to(dtype)
    w1, w2 = (torch.randn(h, d) / d**0.5).to(dtype), (torch.randn(q, h) / h**0.5).to(dtype)
    b1, b2 = torch.randn(h).to(dtype) if hidden_bias else None, torch.randn(q).to(dtype) if output_bias else None
    return x, w1, b1, w2, b2


def targets(loss, B, q, dtype=torch.float64):
    return torch.randint(q, (B,)) if loss == "cross_entropy" else torch.rand(B, q).to(dtype)


def gradient(x, y, w1, b1, w2, b2, activation, loss, row_weight=None, class_weight=None, weight_decay=LAMBDA,
             grad_scale=1.0, normalizer=0.0, into=None, wanted=NAMES):  # fmt: skip
    """(J, gradients by name); those of `into` are added to."""
    present = {name: p for name, p in zip(NAMES, (w1, b1, w2, b2), strict=True) if p is not None and name in wanted}
    # what is not added to must not be read: NaN shows it
    out = {name: torch.full_like(p, math.nan) for name, p in present.items()} if into is None else into
    J = kernels.objective_gradient_(
        x, y, row_weight, w1, b1, w2, b2, class_weight, activation, loss, weight_decay, grad_scale, normalizer,
        into is not None, *(out.get(name) for name in NAMES),
    )  # fmt: skip
    return J, out


def evaluated(x, y, w1, b1, w2, b2, activation, loss, weight_decay=LAMBDA):
    values = {"x": x, "y": y, "w1": w1, "b1": b1, "w2": w2, "b2": b2, "weight_decay": weight_decay}
    table = equations.table(activation, loss, b1 is not None, b2 is not None)
    return table.evaluate({name: value for name, value in values.items() if value is not None})


def eager_step(x, y, w1, b1, w2, b2, activation, loss, row_weight=None, class_weight=None, weight_decay=LAMBDA):
    """(J, gradients by name), by autograd in the tensors' own dtype."""
    leaves = {n: p.clone().requires_grad_() for n, p in zip(NAMES, (w1, b1, w2, b2), strict=True) if p is not None}
    o = F.linear(eager(activation, F.linear(x, leaves["w1"], leaves.get("b1"))), leaves["w2"], leaves.get("b2"))
    J = loss.value(o, y, class_weight, row_weight)
    J = J + weight_decay / 2 * (leaves["w1"].square().sum() + leaves["w2"].square().sum())
    J.backward()
    return J.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def assert_oracle(J, got, expected):
    for name, value in {"J": J, **{f"d{name}": g for name, g in got.items()}}.items():
        true = expected[name]
        error = (value - true).abs().max().item()
        assert error <= 1e-12 * max(true.abs().max().item(), 1.0), (name, error)


# -------------------------------------------------------------------------------------------------------- the equations


@pytest.mark.parametrize(("hidden_bias", "output_bias"), BIASES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(33, 7, 19, 4), (5, 3, 16, 1)], ids=str)
def test_gradient_is_the_table(activation, loss, size, hidden_bias, output_bias):
    t, y = net(*size, hidden_bias=hidden_bias, output_bias=output_bias), targets(loss, size[0], size[3])
    J, got = gradient(t[0], y, *t[1:], activation, Loss(loss))
    assert_oracle(J, got, evaluated(t[0], y, *t[1:], activation, loss))


@on_cpu
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradient_and_forward_of_every_size(loss, size):
    t, y = net(*size), targets(loss, size[0], size[3])
    expected = evaluated(t[0], y, *t[1:], "gelu", loss)
    assert_oracle(*gradient(t[0], y, *t[1:], "gelu", Loss(loss)), expected)
    o = kernels.mlp_forward(*t, "gelu")
    torch.testing.assert_close(o, expected["o"], rtol=1e-12, atol=1e-12)


# (B, d, h, q) for CUDA: rows around a tile of 16, several tiles a chunk; widths around the patches of a thread, and the
# widest
CUDA_SIZES = [
    (1, 1, 1, 1), (15, 10, 63, 10), (16, 64, 64, 16), (17, 1, 64, 17), (33, 63, 1, 64), (300, 10, 20, 1),
    (2100, 5, 16, 3), (5000, 10, 7, 2),
]  # fmt: skip
WIDER = [(17, 65, 10, 16), (16, 10, 65, 17), (300, 128, 63, 10), (15, 64, 128, 65), (33, 128, 128, 128)]


@on_cuda
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", CUDA_SIZES, ids=str)
def test_gradient_of_every_size_on_cuda(loss, size):
    t, y = net(*size), targets(loss, size[0], size[3])
    expected = evaluated(t[0], y, *t[1:], "gelu", loss)
    assert_oracle(*gradient(t[0], y, *t[1:], "gelu", Loss(loss)), expected)


@on_cuda
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [*CUDA_SIZES, *WIDER], ids=str)
def test_gradient_of_every_size_on_cuda_in_float32(loss, size):
    """An error of at most 2⁻²⁰ of the largest element: some sixteen roundings, of sums of up to 128 terms."""
    t, y = net(*size, dtype=torch.float32), targets(loss, size[0], size[3], torch.float32)
    expected = evaluated(t[0], y, *t[1:], "silu", loss)
    J, got = gradient(t[0], y, *t[1:], "silu", Loss(loss))
    for name, value in {"J": J, **{f"d{name}": g for name, g in got.items()}}.items():
        true = expected[name]
        assert (value - true).abs().max() <= 2**-20 * max(true.abs().max().item(), 0.1), name


@on_cpu
@pytest.mark.parametrize(("hidden_bias", "output_bias"), BIASES)
def test_forward_is_the_table(activation, hidden_bias, output_bias):
    t = net(33, 7, 19, 4, hidden_bias=hidden_bias, output_bias=output_bias)
    expected = evaluated(t[0], targets("mse", 33, 4), *t[1:], activation, "mse")["o"]
    torch.testing.assert_close(kernels.mlp_forward(*t, activation), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [(32, 20, 64, 10), (257, 33, 40, 5)], ids=str)
def test_float32_errs_at_most_twice_as_eager_does(one_call, activation, loss, size):
    """Over ten nets, since of a few numbers eager may be right by luck."""
    ours, eagers = {}, {}
    for _ in range(10):
        t, y = net(*size, dtype=torch.float32), targets(loss, size[0], size[3], torch.float32)
        true = evaluated(t[0], y, *t[1:], activation, loss)
        J, got = gradient(t[0], y, *t[1:], activation, Loss(loss))
        _, own = eager_step(t[0], y, *t[1:], activation, Loss(loss))
        assert J.dtype == torch.float32
        assert_loss_accurate(J, true["J"], true["J"].abs().item() + true["o"].abs().amax().item())
        if one_call == "compiled":
            got["o"] = kernels.mlp_forward(*t, activation)
            own["o"] = F.linear(eager(activation, F.linear(*t[:3])), *t[3:])
        for name in got:
            truth = true["o" if name == "o" else f"d{name}"]
            assert got[name].dtype == torch.float32
            ours[name] = ours.get(name, 0.0) + (got[name] - truth).square().sum().item()
            eagers[name] = eagers.get(name, 0.0) + (own[name] - truth).square().sum().item()
    assert {name: error for name, error in ours.items() if error > 4 * eagers[name]} == {}


# -------------------------------------------------------------------------------------------------- the loss's options

OPTIONS = [
    Loss("cross_entropy", "sum"),
    Loss("cross_entropy", label_smoothing=0.1),
    Loss("cross_entropy", ignore_index=2),
    Loss("cross_entropy", "sum", label_smoothing=1.0, ignore_index=-7),
    Loss("mse", "sum"),
    Loss("bce_with_logits", "sum"),
    *(Loss(name) for name in LOSSES),
]


@pytest.mark.parametrize("class_weighted", [False, True], ids=["", "class_weight"])
@pytest.mark.parametrize("row_weighted", [False, True], ids=["", "row_weight"])
@pytest.mark.parametrize("loss", OPTIONS, ids=str)
def test_options_are_the_definition(loss, row_weighted, class_weighted):
    B, q = 40, 4
    t, y = net(B, 5, 9, q), targets(loss.name, B, q)
    if loss.takes_classes and loss.ignore_index < 0:
        y[::5] = loss.ignore_index
    row_weight = torch.rand(B, dtype=torch.float64) if row_weighted else None
    class_weight = torch.rand(q, dtype=torch.float64) + 0.1 if class_weighted and loss.takes_classes else None
    J, got = gradient(t[0], y, *t[1:], "tanh", loss, row_weight, class_weight)
    true_J, true = eager_step(t[0], y, *t[1:], "tanh", loss, row_weight, class_weight)
    assert_oracle(J, got, {"J": true_J, **{f"d{name}": g for name, g in true.items()}})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_rows(one_call, loss, reduction):
    t, y = net(0, 3, 5, 2), targets(loss, 0, 2)
    J, got = gradient(t[0], y, *t[1:], "relu", Loss(loss, reduction))
    penalty = LAMBDA / 2 * (t[1].square().sum() + t[3].square().sum())
    assert J.isnan() if reduction == "mean" else torch.allclose(J, penalty)
    for name, w in (("w1", t[1]), ("w2", t[3])):
        torch.testing.assert_close(got[name], LAMBDA * w)
    assert not got["b1"].any() and not got["b2"].any()
    assert one_call != "compiled" or kernels.mlp_forward(*t, "relu").shape == (0, 2)


def test_all_rows_ignored_is_torchs_nan_with_the_gradient_of_the_penalty():
    t, y = net(6, 3, 5, 2), torch.full((6,), -100)
    J, got = gradient(t[0], y, *t[1:], "relu", Loss("cross_entropy"))
    assert J.isnan() and not got["b1"].any()
    torch.testing.assert_close(got["w1"], LAMBDA * t[1])


# -------------------------------------------------------------------------- how gradients are scaled, added, left out


@pytest.mark.parametrize("loss", LOSSES)
def test_add_and_grad_scale(loss):
    t, y = net(33, 7, 19, 4), targets(loss, 33, 4)
    J, plain = gradient(t[0], y, *t[1:], "silu", Loss(loss))
    before = {name: torch.randn_like(g) for name, g in plain.items()}
    again, got = gradient(
        t[0], y, *t[1:], "silu", Loss(loss), grad_scale=8.0, into={name: g.clone() for name, g in before.items()}
    )
    assert torch.equal(J, again)
    for name, g in got.items():
        torch.testing.assert_close(g, before[name] + 8 * plain[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "row_weight"])
def test_parts_of_a_batch_add_up_to_it(loss, weighted):
    B, loss = 50, Loss(loss)
    t, y = net(B, 7, 19, 4), targets(loss.name, B, 4)
    row_weight = torch.rand(B, dtype=torch.float64) if weighted else None
    if loss.takes_classes:
        y[7:20] = -100
    kept = (y != -100).double() if loss.takes_classes else torch.ones(B, dtype=torch.float64)
    N = (kept if row_weight is None else kept * row_weight).sum().item()
    J, whole = gradient(t[0], y, *t[1:], "tanh", loss, row_weight)
    total, parts = 0.0, {name: torch.zeros_like(g) for name, g in whole.items()}
    for rows in (slice(0, 10), slice(10, 15), slice(15, B)):  # the second has no label that counts
        r = None if row_weight is None else row_weight[rows]
        part, _ = gradient(t[0][rows], y[rows], *t[1:], "tanh", loss, r, normalizer=N, into=parts)
        total += part
    assert_oracle(total, parts, {"J": J, **{f"d{name}": g for name, g in whole.items()}})


@pytest.mark.parametrize("wanted", [("w1",), ("b1",), ("w2",), ("b2",), ("w2", "b2"), ()], ids=str)
def test_only_wanted_gradients(wanted):
    t, y = net(33, 7, 19, 4), targets("cross_entropy", 33, 4)
    J, got = gradient(t[0], y, *t[1:], "gelu", Loss("cross_entropy"), wanted=wanted)
    whole_J, whole = gradient(t[0], y, *t[1:], "gelu", Loss("cross_entropy"))
    assert torch.equal(J, whole_J) and set(got) == set(wanted)
    assert all(torch.equal(got[name], whole[name]) for name in wanted)


def test_the_same_from_run_to_run():
    t, y = net(100, 20, 64, 10, dtype=torch.float32), targets("cross_entropy", 100, 10)
    J, first = gradient(t[0], y, *t[1:], "gelu", Loss("cross_entropy"))
    for _ in range(5):
        again, got = gradient(t[0], y, *t[1:], "gelu", Loss("cross_entropy"))
        assert torch.equal(J, again) and all(torch.equal(got[name], first[name]) for name in NAMES)


def test_nan_in_a_row_is_not_hidden(one_call):
    t, y = net(40, 7, 19, 4, dtype=torch.float32), targets("cross_entropy", 40, 4)
    t[0][35, 2] = math.nan
    J, got = gradient(t[0], y, *t[1:], "tanh", Loss("cross_entropy"))
    assert J.isnan() and all(g.isnan().all() for g in got.values())
    if one_call == "compiled":
        o = kernels.mlp_forward(*t, "tanh")
        assert o[35].isnan().all() and o.isfinite().sum() == 39 * 4


# ---------------------------------------------------------------------------------------------------------------- steps


def module(t, activation):
    _, w1, b1, w2, b2 = t
    layers = nn.Linear(w1.shape[1], w1.shape[0], b1 is not None), nn.Linear(w2.shape[1], w2.shape[0], b2 is not None)
    for layer, weight, bias in zip(layers, (w1, w2), (b1, b2), strict=True):
        layer.weight = nn.Parameter(weight.clone())
        if bias is not None:
            layer.bias = nn.Parameter(bias.clone())
    return layers


def torch_training(t, batches, activation, loss, optimizer, clip_norm, weight_decay):
    """Parameters in order, their optimizer state and J of each step, by autograd and torch.optim."""
    first, second = module(t, activation)
    p = [*first.parameters(), *second.parameters()]
    optim = optimizer(p)
    values = []
    for x, y in batches:
        optim.zero_grad()
        J = loss.value(second(eager(activation, first(x))), y, None, None)
        J = J + weight_decay / 2 * (first.weight.square().sum() + second.weight.square().sum())
        J.backward()
        if clip_norm < math.inf:
            nn.utils.clip_grad_norm_(p, clip_norm)
        optim.step()
        values.append(J.detach())
    return [q.detach() for q in p], [optim.state[q] for q in p], torch.stack(values)


def batches_of(B, d, q, dtype, steps):
    teacher = torch.randn(d, q).to(dtype)
    for _ in range(steps):
        x = torch.randn(B, d).to(dtype)
        yield x, (x @ teacher).argmax(1)


def in_order(t):
    return [p for p in t[1:] if p is not None]


CE = Loss("cross_entropy")
STEPS = {"compiled": 1000, "cuda_on_cpu": 25}  # emulated ones take longer
RATES = (0.05, 0.02, 0.1, 0.03)


def rates(p, **options):
    return [{"params": [q], "lr": lr, **options} for q, lr in zip(p, RATES, strict=False)]


def assert_trained_alike(p, t, batches, activation, optimizer, clip_norm, values):
    """In float64, where a thousand steps leave rounding small: the chaos of training amplifies a step's rounding."""
    own, state, own_values = torch_training(t, batches, activation, CE, optimizer, clip_norm, LAMBDA / 100)
    torch.testing.assert_close(p, own, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.stack(values), own_values, rtol=1e-9, atol=1e-9)
    return state


@pytest.mark.parametrize("clip_norm", [math.inf, 0.2], ids=["no_clip", "clip"])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)], ids=str)
@pytest.mark.parametrize(("hidden_bias", "output_bias"), [(True, True), (False, True), (True, False)])
def test_many_steps_of_sgd(one_call, momentum, nesterov, clip_norm, hidden_bias, output_bias):
    t = net(33, 6, 19, 4, hidden_bias=hidden_bias, output_bias=output_bias)
    batches = list(batches_of(33, 6, 4, torch.float64, STEPS[one_call]))
    mine = [None if p is None else p.clone() for p in t]
    p = in_order(mine)
    hyper = [[LAMBDA / 100 * (q.dim() == 2), lr, 0.01, momentum] for q, lr in zip(p, RATES, strict=False)]
    buffers = [torch.zeros_like(q) for q in p] if momentum else []
    values = [
        kernels.objective_sgd_(x, y, None, *mine[1:], None, "tanh", CE, LAMBDA / 100, buffers,
                           torch.tensor(hyper, dtype=torch.float64), clip_norm, nesterov)
        for x, y in batches
    ]  # fmt: skip

    def optimizer(params):
        options = {"momentum": momentum, "nesterov": nesterov, "foreach": False}
        return torch.optim.SGD(rates(params, weight_decay=0.01), **options)

    state = assert_trained_alike(p, t, batches, "tanh", optimizer, clip_norm, values)
    for buffer, torch_state in zip(buffers, state, strict=False):
        torch.testing.assert_close(buffer, torch_state["momentum_buffer"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("clip_norm", [math.inf, 0.2], ids=["no_clip", "clip"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
@pytest.mark.parametrize(("hidden_bias", "output_bias"), [(True, True), (False, True)])
def test_many_steps_of_adam(one_call, decoupled, clip_norm, hidden_bias, output_bias):
    t = net(33, 6, 19, 4, hidden_bias=hidden_bias, output_bias=output_bias)
    batches = list(batches_of(33, 6, 4, torch.float64, STEPS[one_call]))
    mine = [None if p is None else p.clone() for p in t]
    p = in_order(mine)
    hyper = [[LAMBDA / 100 * (q.dim() == 2), lr / 10, 0.01, 0.9, 0.99, 1e-6] for q, lr in zip(p, RATES, strict=False)]
    m, v = ([torch.zeros_like(q) for q in p] for _ in range(2))
    step = [torch.tensor(0.0) for _ in p]
    values = [
        kernels.objective_adam_(x, y, None, *mine[1:], None, "silu", CE, LAMBDA / 100, m, v, step,
                            torch.tensor(hyper, dtype=torch.float64), clip_norm, decoupled)
        for x, y in batches
    ]  # fmt: skip

    def optimizer(params):
        groups = [{"params": [q], "lr": lr / 10} for q, lr in zip(params, RATES, strict=False)]
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return kind(groups, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.01, foreach=False)

    state = assert_trained_alike(p, t, batches, "silu", optimizer, clip_norm, values)
    for i, torch_state in enumerate(state):
        assert step[i] == torch_state["step"] == STEPS[one_call]
        torch.testing.assert_close(m[i], torch_state["exp_avg"], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(v[i], torch_state["exp_avg_sq"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("op", ["sgd", "adam"])
def test_a_step_in_float32_is_the_gradient_and_the_update(op):
    t, y = net(33, 20, 64, 10, dtype=torch.float32), targets("cross_entropy", 33, 10)
    _, g = gradient(t[0], y, *t[1:], "relu", CE, weight_decay=0.0)
    apart, whole = ([p.clone() for p in t[1:]] for _ in range(2))
    m, v = ([[torch.full_like(p, 0.01) for p in apart] for _ in range(2)] for _ in range(2))
    step = [[torch.tensor(4.0) for _ in apart] for _ in range(2)]
    if op == "sgd":
        hyper = torch.tensor([[0.1, 0.5, 0.2, 0.9], [0.0, 0.5, 0.2, 0.9]] * 2, dtype=torch.float64)
        kernels.sgd_(apart, list(g.values()), m[0], hyper, 0.5, True)
        kernels.objective_sgd_(t[0], y, None, *whole, None, "relu", CE, 0.1, m[1], hyper, 0.5, True)
    else:
        hyper = torch.tensor([[0.1, 0.5, 0.2, 0.9, 0.99, 1e-8], [0.0, 0.5, 0.2, 0.9, 0.99, 1e-8]] * 2).double()
        kernels.adam_(apart, list(g.values()), m[0], v[0], step[0], hyper, 0.5, True)
        kernels.objective_adam_(t[0], y, None, *whole, None, "relu", CE, 0.1, m[1], v[1], step[1], hyper, 0.5, True)
    torch.testing.assert_close([whole, m[1], v[1], step[1]], [apart, m[0], v[0], step[0]], rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- errors


def unchanged(tensors, copies):
    return all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@on_cpu
@pytest.mark.parametrize("bad", [4, -1, 2**40])
def test_a_bad_label_leaves_everything_as_it_was(bad):
    x, *p = net(40, 7, 19, 4)
    y = targets("cross_entropy", 40, 4)
    y[37] = bad
    message = f"y must hold labels in \\[0, 4\\) or -100; got {bad} at row 37"
    state = [[torch.ones_like(q) for q in p] for _ in range(2)]
    step = [torch.tensor(3.0) for _ in p]
    grads = [torch.ones_like(q) for q in p]
    everything = [*p, *state[0], *state[1], *step, *grads]
    copies = [t.clone() for t in everything]
    sgd, adam = torch.full((4, 4), 0.1, dtype=torch.float64), torch.full((4, 6), 0.1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=message):
        kernels.objective_gradient_(x, y, None, *p, None, "relu", CE, 0.1, 1.0, 0.0, False, *grads)
    with pytest.raises(RuntimeError, match=message):
        kernels.objective_sgd_(x, y, None, *p, None, "relu", CE, 0.1, state[0], sgd, 1.0, False)
    with pytest.raises(RuntimeError, match=message):
        kernels.objective_adam_(x, y, None, *p, None, "relu", CE, 0.1, *state, step, adam, 1.0, False)
    assert unchanged(everything, copies)


@on_cuda
def test_a_bad_label_ends_in_a_device_assert_before_anything_is_written():
    x, *p = net(40, 7, 19, 4)
    y = targets("cross_entropy", 40, 4)
    y[37] = 4
    copies, momentum = [q.clone() for q in p], [torch.ones_like(q) for q in p]
    hyper = torch.full((4, 4), 0.1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"device-side assert: .*y must hold labels in \[0, q\)"):
        kernels.objective_sgd_(x, y, None, *p, None, "relu", CE, 0.1, momentum, hyper, 1.0, False)
    assert unchanged(p, copies) and all((buffer == 1).all() for buffer in momentum)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"w1": torch.ones(5, 4)}, r"w1 must have shape \(5, 3\), got \(5, 4\)"),
        ({"w2": torch.ones(2, 4)}, r"w2 must have shape \(2, 5\), got \(2, 4\)"),
        ({"b1": torch.ones(4)}, r"b1 must have shape \(5\), got \(4\)"),
        ({"x": torch.ones(6, 3).half()}, "x must be float32 or float64, got Half"),
        ({"w1": torch.ones(5, 3).double()}, "w1 must be Float, got Double"),
        ({"w1": torch.ones(3, 5).t()}, r"w1 must be contiguous, got strides \(1, 5\)"),
        ({"y": torch.zeros(6)}, "y must be Long, got Float"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"y must have shape \(6\), got \(5\)"),
        ({"row_weight": torch.ones(5)}, r"row_weight must have shape \(6\), got \(5\)"),
        ({"class_weight": torch.ones(3)}, r"class_weight must have shape \(2\), got \(3\)"),
        ({"hyper": torch.zeros(4, 4)}, r"hyper must be a contiguous float64 tensor of shape \(4, 4\), got Float"),
        ({"hyper": torch.zeros(3, 4).double()}, r"hyper must be .* shape \(4, 4\), got Double of shape \(3, 4\)"),
        ({"b2": None}, r"hyper must be .* shape \(3, 4\)"),
        (
            {"momentum_buffer": [torch.zeros(5, 3)]},
            "momentum_buffer must have 4 tensors, one for each parameter, got 1",
        ),
        ({"momentum_buffer": [torch.zeros(5, 3)] * 4}, r"momentum_buffer\[1\] must have shape \(5\), got \(5, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {
        "x": torch.ones(6, 3), "y": torch.zeros(6, dtype=torch.int64), "row_weight": None, "w1": torch.ones(5, 3),
        "b1": torch.ones(5), "w2": torch.ones(2, 5), "b2": torch.ones(2), "class_weight": None, "activation": "relu",
        "loss": CE, "weight_decay": 0.0, "momentum_buffer": [], "hyper": torch.full((4, 4), 0.1, dtype=torch.float64),
        "clip_norm": math.inf, "nesterov": False,
    } | change  # fmt: skip
    with pytest.raises(RuntimeError, match=f"objective_sgd_: {message}"):
        kernels.objective_sgd_(**arguments)
    assert (arguments["w1"] == 1).all() and (arguments["w2"] == 1).all()


@pytest.mark.parametrize(("loss", "normalizer"), [(Loss("mse", "sum"), 3.0), (Loss("mse"), -1.0)])
def test_a_normalizer_is_positive_and_a_means(loss, normalizer):
    t, y = net(3, 2, 2, 2), targets("mse", 3, 2)
    with pytest.raises(RuntimeError, match="normalizer must be positive, and the loss a mean, or 0"):
        gradient(t[0], y, *t[1:], "relu", loss, normalizer=normalizer)


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_which_nets_are_taken(compiled, dtype):
    x = torch.ones(1, 2, dtype=dtype)
    assert kernels.has_forward(x) and kernels.has_one_call(x, 1000, 1000)
    for no in (x.bfloat16(), x.to("meta")):
        assert not kernels.has_forward(no) and not kernels.has_one_call(no, 3, 2)
    assert compiled.fits_one_call(x, 1000, 1000) and not compiled.fits_one_call(x.bfloat16(), 3, 2)


@on_cuda
def test_which_nets_cuda_takes():
    """Those whose layers have registers, and whose weights fit in 227 KiB."""
    fits = _dispatch._cpu.fits_one_call
    for dtype in (torch.float32, torch.float64):
        most = most_columns(dtype)
        assert fits(torch.ones(1, most, dtype=dtype), most, most)
        assert not fits(torch.ones(1, most + 1, dtype=dtype), most, most)
        x = torch.ones(1, 5, dtype=dtype)
        assert not fits(x, most + 1, 3) and not fits(x, 3, most + 1)
        assert not fits(x[:, :0], 3, 2) and not fits(x, 3, 0) and not fits(x, 0, 3)
    assert not fits(torch.ones(1, 5).bfloat16(), 3, 2)
    assert fits(torch.ones(5, 4).t(), 3, 2), "rows with strides are made contiguous afterwards"
    t, y = net(3, 129, 5, 2, dtype=torch.float32), targets("cross_entropy", 3, 2)
    with pytest.raises(RuntimeError, match=r"objective_gradient_: layers must be 1 to 128 wide .*, got 129, 5 and 2"):
        gradient(t[0], y, *t[1:], "relu", CE)


# -------------------------------------------------------------------------------------------------------------- opcheck


@on_cpu
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biased", [True, False], ids=["biases", "no_biases"])
def test_opcheck(compiled, loss, biased):
    x, *p = net(5, 3, 7, 2, torch.float32, biased, biased)
    y, code = targets(loss, 5, 2, torch.float32), LOSSES.index(loss)
    common = (x, y, torch.rand(5), *p, torch.rand(2) if code == 0 else None, 6, code, 0.0, -100, True, 0.1)
    present = [q for q in p if q is not None]
    state = [[torch.rand_like(q) for q in present] for _ in range(2)]
    step = [torch.tensor(2.0) for _ in present]
    hyper = torch.full((len(present), 6), 0.1, dtype=torch.float64)
    check = torch.library.opcheck
    check(compiled.mlp_forward.default, (x, *p, 6))
    check(compiled.objective_gradient_.default, (*common, 2.0, 5.0, True, *(q if q is None else q.clone() for q in p)))
    check(compiled.objective_sgd_.default, (*common, state[0], hyper[:, :4].contiguous(), 1.0, True))
    check(compiled.objective_adam_.default, (*common, *state, step, hyper, 1.0, True))


@on_cpu
def test_every_activation_has_its_kernel():
    """z = h₁ = 1 through identity weights: o is φ(z) itself, for each code."""
    z = torch.tensor([[-1.5, 0.5, 25.0]], dtype=torch.float64)
    one = torch.eye(3, dtype=torch.float64)
    for name, phi in ACTIVATIONS.items():
        torch.testing.assert_close(kernels.mlp_forward(z, one, None, one, None, name), phi.phi(z))


# ---------------------------------------------------------------------------------------------------------- bound steps


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_bound_step_is_the_step(kind):
    """To the bit, and it writes the tensors that it was bound to."""
    x, *start = net(32, 20, 64, 10, dtype=torch.float32)
    y = targets("cross_entropy", 32, 10)
    results = []
    for bound in (False, True):
        p = [tensor.clone() for tensor in start]
        zeros = [torch.zeros_like(tensor) for tensor in p]
        if kind == "adam":
            state = (zeros, [torch.zeros_like(tensor) for tensor in p], [torch.zeros(()) for _ in p])
            hyper, call, bind = [LAMBDA, 0.1, 0.01, 0.9, 0.99, 1e-8], kernels.objective_adam_, kernels.bind_adam
        else:
            state = ([] if kind == "sgd" else zeros,)
            hyper, call, bind = [LAMBDA, 0.1, 0.01, 0.9], kernels.objective_sgd_, kernels.bind_sgd
        rest = (*state, torch.tensor([hyper] * 4, dtype=torch.float64), 1.0, False)
        of_net = (*p, None, "tanh", Loss("cross_entropy"), LAMBDA)
        step = bind(*of_net, *rest) if bound else lambda x, y, *all_: call(x, y, None, *all_)  # noqa: B023
        J = [step(x, y) if bound else step(x, y, *of_net, *rest) for _ in range(3)]
        results.append([*J, *p, *(tensor for some in state for tensor in some)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(results[0][3], start[0])


def test_a_bound_step_checks_and_ends(one_call):
    x, *p = net(4, 3, 5, 2, dtype=torch.float32)
    hyper = torch.zeros(4, 4, dtype=torch.float64)
    step = kernels.bind_sgd(*p, None, "relu", Loss("cross_entropy"), 0.0, [], hyper, math.inf, False)
    with pytest.raises(RuntimeError, match=r"objective_sgd_: w1 must have shape \(5, 7\), got \(5, 3\)"):
        step(torch.zeros(4, 7), torch.zeros(4, dtype=torch.int64))
    number = step._number
    del step
    if one_call == "cuda_on_cpu":
        return
    with pytest.raises(RuntimeError, match=f"no step was bound by the number {number}"):
        kernels.BoundStep(_dispatch._cpu, number)(x, torch.zeros(4, dtype=torch.int64))


@on_cpu
@pytest.mark.parametrize("q", [10, 40])
def test_sums_do_not_depend_on_the_number_of_threads(q):
    """Those between torch's products; db1 follows from the first of them."""
    t, y = net(1000, 300, 120, q, dtype=torch.float32), targets("cross_entropy", 1000, q)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(gradient(*t[:1], y, *t[1:], "gelu", Loss("cross_entropy"))[1])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for name in NAMES:
            torch.testing.assert_close(results[0][name], other[name], rtol=1e-5, atol=1e-6)
        if q == 10:
            assert torch.equal(results[0]["b2"], other["b2"]) and torch.equal(results[0]["w2"], other["w2"])
