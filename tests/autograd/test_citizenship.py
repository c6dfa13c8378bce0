"""The MLP among torch's own modules: copies, containers, sharing, contexts, threads."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import torch_manual_bp as tmb

from .reference import LAMBDA, assert_close, gradients, objective, objective_composition
from .twins import KEYS, batch, penalised, twins

pytestmark = pytest.mark.usefixtures("on_device")
TOLERANCE = 1e-12

# ------------------------------------------------------------------------------------------------ copies and containers


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
    assert_close(
        *[gradients(r, [*at, *m.parameters()]) for r, m in zip(results, (mlp, sequential), strict=True)], TOLERANCE
    )


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


# ------------------------------------------------------------------------------------------------------------- contexts


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


class Named(torch.Tensor):
    """A subclass that only wants to survive, as those for images, masks or units do."""


def test_tensor_subclasses_survive(save):
    """What a subclass does in its __torch_function__ is its own affair: it gets torch's own calls to see."""
    mlp, sequential = twins("gelu", save)
    x, y = batch()
    o, J = mlp(x.as_subclass(Named)), tmb.Objective(mlp, weight_decay=LAMBDA)(x.as_subclass(Named), y)
    assert type(o) is Named and type(J) is Named
    at = list(mlp.parameters())
    got = [o.as_subclass(torch.Tensor), *gradients(J.as_subclass(torch.Tensor), at)]
    expected = [sequential(x), *gradients(penalised(sequential, x, y), list(sequential.parameters()))]
    assert_close(got, expected, TOLERANCE)
    J = tmb.Objective(mlp, weight_decay=LAMBDA)(x, y.as_subclass(Named))
    assert_close(gradients(J.as_subclass(torch.Tensor), at), expected[1:], TOLERANCE)


def test_lazy_layers_are_called_until_they_are_plain():
    mlp = tmb.MLP.from_linears(nn.LazyLinear(6), "relu", nn.Linear(6, 4))
    assert mlp.composes
    first, x = mlp(torch.ones(2, 5)), torch.ones(2, 5)
    assert not mlp.composes and mlp.in_features == 5
    torch.testing.assert_close(mlp(x), first, rtol=1e-6, atol=1e-6)


def test_outputs_keep_their_gradient_where_asked():
    mlp, sequential = twins()
    for m in (mlp, sequential):
        o = m(batch()[0].view(3, 3, 5))
        o.retain_grad()
        o.sin().sum().backward()
        assert torch.equal(o.grad, o.detach().cos())
