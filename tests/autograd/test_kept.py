"""What is kept for the backward pass, byte for byte, and that frozen parameters cost nothing."""

import pytest
import torch
from torch import nn

import torch_manual_bp as tmb

from .twins import Phi

pytestmark = pytest.mark.usefixtures("on_device")


B, D, H, Q = 16, 32, 24, 10
FLOAT = 4
X, HIDDEN = B * D * FLOAT, B * H * FLOAT


def kept_bytes(make, parameters):
    """Bytes that autograd keeps for the backward pass, parameters aside; each storage once."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda s: (kept.__setitem__(s.untyped_storage().data_ptr(), s.untyped_storage().nbytes()), s)[1], lambda s: s
    ):
        alive = make()
    for p in parameters:
        kept.pop(p.untyped_storage().data_ptr(), None)
    del alive
    return sum(kept.values())


def module(activation, save="auto", frozen=()):
    mlp = tmb.MLP(D, H, Q, activation, save=save)
    for name in frozen:
        mlp.get_parameter(name).requires_grad_(False)
    return mlp


ALL_FROZEN = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
KEPT = [
    ("relu", "auto", (), X + HIDDEN, "x and h"),
    ("tanh", "auto", (), X + HIDDEN, "x and h"),
    ("gelu", "auto", (), X + HIDDEN, "x and z, not h, which eager keeps too"),
    ("gelu", "auto", ("fc2.weight",), X + HIDDEN, "x and z"),
    ("relu", "auto", ("fc2.weight",), X + B * H // 8, "x and one bit a unit"),
    ("leaky_relu", "auto", ("fc2.weight",), X + B * H // 8, "x and one bit a unit"),
    ("relu", "auto", ("fc1.weight",), HIDDEN, "h: x is not needed"),
    ("gelu", "auto", ("fc1.weight", "fc1.bias"), HIDDEN, "h, not z: nothing goes through φ"),
    ("relu", "auto", ("fc1.weight", "fc1.bias", "fc2.weight"), 0, "b2 alone needs nothing"),
    ("relu", "auto", ALL_FROZEN, 0, "no gradient, nothing kept"),
    ("relu", "input", (), X, "x alone"),
    ("gelu", "input", (), X, "x alone"),
    ("gelu", "input", ALL_FROZEN, 0, "no gradient, nothing kept"),
]
kept_cases = pytest.mark.parametrize(
    ("activation", "save", "frozen", "expected", "why"),
    KEPT, ids=[f"{c[0]}-{c[1]}-{'-'.join(c[2]) or 'none'} frozen" for c in KEPT],
)  # fmt: skip


@kept_cases
def test_bytes_kept_by_the_mlp(activation, save, frozen, expected, why):
    mlp, x = module(activation, save, frozen), torch.randn(B, D)
    assert kept_bytes(lambda: mlp(x), mlp.parameters()) == expected, why


@kept_cases
def test_bytes_kept_by_the_objective(activation, save, frozen, expected, why):
    """The logits' buffer, which ends as Ĝ, the labels and the scale come on top."""
    mlp, x, y = module(activation, save, frozen), torch.randn(B, D), torch.randint(Q, (B,))
    loss = B * Q * FLOAT + B * 8 + FLOAT if frozen != ALL_FROZEN else 0
    assert kept_bytes(lambda: tmb.Objective(mlp, weight_decay=0.1)(x, y), mlp.parameters()) == expected + loss, why


def test_eager_torch_keeps_more_for_gelu_and_as_much_for_relu():
    """What the figures above are to be compared with."""
    x = torch.randn(B, D)
    for activation, expected in (("relu", X + HIDDEN), ("gelu", X + 2 * HIDDEN)):
        sequential = nn.Sequential(nn.Linear(D, H), Phi(activation), nn.Linear(H, Q))
        assert kept_bytes(lambda s=sequential: s(x), sequential.parameters()) == expected


@pytest.mark.parametrize(
    "frozen", [("fc1.weight",), ("fc1.bias", "fc2.weight"), ("fc1.weight", "fc1.bias"), ALL_FROZEN]
)
def test_frozen_parameters_get_no_gradient(frozen, save):
    mlp, x = module("silu", save, frozen), torch.randn(B, D)
    if frozen == ALL_FROZEN:
        assert not mlp(x).requires_grad and not tmb.Objective(mlp)(x, torch.zeros(B, dtype=torch.long)).requires_grad
        return
    tmb.Objective(mlp, weight_decay=0.1)(x, torch.randint(Q, (B,))).backward()
    assert {name for name, p in mlp.named_parameters() if p.grad is None} == set(frozen)
