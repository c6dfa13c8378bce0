"""Layers that do more than x Wᵀ + b, and hooks on every level: done, or refused by name.

A module that reads fc1.weight and never calls fc1 trains on stale weights here, silently.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import torch_manual_bp as tmb

from .reference import LAMBDA, assert_close, gradients
from .twins import twins

pytestmark = pytest.mark.usefixtures("on_device")


def pairs_of_layers(mlp, sequential):
    return (mlp.fc1, sequential[0]), (mlp.fc2, sequential[2])


def train(model, steps=3):
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
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
