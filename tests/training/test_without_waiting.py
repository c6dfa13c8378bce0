"""Lean steps on a CUDA device that is not there: nothing asks it for a number, and no tensor comes from elsewhere.

Tensors without contents stand for those of the device (torch's FakeTensorMode): to read one, as ``.item()`` does, is an
error, and so is an op on tensors of two devices. What is computed is the business of the other tests.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, AdamW

from torch_manual_bp.equations import ACTIVATIONS, LOSSES, Loss
from torch_manual_bp.kernels import _dispatch
from torch_manual_bp.training.accumulate import TiledObjective, accumulate
from torch_manual_bp.training.gradient import Share
from torch_manual_bp.training.problem import PARAMETERS, Batch, Goal, Net
from torch_manual_bp.training.tiling import Tiling
from torch_manual_bp.training.update import step
from torch_manual_bp.training.workspace import Workspace

if torch.version.cuda is None:
    pytest.skip("torch is a CPU build, which makes no view of such a tensor", allow_module_level=True)
if _dispatch._compiled is None:
    pytest.skip("no compiled kernels, which know the shapes of their results", allow_module_level=True)

B, D, H, Q = 10, 5, 7, 6
TILINGS = {"one tile": Tiling(B, Q), "rows": Tiling(4, Q), "rows and classes": Tiling(4, 4)}
OPTIMIZERS = {
    "SGD": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9),
    "AdamW": lambda p: AdamW(p, 0.1),
}
in_tiles = pytest.mark.parametrize("tile", TILINGS.values(), ids=TILINGS)
of_every_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.fixture(autouse=True)
def device(monkeypatch):
    monkeypatch.setattr(_dispatch, "_cuda", _dispatch._compiled)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # it asks the driver
    with FakeTensorMode():
        yield torch.device("cuda", 0)


def problem(device, loss, dtype, activation="gelu", weighted=True):
    """A net, its parameters, a goal with everything that a goal can have, and a batch."""
    shapes = {"w1": (H, D), "b1": (H,), "w2": (Q, H), "b2": (Q,)}
    parameters = {name: nn.Parameter(torch.empty(shape, dtype=dtype, device=device)) for name, shape in shapes.items()}
    net = Net(*(parameters[name].detach() for name in PARAMETERS), ACTIVATIONS[activation])
    classes = loss == "cross_entropy"
    goal = Goal(Loss(loss), torch.empty(Q, device=device) if classes else None, 0.1)
    y = torch.empty(B, dtype=torch.int64, device=device) if classes else torch.empty(B, Q, dtype=dtype, device=device)
    row_weight = torch.empty(B, device=device) if weighted else None
    return net, parameters, goal, Batch(torch.empty(B, D, dtype=dtype, device=device), y, row_weight)


CASES = [(tile, torch.float32) for tile in TILINGS] + [("one tile", torch.bfloat16)]
# (in several tiles bfloat16 has products into a longer dtype, addmm with out_dtype, for which torch has no shape)


@pytest.mark.parametrize(("tile", "dtype"), CASES, ids=str)
@of_every_loss
@pytest.mark.parametrize("share", [Share(), Share(scale=8.0), Share(normalizer=30.0)], ids=["", "scale", "normalizer"])
def test_accumulate(device, tile, loss, dtype, share):
    net, parameters, goal, batch = problem(device, loss, dtype)
    J = accumulate(net, goal, batch, parameters, None, TILINGS[tile], dtype, Workspace(), share)
    assert J.shape == () and J.device == device and J.dtype == torch.float32
    for parameter in parameters.values():
        assert parameter.grad.shape == parameter.shape and parameter.grad.dtype == dtype


@in_tiles
@of_every_loss
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step(device, tile, loss, clip_norm, optimizer, dtype=torch.float32):
    net, parameters, goal, batch = problem(device, loss, dtype)
    made = OPTIMIZERS[optimizer](parameters.values())
    J = step(net, goal, batch, made, parameters, tile, dtype, Workspace(), Share(), clip_norm)
    assert J.shape == () and J.device == device


@of_every_loss
def test_sgd_of_16_bit_parameters(device, loss):
    test_step(device, TILINGS["one tile"], loss, None, "SGD", torch.bfloat16)


@in_tiles
@of_every_loss
def test_usual_loop(device, tile, loss):
    """Up to J: the engine that goes back from it wants a device that is there."""
    net, parameters, goal, batch = problem(device, loss, torch.float32)
    x = batch.x.requires_grad_()
    J = TiledObjective.apply(
        x, batch.y, *parameters.values(), batch.row_weight, net.phi, goal, tile, torch.float32, Workspace(), True
    )
    assert J.shape == () and J.device == device and J.requires_grad


def test_a_number_asked_for_would_be_noticed(device):
    with pytest.raises(Exception, match="_local_scalar_dense"):
        torch.empty((), device=device).item()
