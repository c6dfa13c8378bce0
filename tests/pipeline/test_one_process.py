"""The stages on the devices of one process: as over several processes, with nothing to start."""

import pytest
import torch
from autograd.reference import error
from torch.nn import functional as F

import torch_manual_bp as tmb
from torch_manual_bp.memory import measure

from .cases import LOSSES, B, batch, by_one_process, gradients_of, h, objective_of, stack_by_one_process, stack_of

TOLERANCE = 1e-12


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] is None) == (gradient is None), name
        assert gradient is None or error(got[name], gradient) <= TOLERANCE, name


def pipe_of(objective, microbatches=8, on="cpu", **options):
    return tmb.pipeline.build(objective, microbatches, devices=(on, on), **options)


@pytest.mark.parametrize("microbatches", (2, 5, 8))
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_objective(on_device, loss, microbatches):
    objective, again = objective_of(**LOSSES[loss]), objective_of(**LOSSES[loss])
    x, y, row_weight = batch(LOSSES[loss].get("loss", "cross_entropy"))
    pipe = pipe_of(objective, microbatches, on_device)
    for _ in range(2):
        J = pipe.step(x, y, row_weight)
    J_once, gradients = by_one_process(again, x, y, row_weight, steps=2)
    assert error(J, J_once) <= TOLERANCE
    assert_close(gradients_of(pipe), gradients)
    assert error(pipe.evaluate(x, y, row_weight, rows=7), J_once) <= TOLERANCE
    assert error(pipe.predict(x, rows=7), again.mlp(x).detach()) <= TOLERANCE


@pytest.mark.parametrize("frozen", [("fc1.weight", "fc1.bias"), ("fc2.weight",), ("fc1.weight", "fc2.bias")], ids=str)
def test_frozen_parameters(frozen):
    pipe = pipe_of(objective_of(frozen=frozen))
    J = pipe.step(*batch()[:2])
    J_once, gradients = by_one_process(objective_of(frozen=frozen), *batch()[:2])
    assert error(J, J_once) <= TOLERANCE
    assert_close(gradients_of(pipe), gradients)


def test_the_parameters_are_the_objectives():
    """Its optimizer trains them; prediction and gradients by autograd are as before."""
    objective = objective_of()
    pipe = pipe_of(objective)
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    x, y, _ = batch()
    J = [pipe.step(x, y)]
    optimizer.step()
    optimizer.zero_grad()
    J.append(pipe.step(x, y))
    assert J[1] < J[0]
    assert {id(p) for p in pipe.parameters()} == {id(p) for p in objective.parameters()}
    assert_close(gradients_of(pipe), {name: p.grad for name, p in objective.mlp.named_parameters()})
    assert list(pipe.state_dict()) == list(objective.mlp.state_dict())


def test_n_dimensional_batches():
    x, y, row_weight = batch()
    pipe, again = pipe_of(objective_of(), 4), objective_of()
    J = pipe.step(x.view(4, 10, -1), y.view(4, 10), row_weight.view(4, 10))
    assert error(J, again(x, y, row_weight).detach()) <= TOLERANCE


def test_a_mean_over_no_rows():
    """NaN, and gradients of the penalty alone, as of the objective."""
    x, _, _ = batch()
    y = torch.full((B,), 2)
    pipe = pipe_of(objective_of(ignore_index=2))
    assert pipe.step(x, y).isnan()
    _, gradients = by_one_process(objective_of(ignore_index=2), x, y)
    assert_close(gradients_of(pipe), gradients)


@pytest.mark.parametrize(("blocks", "stages"), [(1, 1), (1, 2), (2, 2), (2, 4), (3, 2), (3, 6)], ids=str)
def test_stacks(blocks, stages):
    model, again, (x, y, _) = stack_of(blocks), stack_of(blocks), batch("mse")
    pipe = tmb.pipeline.build(model, 10, devices=("cpu",) * stages, loss="mse", weight_decay=0.3)
    J = pipe.step(x, y)
    J_once, gradients = stack_by_one_process(again, F.mse_loss, x, y)
    assert error(J, J_once) <= TOLERANCE
    assert_close(gradients_of(pipe), gradients)
    assert list(pipe.state_dict()) == list(model.state_dict())
    pipe.load_state_dict(stack_of(blocks).state_dict())
    assert error(pipe.predict(x), again(x).detach()) <= TOLERANCE


def test_memory_holds_two_microbatches():
    """However many there are."""
    peaks = []
    for microbatches in (4, 16):
        pipe = pipe_of(objective_of("tanh"), microbatches)
        x, y, _ = batch(rows=64 * microbatches)
        pipe.step(x, y)
        peaks.append(measure(lambda: pipe.step(x, y)).peak_bytes)  # noqa: B023
    assert peaks[1] - peaks[0] < 64 * h * 8


def test_refusals():
    x, y, _ = batch()
    pipe = pipe_of(objective_of())
    for arguments, kind, message in (
        ((x[:, 1:], y), ValueError, r"^step: x must have shape \(\.\.\., 5\), got \(40, 4\)"),
        ((x, y[1:]), ValueError, r"^step: y must have x's 40 rows, got 39"),
        ((x[:30], y[:30]), ValueError, r"^step: the batch must be divisible by 8 microbatches, got 30 rows"),
        ((x, None), TypeError, r"^step: y must be a tensor on the last stage, got NoneType"),
    ):
        with pytest.raises(kind, match=message):
            pipe.step(*arguments)
    pipe.module.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"^step: no parameter requires a gradient"):
        pipe.step(x, y)


def test_after_an_error_the_next_step_is_right(monkeypatch):
    """No gradient that waited for the step that failed comes into the next one."""
    pipe = pipe_of(objective_of())
    x, y, _ = batch()
    whole = pipe._backward

    def fails(L):
        L.backward()
        raise OSError("out of luck")

    monkeypatch.setattr(pipe, "_backward", fails)
    with pytest.raises(OSError, match="out of luck"):
        pipe.step(x, y)
    monkeypatch.setattr(pipe, "_backward", whole)
    for p in pipe.parameters():
        p.grad = None
    pipe.step(x, y)
    assert_close(gradients_of(pipe), by_one_process(objective_of(), x, y)[1])
