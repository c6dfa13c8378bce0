"""Faults that others have shipped or that a first draft of this package would have: one test for each, by its name."""

import pytest
import torch
from torch.autograd import Function, gradcheck
from torch.func import hessian, jvp
from torch.multiprocessing.reductions import StorageWeakRef

import torch_manual_bp as tmb

from .reference import (
    assert_close,
    composition,
    error,
    gradients,
    objective,
    objective_composition,
    targets,
    tensors,
)
from .twins import twins

pytestmark = pytest.mark.usefixtures("on_device")


# -------------------------------------------------------------------------------------------------- hidden saved tensor


class HidesH(Function):
    """The trap itself: h is neither an input nor an output, so the Hessian loses what flows through it."""

    @staticmethod
    def forward(ctx, x, w1, w2):
        h = torch.tanh(x @ w1.t())
        ctx.save_for_backward(x, w1, w2, h)
        return h @ w2.t()

    @staticmethod
    def backward(ctx, do):
        x, w1, w2, h = ctx.saved_tensors
        dz = (1 - h * h) * (do @ w2)
        return dz @ w1, dz.t() @ x, do.t() @ h


def hvp_by_differences(f, t, v, step=1e-5):
    """(∇f(t + εv) − ∇f(t − εv)) / 2ε."""

    def shifted(sign):
        at = [(a + sign * step * b).detach().requires_grad_() for a, b in zip(t, v, strict=True)]
        return gradients(f(*at), at)

    return [(plus - minus) / (2 * step) for plus, minus in zip(shifted(1), shifted(-1), strict=True)]


def test_hessian_through_the_kept_tensor(activation, save):
    t = tensors()
    v = [torch.randn_like(a) for a in t]

    def f(*t):
        return tmb.functional.mlp(*t, activation, save).square().sum()

    ours = gradients(gradients(f(*t), t, create_graph=True), t, grad_outputs=v)
    assert_close(ours, hvp_by_differences(f, t, v), 1e-6)


def test_gradcheck_is_blind_to_a_hidden_kept_tensor():
    """Why the test above exists: first order is exact, the HVP is wrong by more than half, and nothing raises."""
    x, w1, _, w2, _ = t = tensors()
    t = (x, w1, w2)
    v = [torch.randn_like(a) for a in t]

    def f(*t):
        return HidesH.apply(*t).square().sum()

    assert gradcheck(HidesH.apply, t)
    hvp = gradients(gradients(f(*t), t, create_graph=True), t, grad_outputs=v)
    assert max(error(got, true) for got, true in zip(hvp, hvp_by_differences(f, t, v), strict=True)) > 0.5


# ---------------------------------------------------------------------------------------- saved tensors are overwritten


@pytest.mark.parametrize("which", ["mlp", "objective"])
def test_saved_tensors_stay_as_they_were(activation, save, which):
    """Kernels write past the version counter, so both are held: the counters, and the values themselves."""
    t, y = tensors(), targets("cross_entropy")
    kept = []

    def pack(tensor):
        kept.append((tensor, tensor._version, tensor.detach().clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = (
            tmb.functional.mlp(*t, activation, save).sum()
            if which == "mlp"
            else objective(activation, save=save)(*t, y)
        )
    gradients(value, t, retain_graph=True)
    gradients(value, t, create_graph=True)
    assert kept
    for tensor, version, value in kept:
        assert tensor._version == version
        assert torch.equal(tensor, value)


def test_arguments_stay_as_they_were(activation, save):
    t, y = tensors(), targets("mse")
    before = [a.detach().clone() for a in (*t, y)]
    objective(activation, "mse", save)(*t, y).backward()
    tmb.functional.mlp(*t, activation, save).sum().backward()
    with torch.no_grad():
        objective(activation, "mse", save)(*t, y)
    assert all(torch.equal(a, b) for a, b in zip((*t, y), before, strict=True))
    assert all(a._version == 0 for a in t)


def test_changing_what_was_saved_is_noticed():
    t = tensors()
    for changed in (t[0], t[3]):  # x and w2
        o = tmb.functional.mlp(*t, "gelu")
        with torch.no_grad():
            changed.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            o.sum().backward()


@pytest.mark.parametrize("shape", [(7, 5), (5,), (2, 3, 5)], ids=str)
def test_outputs_may_be_changed_in_place(shape, activation):
    """``o += residual``; for N-d inputs o is a view of what the Function returned."""
    _, *parameters = tensors()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for f in (tmb.functional.mlp, composition):
        o = f(x, *parameters, activation)
        o += 1
        o *= 3
        results.append([o, *gradients(o.sin().sum(), (x, *parameters))])
    assert_close(*results, 1e-12)


# --------------------------------------------------------------------------------------------- silent zeros, lost terms


@pytest.mark.parametrize("save", ["auto", "input"])
def test_jvp_is_not_silently_zero(activation, save):
    """Ops with register_autograd give a zero tangent under torch.func.jvp, and no error."""
    t = tensors(requires_grad=False)
    v = tuple(torch.randn_like(a) for a in t)
    _, tangent = jvp(lambda *t: tmb.functional.mlp(*t, activation, save), t, v)
    plus, minus = (
        tmb.functional.mlp(*(a + s * b for a, b in zip(t, v, strict=True)), activation) for s in (1e-6, -1e-6)
    )
    assert error(tangent, (plus - minus) / 2e-6) < 1e-7 and tangent.abs().min() > 0


def test_gradient_penalty_keeps_its_second_order_term(activation):
    """With ∂J/∂x detached the parameters' gradient differs: the term is there, and as large as the composition's."""
    t, y = tensors(), targets("cross_entropy")

    def term(J):
        (dx,) = gradients(J, t[:1], create_graph=True)
        return gradients(dx.square().sum(), t[1:4])

    ours, torchs = term(objective(activation)(*t, y)), term(objective_composition(activation)(*t, y))
    assert all(g.norm() > 1e-3 for g in (ours[0], ours[2]))
    assert_close(ours, torchs, 1e-11)


def test_constants_are_not_rounded_to_float32():
    """``torch.where(z > 0, 1.0, 0.01)`` makes a float32 slope: 2e-10 off, which gradcheck cannot see."""
    x = -torch.rand(4, 3, dtype=torch.float64) - 1
    x.requires_grad_()
    eye = torch.eye(3, dtype=torch.float64)
    for w2 in (eye, eye.clone().requires_grad_()):  # slope from the mask, and from h
        o = tmb.functional.mlp(x, eye, None, w2, None, "leaky_relu")
        (dx,) = torch.autograd.grad(o.sum(), x)
        assert torch.equal(dx, torch.full_like(x, 0.01))


@pytest.mark.parametrize("which", ["mlp", "objective"])
def test_hooks_of_parameters_fire(which):
    """Gradients written into .grad by hand fire no hook, and data parallelism waits for those hooks."""
    mlp, _ = twins()
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randint(4, (3,))
    seen, doubled = [], []
    for name, p in mlp.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name))
        p.register_hook(lambda grad: (doubled.append(1), 2 * grad)[1])
    value = mlp(x).sum() if which == "mlp" else tmb.Objective(mlp)(x, y)
    once = gradients(value, list(mlp.parameters()), retain_graph=True)
    value.backward()
    assert sorted(seen) == sorted(name for name, _ in mlp.named_parameters())
    assert len(doubled) == 8
    assert_close([p.grad for p in mlp.parameters()], once, 1e-15)


# ------------------------------------------------------------------------------------------------------ leaked autograd


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_autograd_nodes_leak_from_the_kernels(activation, save, mode):
    t, y = tensors(), targets("cross_entropy")
    saved = []
    with mode(), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        o, J = tmb.functional.mlp(*t, activation, save), objective(activation, save=save)(*t, y)
    assert o.grad_fn is None and J.grad_fn is None and not o.requires_grad and not J.requires_grad
    assert not saved


def test_the_graph_is_one_node(save):
    """Parameters hang directly on it: no op inside has recorded itself."""
    t, y = tensors(), targets("cross_entropy")
    for value, name in (
        (tmb.functional.mlp(*t, "gelu", save), "MLPForwardBackward"),
        (objective("gelu", save=save)(*t, y), "ObjectiveForwardBackward"),
    ):
        assert value.grad_fn.name() == name
        inputs = {node.name() for node, _ in value.grad_fn.next_functions if node is not None}
        assert inputs == {"torch::autograd::AccumulateGrad"}


def test_the_graph_goes_with_the_output():
    """No reference cycle through ctx: activations are freed at once, not at the next garbage collection."""
    t, y = tensors(), targets("cross_entropy")
    given = {a.data_ptr() for a in (*t, y)}
    for make in (lambda: tmb.functional.mlp(*t, "relu"), lambda: objective("relu")(*t, y)):
        value = make()
        saved = [s for s in value.grad_fn.saved_tensors if s is not None and s.data_ptr() not in given]
        alive = [StorageWeakRef(s.untyped_storage()) for s in saved]
        assert alive
        del saved, value
        assert all(storage.expired() for storage in alive)


# --------------------------------------------------------------------------------------------------------- smaller ones


@pytest.mark.filterwarnings("ignore::UserWarning")  # anomaly mode prints the forward call as a warning
def test_anomaly_mode_names_our_node():
    t = tensors()
    with torch.no_grad():
        t[3].fill_(float("nan"))
    with pytest.raises(RuntimeError, match="MLPForwardBackward"), torch.autograd.detect_anomaly(check_nan=True):
        tmb.functional.mlp(*t, "tanh").sum().backward()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_not_swallowed(activation, value):
    """A max(z, 0) or an [h > 0] that made a 0 of NaN would hide a diverged run.

    What is NaN in torch is NaN here, and what is not NaN is torch's. (At z = NaN relu' is NaN here, and 1 in torch.)
    """
    t = tensors()
    with torch.no_grad():
        t[0][2, 1] = value
    results = []
    for f in (tmb.functional.mlp, composition):
        o = f(*t, activation)
        results.append([o, *gradients(o.sum(), t)])
    for ours, torchs in zip(*results, strict=True):
        assert not (torchs.isnan() & ~ours.isnan()).any()
        torch.testing.assert_close(ours, torchs.where(~ours.isnan(), ours), rtol=1e-10, atol=1e-12, equal_nan=True)
        assert torch.equal(ours.isnan(), torchs.isnan()) or (activation in ("relu", "leaky_relu") and value != value)


def test_hessian_of_a_flat_activation_is_zero_and_not_an_error():
    """relu's φ″ is 0: the Hessian by w1 alone of a linear loss has no term left."""
    x, w1, b1, w2, b2 = tensors(requires_grad=False)
    H = hessian(lambda w: tmb.functional.mlp(x, w, b1, w2, b2, "relu").sum())(w1)
    assert torch.equal(H, torch.zeros(6, 5, 6, 5, dtype=torch.float64))
