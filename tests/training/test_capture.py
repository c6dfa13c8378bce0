"""A training step while a CUDA graph is being captured: Adam counts its steps where a replay counts on, or is refused.

Tensors without contents stand for those of the device (torch's FakeTensorMode), since there need not be one.
"""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, Adam, AdamW

from torch_manual_bp import MLP, Objective
from torch_manual_bp.kernels import fallback
from torch_manual_bp.nn import bound as bound_calls
from torch_manual_bp.training.optimizers import fused_rule

KINDS = pytest.mark.parametrize("kind", [Adam, AdamW])


@pytest.fixture
def on_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # a CPU build of torch has none
    with FakeTensorMode():
        yield {
            name: nn.Parameter(torch.empty(shape, device="cuda")) for name, shape in (("w1", (3, 2)), ("w2", (2, 3)))
        }


@pytest.fixture
def capturing(on_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


@KINDS
def test_steps_counted_on_the_cpu_are_refused_and_nothing_is_written(on_cuda, capturing, kind):
    optimizer = kind(on_cuda.values(), lr=0.1)
    with pytest.raises(RuntimeError, match=f"step: {kind.__name__} counts its steps on the CPU.*capturable=True"):
        fused_rule(optimizer, on_cuda)
    assert not any(optimizer.state.values())


@KINDS
@pytest.mark.parametrize("option", ["capturable", "fused"])
def test_steps_counted_on_the_device_are_fused(on_cuda, capturing, kind, option):
    rule = fused_rule(kind(on_cuda.values(), lr=0.1, **{option: True}), on_cuda)
    assert rule is not None and {step.device.type for step in rule.states[2]} == {"cuda"}


def test_outside_a_capture_steps_are_counted_on_the_cpu_as_torch_does(on_cuda):
    rule = fused_rule(Adam(on_cuda.values(), lr=0.1), on_cuda)
    assert rule is not None and {step.device.type for step in rule.states[2]} == {"cpu"}


def test_a_state_that_was_counted_on_the_cpu_is_refused_as_well(on_cuda, monkeypatch):
    optimizer = Adam(on_cuda.values(), lr=0.1)
    fused_rule(optimizer, on_cuda)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        fused_rule(optimizer, on_cuda)


def test_sgd_counts_nothing(on_cuda, capturing):
    assert fused_rule(SGD(on_cuda.values(), lr=0.1, momentum=0.9), on_cuda) is not None


def test_capturable_elsewhere_is_torchs_own_affair():
    parameters = {"w1": nn.Parameter(torch.ones(2, 2))}
    assert fused_rule(Adam(parameters.values(), lr=0.1, capturable=True), parameters) is None


def test_a_learning_rate_on_the_device_is_torchs_own_affair(on_cuda):
    adam = Adam(on_cuda.values(), lr=0.1, capturable=True)
    adam.param_groups[0]["lr"] = torch.empty((), device="cuda")
    assert fused_rule(adam, on_cuda) is None


def test_a_bound_step_asks_each_time(monkeypatch):
    objective = Objective(MLP(3, 4, 2))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    adam = Adam(objective.parameters(), lr=0.1)
    objective.step(x, y, adam)
    bound = objective._bound.step
    if bound is None:
        pytest.skip("nothing is bound without the compiled kernels")
    assert bound(x, y, adam) is not None
    monkeypatch.setattr(bound_calls, "cannot_be_captured", lambda parameters, counted: torch.device("cpu") in counted)
    before = [parameter.clone() for parameter in objective.parameters()]
    assert bound(x, y, adam) is None
    assert all(map(torch.equal, before, objective.parameters()))


def test_labels_that_are_to_be_checked_from_now_on_unbind():
    objective = Objective(MLP(3, 4, 2))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    sgd = SGD(objective.parameters(), lr=0.1)
    objective.step(x, y, sgd)
    bound = objective._bound.step
    if bound is None:
        pytest.skip("nothing is bound without the compiled kernels")
    objective.validate = True
    assert bound(x, y, sgd) is None


def test_plain_torch_reads_no_counter_of_the_device(on_cuda):
    p = [parameter.detach() for parameter in on_cuda.values()]
    m, v, g = ([torch.empty_like(t) for t in p] for _ in range(3))
    step = [torch.empty((), device="cuda") for _ in p]
    hyper = [[0.0, 0.1, 0.0, 0.9, 0.999, 1e-8]] * 2
    with FakeTensorMode(allow_non_fake_inputs=True):  # hyper is on the CPU, and is read

        class Hyper:
            shape = (2, 6)

            def tolist(self):
                return hyper

        fallback.adam_(p, g, m, v, step, Hyper(), 1.0, True)
        fallback.adam_(p, g, m, v, step, Hyper(), math.inf, False)
