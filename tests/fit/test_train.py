import math
from dataclasses import replace

import pytest
import torch

from torch_manual_bp.equations import table
from torch_manual_bp.fit import Diverged, Settings, Training, load_digits

SMALL = Settings(hidden=16, epochs=20, batch_size=8)


def run(data, settings=SMALL, compare=True):
    training = Training(data, settings, compare)
    steps = list(training.steps())
    return training, steps


def test_digits_are_learned_beside_autograd():
    """The main job: over 96 % of held-out digits, by hand as by autograd, with gradients equal up to rounding."""
    training, _ = run(load_digits(), Settings())
    by_hand, by_autograd = (learner.curve for learner in training.learners)
    assert by_hand.scores[-1] > 0.96
    # both nets see the same, so a difference is a held-out digit or two on the other side of a boundary
    assert abs(by_hand.scores[-1] - by_autograd.scores[-1]) <= 2 / len(training.data.x_held_out)
    assert len(training.gradients) >= 20
    for check in training.gradients:
        assert max(check.float64.values()) <= 1e-12
        for symbol, error in check.error.items():
            # twice autograd's own error, or a few roundings where that happens to be next to none
            assert error <= 2 * check.autograd_error[symbol] + 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_task_is_learned_by_every_optimizer(any_data, optimizer):
    lr = None if optimizer == "sgd" else 0.02
    training, _ = run(any_data, replace(SMALL, optimizer=optimizer, lr=lr, epochs=60), compare=False)
    assert training.learners[0].curve.scores[-1] > 0.9


def test_the_same_seed_gives_the_same_bits(any_data):
    (one, _), (same, _), (other, _) = (run(any_data, replace(SMALL, seed=seed)) for seed in (3, 3, 4))
    assert one.learners[0].curve.losses == same.learners[0].curve.losses
    assert one.learners[0].curve.losses != other.learners[0].curve.losses
    for name, value in one.mlp.state_dict().items():
        assert torch.equal(value, same.mlp.state_dict()[name])


def test_comparing_does_not_change_the_run(blobs):
    alone, beside = run(blobs, compare=False)[0], run(blobs, compare=True)[0]
    assert alone.learners[0].curve.losses == beside.learners[0].curve.losses


def test_the_first_step_by_the_equations(any_data):
    """J at the start, and W ← W − η ∂J/∂W (momentum has nothing yet), both from the float64 table."""
    settings = replace(SMALL, dtype="float64", weight_decay=0.1, batch_size=1000)
    training = Training(any_data, settings)
    start = {"w1": training.mlp.fc1.weight, "b1": training.mlp.fc1.bias}
    start |= {"w2": training.mlp.fc2.weight, "b2": training.mlp.fc2.bias}
    start = {symbol: parameter.detach().clone() for symbol, parameter in start.items()}
    exact = table("relu", any_data.loss).evaluate(
        {"x": training.data.x, "y": training.data.y, "weight_decay": 0.1, **start}
    )
    step = next(training.steps())
    assert abs(step.J - exact["J"].item()) <= 1e-12 * step.J
    expected = start["w1"] - settings.learning_rate * exact["dw1"]
    torch.testing.assert_close(training.mlp.fc1.weight.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_two_curves_part_no_faster_than_rounding_grows(any_data, dtype):
    training, _ = run(any_data, replace(SMALL, dtype=dtype))
    epsilon = torch.finfo(getattr(torch, dtype)).eps
    losses = training.learners[0].curve.losses
    assert abs(losses[0] - training.learners[1].curve.losses[0]) <= 4 * epsilon * losses[0]  # the very same parameters
    # each of the steps adds a rounding, and none of them multiplies what there is by much
    assert training.largest_loss_difference <= 10 * len(losses) * epsilon * max(losses)
    assert max(training.parameter_differences.values()) <= 10 * len(losses) * epsilon


def test_steps_count_and_end_epochs(blobs):
    training, steps = run(blobs, replace(SMALL, epochs=3, batch_size=20))  # 45 training rows: 20, 20, 5
    assert [step.number for step in steps] == list(range(9)) == list(range(training.total_steps))
    assert [step.epoch for step in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [step.ends_epoch for step in steps] == [False, False, True] * 3
    assert [step.J for step in steps] == training.learners[0].curve.losses
    assert len(training.learners[0].curve.scores) == 3
    assert [check.step for check in training.gradients] == list(range(9))


def test_each_epoch_sees_each_row_once(blobs):
    from torch_manual_bp.fit.train import _batches

    training = Training(blobs, SMALL)
    order = torch.Generator().manual_seed(0)
    first, second = (torch.cat([x for x, _ in _batches(training.data, 8, order)]) for _ in range(2))
    key = [0, 1]
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert sorted(map(tuple, epoch[:, key].tolist())) == sorted(map(tuple, training.data.x.tolist()))


def test_stopping_in_the_middle_is_stopping_to_iterate(blobs):
    training = Training(blobs, SMALL)
    for step in training.steps():
        if step.number == 4:
            break
    assert [len(learner.curve.losses) for learner in training.learners] == [5, 5]


def test_divergence_is_said_at_its_step_and_touches_no_parameter(plane):
    training = Training(plane, replace(SMALL, lr=1e4, activation="relu_squared"))
    with pytest.raises(Diverged, match=r"J .by hand. became (nan|inf) at step (\d+); try a smaller lr") as caught:
        for _ in training.steps():
            before = [parameter.clone() for parameter in training.mlp.parameters()]
    step = int(str(caught.value).split("step ")[1].split(";")[0])
    assert len(training.learners[0].curve.losses) == step
    assert all(map(math.isfinite, training.learners[0].curve.losses))
    assert all(map(torch.equal, before, training.mlp.parameters()))
