"""The three paths against each other; each against the equations is `test_train` and `test_compare`."""

from dataclasses import replace

import pytest
import torch

from torch_manual_bp.fit import PATHS, Diverged, Settings, Training, load_digits

SMALL = Settings(hidden=16, epochs=1, batch_size=8)
# what an epoch's updates may make of a rounding
APART = {"float32": 1e-4, "float64": 1e-9}


def run(data, settings):
    training = Training(data, settings)
    for _ in training.steps():
        pass
    return training


def hold_together(data, settings):
    usual, *others = (run(data, replace(settings, path=path)) for path in PATHS)
    bound = APART[settings.dtype]
    for other in others:
        losses = [training.learners[0].curve.losses for training in (other, usual)]
        assert losses[0] == pytest.approx(losses[1], rel=bound)
        for name, value in usual.mlp.state_dict().items():
            largest = value.abs().max()
            assert (other.mlp.state_dict()[name] - value).abs().max() <= bound * largest, (other.settings.path, name)
        # the witness does not depend on the path
        assert other.learners[1].curve.losses == usual.learners[1].curve.losses


@pytest.mark.parametrize("dtype", APART)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_paths_learn_the_same(any_data, optimizer, dtype):
    decay = 0.1 if optimizer == "adamw" else 0.0
    hold_together(any_data, replace(SMALL, optimizer=optimizer, dtype=dtype, decoupled_decay=decay))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_paths_learn_the_digits_alike(momentum):
    hold_together(load_digits(), Settings(epochs=1, momentum=momentum))


@pytest.mark.parametrize("path", PATHS)
def test_only_the_lean_step_needs_no_gradients(blobs, path):
    by_hand, by_autograd = run(blobs, replace(SMALL, path=path)).learners
    assert [parameter.grad is None for parameter in by_hand.mlp.parameters()] == [path == "step"] * 4
    assert all(parameter.grad is not None for parameter in by_autograd.mlp.parameters())


@pytest.mark.parametrize(("path", "tile_rows"), [("autograd", None), ("tiles", "auto"), ("step", None)])
def test_only_tiles_ask_for_tiles(blobs, path, tile_rows):
    assert Training(blobs, replace(SMALL, path=path)).learners[0].objective.tile_rows == tile_rows


@pytest.mark.parametrize("path", PATHS)
def test_divergence_is_said_at_the_same_step_on_each_path(plane, path):
    """J of a step is known after its update on the lean path, but it is J before the update on all of them."""
    training = Training(plane, replace(SMALL, epochs=20, lr=1e4, activation="relu_squared", path=path))
    with pytest.raises(Diverged, match=r"J .by hand. became (nan|inf) at step (\d+); try a smaller lr"):
        for _ in training.steps():
            before = [parameter.clone() for parameter in training.mlp.parameters()]
    usual = Training(plane, replace(training.settings, path="autograd"))
    with pytest.raises(Diverged):
        list(usual.steps())
    assert training.steps_made == usual.steps_made > 0
    assert all(map(torch.isfinite, map(torch.tensor, training.learners[0].curve.losses)))
    if path != "step":
        assert all(map(torch.equal, before, training.mlp.parameters()))
