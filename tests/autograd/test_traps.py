"""Faults that others have shipped or that a first draft of this package would have: one test for each, by its name."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import Function, gradcheck
from torch.func import hessian, jvp
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrizations, parametrize, prune

import torch_manual_bp as tmb

from .reference import (
    LAMBDA, assert_close, composition, error, gradients, objective, objective_composition, targets, tensors,
)  # fmt: skip


def twins(activation="tanh", **options):
    """An MLP and an nn.Sequential with the same parameters, float64."""
    mlp = tmb.MLP(5, 6, 4, activation, dtype=torch.float64, **options)
    module = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()
    return mlp, nn.Sequential(copy.deepcopy(mlp.fc1), module, copy.deepcopy(mlp.fc2))


def pairs_of_layers(mlp, sequential):
    return (mlp.fc1, sequential[0]), (mlp.fc2, sequential[2])


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
            tmb.functional.mlp(*t, activation, save).sum() if which == "mlp" else objective(activation, save=save)(*t, y)
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


# ---------------------------------------------------------------------------------------------- silent zeros, lost terms


@pytest.mark.parametrize("save", ["auto", "input"])
def test_jvp_is_not_silently_zero(activation, save):
    """Ops with register_autograd give a zero tangent under torch.func.jvp, and no error."""
    t = tensors(requires_grad=False)
    v = tuple(torch.randn_like(a) for a in t)
    _, tangent = jvp(lambda *t: tmb.functional.mlp(*t, activation, save), t, v)
    plus, minus = (tmb.functional.mlp(*(a + s * b for a, b in zip(t, v, strict=True)), activation) for s in (1e-6, -1e-6))
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


# ----------------------------------------------------------------------------------------- layers that do more than x Wᵀ + b


def train(model, steps=3):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(steps):
        x = torch.randn(9, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model(x)


def pruned(layer):
    mask = torch.ones_like(layer.weight)
    mask[::2] = 0
    prune.custom_from_mask(layer, "weight", mask)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class LowRank(nn.Linear):
    """A linear layer with an adapter."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features, dtype=torch.float64)
        self.load_state_dict(layer.state_dict())
        self.a = nn.Parameter(torch.full((1, layer.in_features), 0.1, dtype=torch.float64))

    def forward(self, x):
        return super().forward(x) + (x @ self.a.t()).expand(-1, self.out_features)


def with_own_forward(layer):
    layer.forward = lambda x: 3 * nn.functional.linear(x, layer.weight, layer.bias)


def doubling_hook(layer):
    layer.register_forward_hook(lambda module, args, out: 2 * out)


def pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def keyword_hook(layer):
    layer.register_forward_hook(lambda module, args, kwargs, out: out - 1, with_kwargs=True)


def backward_hook(layer):
    layer.register_full_backward_hook(lambda module, dx, do: tuple(g if g is None else 2 * g for g in dx))


def backward_pre_hook(layer):
    layer.register_full_backward_pre_hook(lambda module, do: (3 * do[0],))


CHANGES = [
    pruned, nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.orthogonal, doubling_hook, pre_hook,
    keyword_hook, backward_hook, backward_pre_hook, with_own_forward,
    lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")  # nn.utils.weight_norm is deprecated, and in use
@pytest.mark.parametrize("which", [0, 1], ids=["fc1", "fc2"])
@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")  # x needs no gradient, as in every first layer
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.replace("<lambda>", "parametrization"))
def test_a_layer_that_does_more_than_its_product(change, which):
    """A module that reads fc1.weight and never calls fc1 trains on stale weights here, silently."""
    mlp, sequential = twins()
    for layer in pairs_of_layers(mlp, sequential)[which]:
        torch.manual_seed(1)
        change(layer)
    assert mlp.composes
    assert_close([train(mlp)], [train(sequential)], 1e-13)


@pytest.mark.parametrize("which", ["fc1", "fc2"])
def test_a_layer_that_was_replaced(which):
    """As LoRA does: a subclass of nn.Linear with a forward of its own."""
    mlp, sequential = twins()
    setattr(mlp, which, LowRank(getattr(mlp, which)))
    index = {"fc1": 0, "fc2": 2}[which]
    sequential[index] = LowRank(sequential[index])
    assert mlp.composes
    assert_close([train(mlp)], [train(sequential)], 1e-13)
    assert_close(mlp.parameters(), sequential.parameters(), 1e-13)


def test_the_objective_follows_the_layers_too():
    mlp, sequential = twins()
    for layer in pairs_of_layers(mlp, sequential)[0]:
        pruned(layer)
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randint(4, (9,))
    J = tmb.Objective(mlp, weight_decay=LAMBDA)(x, y)
    expected = nn.functional.cross_entropy(sequential(x), y)
    expected = expected + LAMBDA / 2 * sum(layer.weight.square().sum() for layer in (sequential[0], sequential[2]))
    at, at_expected = ([p for _, p in sorted(m.named_parameters())] for m in (mlp, sequential))
    assert_close([J, *gradients(J, at)], [expected, *gradients(expected, at_expected)], 1e-12)


def test_once_the_hook_is_gone_the_fused_path_is_back():
    mlp, _ = twins()
    handle = mlp.fc1.register_forward_hook(lambda module, args, out: out)
    assert mlp.composes
    handle.remove()
    assert not mlp.composes and mlp(torch.randn(3, 5, dtype=torch.float64)).grad_fn.name() == "MLPForwardBackward"


def test_global_module_hooks_see_the_layers():
    """Profilers and debuggers hook every module at once; fc1 and fc2 must not be passed by."""
    mlp, sequential = twins()
    x = torch.randn(3, 5, dtype=torch.float64)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: 2 * out if isinstance(module, nn.Linear) else None
    )
    try:
        ours, torchs = mlp(x), sequential(x)
    finally:
        handle.remove()
    assert_close([ours], [torchs], 1e-13)


HOOKS_OF_THE_MLP = {
    "forward hook": lambda mlp: mlp.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda mlp: mlp.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda mlp: mlp.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda mlp: mlp.register_full_backward_pre_hook(lambda *_: None),
    "own forward": lambda mlp: setattr(mlp, "forward", lambda x: x),
}


@pytest.mark.parametrize("name", HOOKS_OF_THE_MLP)
def test_hooks_of_the_mlp_itself_are_refused_by_the_objective(name):
    mlp, _ = twins()
    HOOKS_OF_THE_MLP[name](mlp)
    with pytest.raises(RuntimeError, match=r"Objective: its mlp \(MLP\) carries hooks.*DDP\(objective\)"):
        tmb.Objective(mlp)(torch.randn(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.long))


def test_a_subclass_with_its_own_forward_is_refused_by_the_objective():
    class Scaled(tmb.MLP):
        def forward(self, x):
            return 2 * super().forward(x)

    objective = tmb.Objective(Scaled(5, 6, 4))
    with pytest.raises(RuntimeError, match=r"its mlp \(Scaled\)"):
        objective(torch.randn(3, 5), torch.zeros(3, dtype=torch.long))


def test_hooks_of_the_objective_work():
    mlp, _ = twins()
    J = tmb.Objective(mlp)
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randint(4, (3,))
    before = J(x, y)
    J.register_forward_hook(lambda module, args, out: 2 * out)
    assert torch.equal(J(x, y), 2 * before)


# ----------------------------------------------------------------------------------------------------------- smaller ones


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
