import math

import pytest
import torch

from torch_manual_bp.fit import Settings

BAD = {
    "activation": ({"activation": "swish2"}, ValueError, "activation must be one of identity, .* got 'swish2'"),
    "optimizer": ({"optimizer": "lion"}, ValueError, "optimizer must be one of sgd, adam, adamw; got 'lion'"),
    "dtype": ({"dtype": "int8"}, ValueError, "dtype must be one of float32, float64; got 'int8'"),
    "path": ({"path": "fast"}, ValueError, "path must be one of autograd, tiles, step; got 'fast'"),
    "no hidden unit": ({"hidden": 0}, ValueError, "hidden must be at least 1, got 0"),
    "half a hidden unit": ({"hidden": 1.5}, TypeError, "hidden must be an int, got 1.5"),
    "no epoch": ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    "a boolean as a count": ({"epochs": True}, TypeError, "epochs must be an int, got True"),
    "empty batch": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "negative seed": ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    "negative λ": ({"weight_decay": -0.1}, ValueError, "weight_decay must be finite and not negative, got -0.1"),
    "infinite λ": ({"weight_decay": math.inf}, ValueError, "weight_decay must be finite and not negative, got inf"),
    "lr 0": ({"lr": 0.0}, ValueError, "lr must be finite and positive, got 0.0"),
    "lr NaN": ({"lr": math.nan}, ValueError, "lr must be finite and positive, got nan"),
    "momentum 1": ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    "nothing held out": ({"held_out": 0.0}, ValueError, r"held_out must be in \(0, 1\), got 0.0"),
    "AdamW's decay for SGD": (
        {"decoupled_decay": 0.1},
        ValueError,
        "decoupled_decay belongs to adamw, got 0.1 with sgd",
    ),
    "negative decoupled decay": (
        {"decoupled_decay": -1.0, "optimizer": "adamw"},
        ValueError,
        "decoupled_decay must be",
    ),
    "a device that is no word": ({"device": "gpu"}, ValueError, "device must be one that is there, got 'gpu'"),
    "a device that is not there": (
        {"device": "cuda:99"},
        ValueError,
        "device must be one that is there, got 'cuda:99'",
    ),
    "a device without numbers": ({"device": "meta"}, ValueError, "device must be one that is there, got 'meta'"),
}


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_bad_settings_are_refused_by_name(given, error, message):
    with pytest.raises(error, match=f"train: {message}"):
        Settings(**given)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ({}, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0}),
        ({"lr": 0.5, "momentum": 0.0}, torch.optim.SGD, {"lr": 0.5, "momentum": 0.0, "weight_decay": 0}),
        ({"optimizer": "adam"}, torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0}),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.0}),
        ({"optimizer": "adamw", "decoupled_decay": 0.2}, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.2}),
    ],
)
def test_the_optimizer_leaves_the_penalty_to_the_objective(given, kind, expected):
    settings = Settings(weight_decay=0.3, **given)
    mlp = settings.make_mlp(2, 3)
    optimizer = settings.make_optimizer(mlp)
    assert type(optimizer) is kind
    assert expected.items() <= optimizer.param_groups[0].items()
    assert settings.make_objective(mlp, "mse").weight_decay == 0.3


def test_the_start_follows_from_the_seed_and_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    one, same, other = (Settings(seed=seed).make_mlp(4, 3).fc1.weight for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_biases_can_be_left_out():
    mlp = Settings(hidden_bias=False, output_bias=False, dtype="float64", hidden=5).make_mlp(4, 3)
    assert (mlp.fc1.bias, mlp.fc2.bias) == (None, None)
    assert mlp.fc1.weight.shape == (5, 4)
    assert mlp.fc1.weight.dtype is torch.float64


def test_phi_as_a_module_is_the_activation(activation):
    z = torch.linspace(-3, 3, 41, dtype=torch.float64)
    settings = Settings(activation=activation)
    from torch_manual_bp.equations import ACTIVATIONS

    assert torch.equal(settings.phi_module()(z), ACTIVATIONS[activation].phi(z))
