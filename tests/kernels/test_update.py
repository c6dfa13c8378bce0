"""sgd_ and adam_ against torch.optim, with clip_grad_norm_ and the penalty written into the gradient."""

import math

import pytest
import torch

from torch_manual_bp import kernels
from torch_manual_bp.kernels import fallback

from .precision import assert_accurate

SHAPES = [(5, 7), (5,), (3, 33), (1,)]
PENALTY = (0.03, 0.0, 0.2, 0.0)
LR = (0.02, 0.05, 0.01, 0.1)
DECAY = (0.0, 0.1, 0.01, 0.0)
WIDE = [torch.float32, torch.float64]
wide = pytest.mark.parametrize("dtype", WIDE, ids=str)

STEPS = {"compiled": 1000, "plain": 1000, "cuda_on_cpu": 50}  # emulated ones take longer
SGD = {"plain": (0.0, False), "momentum": (0.9, False), "nesterov": (0.9, True)}


def sgd_hyper(momentum):
    return torch.tensor(
        [[a, b, c, momentum] for a, b, c in zip(PENALTY, LR, DECAY, strict=True)], dtype=torch.float64, device="cpu"
    )


def adam_hyper():
    rows = [[a, b, c, 0.9, 0.99, 1e-8] for a, b, c in zip(PENALTY, LR, DECAY, strict=True)]
    rows[2][3:] = 0.8, 0.95, 1e-6  # one parameter with numbers of its own
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def parameters(dtype):
    return [torch.randn(shape).to(dtype) for shape in SHAPES]


def gradient(p, i):
    """That of a bowl whose bottom wanders (so that rounding dies out); its norm jumps to both sides of the limit."""
    return [(t + math.sin(i * (k + 1))) * (2.0 if i % 3 else 0.01) for k, t in enumerate(p)]


def torchs(p, optimizer, clip_norm, steps):
    leaves = [t.clone().requires_grad_() for t in p]
    optim = optimizer(leaves)
    for i in range(steps):
        for leaf, g, penalty in zip(leaves, gradient([t.detach() for t in leaves], i), PENALTY, strict=True):
            leaf.grad = g + penalty * leaf.detach()
        if clip_norm < math.inf:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        optim.step()
    return [t.detach() for t in leaves], [optim.state[t] for t in leaves]


def groups(leaves, **options):
    return [
        {"params": [t], "lr": lr, "weight_decay": wd, **{name: values[i] for name, values in options.items()}}
        for i, (t, lr, wd) in enumerate(zip(leaves, LR, DECAY, strict=True))
    ]


def torch_sgd(momentum, nesterov):
    return lambda leaves: torch.optim.SGD(groups(leaves), momentum=momentum, nesterov=nesterov, foreach=False)


def torch_adam(decoupled):
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    betas, eps = [(0.9, 0.99), (0.9, 0.99), (0.8, 0.95), (0.9, 0.99)], [1e-8, 1e-8, 1e-6, 1e-8]
    return lambda leaves: kind(groups(leaves, betas=betas, eps=eps), foreach=False)


def assert_trained_alike(dtype, p, start, optimizer, clip_norm, steps):
    truth, _ = torchs([t.double() for t in start], optimizer, clip_norm, steps)
    own, state = torchs(start, optimizer, clip_norm, steps)
    for got, true, eager in zip(p, truth, own, strict=True):
        assert_accurate(got, true, eager, terms=true.abs() + 1)
    return state


@wide
@pytest.mark.parametrize("clip_norm", [math.inf, 1.0], ids=["no_clip", "clip"])
@pytest.mark.parametrize("momentum, nesterov", SGD.values(), ids=SGD)
def test_many_steps_of_sgd(backend, dtype, momentum, nesterov, clip_norm):
    start = parameters(dtype)
    p, buffers = [t.clone() for t in start], [torch.zeros_like(t) for t in start] if momentum else []
    for i in range(STEPS[backend]):
        kernels.sgd_(p, gradient(p, i), buffers, sgd_hyper(momentum), clip_norm, nesterov)
    state = assert_trained_alike(dtype, p, start, torch_sgd(momentum, nesterov), clip_norm, STEPS[backend])
    for buffer, torch_state in zip(buffers, state, strict=False):
        torch.testing.assert_close(buffer, torch_state["momentum_buffer"], rtol=1e-3, atol=1e-4)


@wide
@pytest.mark.parametrize("clip_norm", [math.inf, 1.0], ids=["no_clip", "clip"])
@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
def test_many_steps_of_adam(backend, dtype, decoupled, clip_norm):
    start = parameters(dtype)
    p = [t.clone() for t in start]
    m, v = ([torch.zeros_like(t) for t in start] for _ in range(2))
    step = [torch.tensor(0.0) for _ in start]
    for i in range(STEPS[backend]):
        kernels.adam_(p, gradient(p, i), m, v, step, adam_hyper(), clip_norm, decoupled)
    state = assert_trained_alike(dtype, p, start, torch_adam(decoupled), clip_norm, STEPS[backend])
    for i, torch_state in enumerate(state):
        assert step[i] == torch_state["step"] == STEPS[backend]
        torch.testing.assert_close(m[i], torch_state["exp_avg"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(v[i], torch_state["exp_avg_sq"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (2055,), (70, 4100)], ids=str)
@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_parameters_of_any_size(backend, count, shape):
    """On CUDA eight to a launch, and more elements than a thread takes; the norm is that of all of them."""
    p, g, m, v = ([torch.randn(shape) for _ in range(count)] for _ in range(4))
    v = [t.abs() for t in v]
    q, n, w = ([t.double() for t in tensors] for tensors in (p, m, v))
    step, hyper = [torch.tensor(2.0) for _ in p], adam_hyper()[:1].expand(count, -1).contiguous()
    kernels.adam_(p, g, m, v, step, hyper, 1.0, True)
    fallback.adam_(q, [t.double() for t in g], n, w, [torch.tensor(2.0) for _ in p], hyper, 1.0, True)
    for ours, true in zip((*p, *m, *v), (*q, *n, *w), strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-6)


@wide
def test_large_parameters_are_updated_whole_and_alike_whatever_the_threads(compiled, dtype):
    """Chunks of 32768: several whole ones, and a rest."""
    shape, before = (101, 1009), torch.get_num_threads()
    start, g = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    hyper = adam_hyper()[:1]
    answers = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        p, m, v, step = [start.clone()], [torch.zeros_like(start)], [torch.zeros_like(start)], [torch.tensor(0.0)]
        for _ in range(3):
            kernels.adam_(p, [g], m, v, step, hyper, 1.0, True)
        answers.append(p[0])
    torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[1], answers[2])
    leaf = start.clone().requires_grad_()
    optim = torch.optim.AdamW([leaf], lr=LR[0], betas=(0.9, 0.99), weight_decay=0.0, foreach=False)
    for _ in range(3):
        leaf.grad = g + PENALTY[0] * leaf.detach()
        torch.nn.utils.clip_grad_norm_([leaf], 1.0)
        optim.step()
    torch.testing.assert_close(answers[0], leaf.detach(), rtol=1e-5, atol=1e-6)


# vectors of 2 and 4 with a rest, none at all, several blocks, and more than the norm's pass has blocks for
LENGTHS = (1, 2, 3, 4, 5, 0, 1023, 4096, 4101, 140_001)


@wide
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("op", ["sgd", "adam"])
def test_many_parameters_of_any_length(backend, dtype, op, offset):
    start = [torch.randn(n + offset).to(dtype)[offset:] for n in LENGTHS]
    g = [torch.randn(n + offset).to(dtype)[offset:] for n in LENGTHS]
    p = [torch.randn(n + offset).to(dtype)[offset:].copy_(t) for n, t in zip(LENGTHS, start, strict=True)]
    if op == "sgd":
        hyper = torch.tensor([[0.3, 0.05, 0.1, 0.9]] * len(p), dtype=torch.float64)
        optimizer, state = torch.optim.SGD, [[torch.zeros(n + offset).to(dtype)[offset:] for n in LENGTHS]]
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
        call = kernels.sgd_
    else:
        hyper = torch.tensor([[0.3, 0.05, 0.1, 0.9, 0.99, 1e-8]] * len(p), dtype=torch.float64)
        optimizer, state = torch.optim.AdamW, [[torch.zeros_like(t) for t in p] for _ in range(2)]
        state.append([torch.tensor(0.0) for _ in p])
        options = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.1}
        call = kernels.adam_

    def by_torch(dtype):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in start]
        optim = optimizer(leaves, **options, foreach=False)
        for _ in range(2):
            for leaf, gradient in zip(leaves, g, strict=True):
                leaf.grad = gradient.to(dtype) + 0.3 * leaf.detach()
            torch.nn.utils.clip_grad_norm_(leaves, 10.0)
            optim.step()
        return [leaf.detach() for leaf in leaves]

    for _ in range(2):
        call(p, g, *state, hyper, 10.0, op == "adam")
    for got, true, eager in zip(p, by_torch(torch.float64), by_torch(dtype), strict=True):
        assert_accurate(got, true, eager, terms=true.abs() + 1)


def test_worked_by_hand(backend):
    """‖g‖ = 5 clipped to 1: g = (0.6, 0.8), p ← p − ½ g. Adam's first step is η sign(g), whatever the size of g."""
    p, hyper = [torch.tensor([1.0, 1.0])], torch.tensor([[0.0, 0.5, 0.0, 0.0]], dtype=torch.float64, device="cpu")
    kernels.sgd_(p, [torch.tensor([3.0, 4.0])], [], hyper, 1.0, False)
    torch.testing.assert_close(p[0], torch.tensor([0.7, 0.6]))
    p, m, v, step = [torch.tensor([1.0, 1.0])], [torch.zeros(2)], [torch.zeros(2)], [torch.tensor(0.0)]
    hyper = torch.tensor([[0.0, 0.5, 0.0, 0.9, 0.999, 0.0]], dtype=torch.float64, device="cpu")
    kernels.adam_(p, [torch.tensor([3.0, -4.0])], m, v, step, hyper, math.inf, False)
    torch.testing.assert_close(p[0], torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(m[0], torch.tensor([0.3, -0.4]))
    torch.testing.assert_close(v[0], torch.tensor([0.009, 0.016]))


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
def test_a_gradient_that_is_not_finite_spoils_what_it_does_in_torch(backend, bad):
    start = [torch.ones(3), torch.ones(2)]
    g = [torch.tensor([1.0, bad, 2.0]), torch.ones(2)]
    p = [t.clone() for t in start]
    kernels.sgd_(p, g, [], torch.tensor([[0.0, 0.1, 0.0, 0.0]] * 2, dtype=torch.float64, device="cpu"), 1.0, False)
    leaves = [t.clone().requires_grad_() for t in start]
    for leaf, gi in zip(leaves, g, strict=True):
        leaf.grad = gi.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 1.0)
    torch.optim.SGD(leaves, 0.1).step()
    torch.testing.assert_close(p, [t.detach() for t in leaves], equal_nan=True)


def test_no_parameters(backend):
    assert kernels.sgd_([], [], [], torch.empty(0, 4, dtype=torch.float64, device="cpu"), 1.0, False) is None
    assert kernels.adam_([], [], [], [], [], torch.empty(0, 6, dtype=torch.float64, device="cpu"), 1.0, False) is None


H4, H6 = torch.full((2, 4), 0.1, dtype=torch.float64), torch.full((2, 6), 0.1, dtype=torch.float64)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hyper": H4}, r"adam_: hyper must .*shape \(2, 6\)"),
        ({"g": [torch.ones(2, 3)]}, "adam_: g must have 2 tensors as p, got 1"),
        ({"exp_avg_sq": [torch.ones(2, 3), torch.ones(4)]}, r"adam_: exp_avg_sq\[1\] must have shape \(3,?\)"),
        ({"exp_avg": [torch.ones(2, 3).double(), torch.ones(3)]}, r"adam_: exp_avg\[0\] must"),
        ({"step": [torch.tensor(3.0)]}, "adam_: step must h"),
        ({"step": [torch.tensor(3.0), torch.tensor(3)]}, "adam_: step must hold"),
    ],
    ids=["hyper", "fewer", "shape", "dtype", "fewer_steps", "integer_step"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(backend, device, change, message):
    if device != "cpu":
        pytest.skip("the cases are made on the CPU, and the checks are the same for all devices")

    def fresh():
        return [torch.ones(2, 3), torch.ones(3)]

    arguments = {
        "p": fresh(), "g": fresh(), "exp_avg": fresh(), "exp_avg_sq": fresh(),
        "step": [torch.tensor(3.0), torch.tensor(3.0)], "hyper": H6,
    } | change  # fmt: skip
    with pytest.raises((RuntimeError, ValueError), match=message):
        kernels.adam_(**arguments, clip_norm=1.0, decoupled=False)
    for name in ("p", "exp_avg", "exp_avg_sq"):
        assert all((t == 1).all() for t in arguments[name])
    assert all(t == 3 for t in arguments["step"])


def test_strided_parameters_are_refused_by_the_compiled_op(compiled):
    p = torch.ones(3, 2).t()
    with pytest.raises(RuntimeError, match=r"sgd_: p\[0\] must be contiguous, got strides \(1, 2\)"):
        kernels.sgd_([p], [torch.ones(2, 3)], [], H4[:1], 1.0, False)
    assert (p == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_shorter_dtypes_take_plain_torch(dtype):
    p = [torch.ones(2, dtype=dtype)]
    kernels.sgd_(p, [torch.ones(2, dtype=dtype)], [], torch.tensor([[0, 0.5, 0, 0]], dtype=torch.float64), 9.0, False)
    assert p[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("momentum, nesterov", SGD.values(), ids=SGD)
def test_opcheck_sgd(compiled, momentum, nesterov):
    p = parameters(torch.float32)
    buffers = [torch.zeros_like(t) for t in p] if momentum else []
    torch.library.opcheck(compiled.sgd_.default, (p, gradient(p, 1), buffers, sgd_hyper(momentum), 1.0, nesterov))


def test_opcheck_adam(compiled):
    p = parameters(torch.float32)
    m, v = ([torch.zeros_like(t) for t in p] for _ in range(2))
    step = [torch.tensor(2.0) for _ in p]
    torch.library.opcheck(compiled.adam_.default, (p, gradient(p, 1), m, v, step, adam_hyper(), 1.0, True))
