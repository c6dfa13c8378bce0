"""The layers as modules: they share the MLP's parameters, and alone they are plain torch under autograd."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from autograd.reference import assert_close
from torch import nn

import torch_manual_bp as tmb
from torch_manual_bp.pipeline.stages import deal, widths

from .cases import stack_of


def mlp_of(activation="gelu", **options):
    torch.manual_seed(1)
    return tmb.MLP(5, 6, 4, activation, dtype=torch.float64, **options)


def test_nothing_of_it_is_imported_before_it_is_used():
    """The package at first touch, torch.distributed.pipelining for a pipe over processes alone: it takes a second."""
    program = """
import sys, torch_manual_bp as tmb
assert "torch_manual_bp.pipeline" not in sys.modules
tmb.pipeline.build(tmb.Objective(tmb.MLP(2, 3, 4)), 2, devices=("cpu", "cpu"))
assert "torch.distributed.pipelining" not in sys.modules
from torch_manual_bp.pipeline import Pipe
assert "torch.distributed.pipelining" in sys.modules
"""
    root = Path(tmb.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_the_parts_share_the_parameters():
    mlp = mlp_of()
    hidden, output = tmb.pipeline.split(mlp)
    assert hidden.fc1 is mlp.fc1
    assert output.fc2 is mlp.fc2
    assert {**hidden.state_dict(), **output.state_dict()}.keys() == mlp.state_dict().keys()
    assert not hidden.state_dict().keys() & output.state_dict().keys()


def test_one_after_the_other_they_are_the_mlp(activation):
    """Forward, backward, and the backward of the backward: as modules of their own they are torch's."""
    mlp = mlp_of(activation)
    hidden, output = tmb.pipeline.split(mlp)
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    for values in ((mlp(x), output(hidden(x))),):
        first, second = (
            torch.autograd.grad(o.square().sum(), [x, *mlp.parameters()], create_graph=True) for o in values
        )
        assert_close([values[1], *second], [values[0], *first], 1e-12)
        again = [torch.autograd.grad(g[0].square().sum(), mlp.fc1.weight)[0] for g in (first, second)]
        assert_close(again[1:], again[:1], 1e-12)


def test_copies():
    hidden, output = tmb.pipeline.split(mlp_of())
    x = torch.randn(2, 5, dtype=torch.float64)
    both = nn.Sequential(hidden, output)
    for same in (copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert torch.equal(same(x), output(hidden(x)))


def test_outside_of_a_step_a_stage_is_an_ordinary_module():
    """After build as well: autograd gets all its gradients, and none waits."""
    pipe = tmb.pipeline.build(tmb.Objective(mlp_of()), 2, devices=("cpu", "cpu"))
    hidden, output = pipe.module
    x = torch.randn(3, 5, dtype=torch.float64)
    output(hidden(x)).sum().backward()
    again = mlp_of()
    again(x).sum().backward()
    assert_close([p.grad for p in pipe.parameters()], [p.grad for p in again.parameters()], 1e-12)


@pytest.mark.parametrize(
    ("blocks", "stages", "names"),
    [
        (3, 1, [["0", "1", "2"]]),
        (3, 2, [["0", "1"], ["2"]]),
        (3, 3, [["0"], ["1"], ["2"]]),
        (2, 4, [["0.fc1"], ["0.fc2"], ["1.fc1"], ["1.fc2"]]),
    ],
    ids=str,
)
def test_a_stack_is_dealt_out(blocks, stages, names):
    model = stack_of(blocks)
    parts = deal(model, stages, "build")
    for part, starts in zip(parts, names, strict=True):
        assert all(any(name.startswith(f"{start}.") for start in starts) for name in part.state_dict())
    assert [name for part in parts for name in part.state_dict()] == list(model.state_dict())
    shapes = widths(parts)
    assert shapes[0] == 5
    assert shapes[-1] == 4
    x = torch.randn(3, 5, dtype=torch.float64)
    for part, columns in zip(parts, shapes[1:], strict=True):
        x = part(x)
        assert x.shape == (3, columns)


@pytest.mark.parametrize(
    ("blocks", "stages", "would"),
    [
        (2, 3, "up to 2 stages of whole blocks, or into 4 of one layer each"),
        (4, 6, "up to 4 stages .*, or into 8 of"),
        (2, 5, "up to 2 stages"),
    ],
)
def test_numbers_of_stages_that_do_not_go(blocks, stages, would):
    with pytest.raises(ValueError, match=rf"^build: a stack of {blocks} can be cut into {would}.*got {stages}"):
        deal(stack_of(blocks), stages, "build")


def test_split_refuses():
    with pytest.raises(TypeError, match=r"^split: mlp must be a torch_manual_bp.MLP, got Linear"):
        tmb.pipeline.split(nn.Linear(2, 3))
    mlp = mlp_of()
    mlp.fc2.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"^split: mlp's fc1 and fc2 must be plain"):
        tmb.pipeline.split(mlp)


def test_stages_that_would_share_a_parameter():
    """Each would train a copy of its own."""
    model = stack_of(3)
    model[2] = tmb.MLP.from_linears(model[0].fc1, "relu", nn.Linear(6, 4).double())
    model[1] = tmb.MLP(7, 6, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^build: 2.fc1.weight must belong to one stage, stages 0 and 1 share it"):
        deal(model, 2, "build")
