import math

import pytest
import torch
from torch import nn

from torch_manual_bp.equations import ACTIVATIONS, activation_named, activation_of_module

# both sides of every kink and threshold, and far out; not the kinks themselves, where autograd picks a side
POINTS = torch.tensor([-800.0, -30, -5, -1.5, -0.3, -1e-9, 1e-9, 0.3, 1.5, 5, 19.5, 20.5, 30, 800], dtype=torch.float64)


def by_autograd(f, z):
    z = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z).sum(), z)
    return gradient


def test_dphi_is_the_derivative_of_phi(activation):
    phi = ACTIVATIONS[activation]
    torch.testing.assert_close(phi.dphi(POINTS), by_autograd(phi.phi, POINTS), rtol=1e-13, atol=1e-15)


def test_d2phi_is_the_derivative_of_dphi(activation):
    phi = ACTIVATIONS[activation]
    expected = by_autograd(lambda z: phi.dphi(z) + 0 * z, POINTS)  # + 0z: where φ′ is constant autograd sees no z
    torch.testing.assert_close(phi.d2phi(POINTS), expected, rtol=1e-12, atol=1e-14)


def test_d2phi_is_what_torch_finds_by_two_backward_passes(activation):
    phi = ACTIVATIONS[activation]
    z = POINTS.clone().requires_grad_()
    (first,) = torch.autograd.grad(phi.phi(z).sum(), z, create_graph=True)
    second = torch.autograd.grad(first.sum(), z)[0] if first.requires_grad else torch.zeros_like(z)
    torch.testing.assert_close(phi.d2phi(POINTS), second, rtol=1e-12, atol=1e-14)


def test_third_derivative_is_finite_far_out(activation):
    third = by_autograd(lambda z: ACTIVATIONS[activation].d2phi(z) + 0 * z, POINTS)
    assert third.isfinite().all()


@pytest.mark.parametrize("name", [name for name, phi in ACTIVATIONS.items() if phi.from_output])
def test_derivatives_from_the_output_equal_those_from_z(name):
    phi = ACTIVATIONS[name]
    h = phi.phi(POINTS)
    torch.testing.assert_close(phi.from_output.dphi(h), phi.dphi(POINTS), rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(phi.from_output.d2phi(h), phi.d2phi(POINTS), rtol=1e-13, atol=1e-16)
    chained = by_autograd(lambda h: phi.from_output.dphi(h) + 0 * h, h)
    torch.testing.assert_close(phi.from_output.dphi_dh(h), chained, rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(phi.from_output.dphi_dh(h) * phi.dphi(POINTS), phi.d2phi(POINTS), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "z", "dphi"),
    [
        ("relu", 0.0, 0.0),
        ("leaky_relu", 0.0, 0.01),
        ("elu", 0.0, 1.0),
        ("softplus", 20.0, 1 / (1 + math.exp(-20))),
        ("softplus", 20.0 + 1e-12, 1.0),
        ("relu_squared", 0.0, 0.0),
    ],
)
def test_dphi_at_kinks_and_thresholds_is_torchs(name, z, dphi):
    z = torch.tensor([z], dtype=torch.float64)
    assert ACTIVATIONS[name].dphi(z).item() == pytest.approx(dphi, rel=1e-15)
    assert by_autograd(ACTIVATIONS[name].phi, z).item() == pytest.approx(dphi, rel=1e-15)


def test_nan_stays_nan(activation):
    phi = ACTIVATIONS[activation]
    nan = torch.tensor([float("nan")])
    assert phi.phi(nan).isnan().all()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(inplace=True), "relu"),
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.ELU(), "elu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.SiLU(), "silu"),
        (nn.Identity(), "identity"),
    ],
)
def test_activation_of_module(module, name):
    assert activation_of_module(module).name == name


@pytest.mark.parametrize(
    "module", [nn.ELU(alpha=2.0), nn.LeakyReLU(0.2), nn.Softplus(threshold=10), nn.Dropout(), nn.Sequential()], ids=str
)
def test_other_modules_and_settings_are_refused_by_name(module):
    with pytest.raises(ValueError, match=type(module).__name__):
        activation_of_module(module)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"op: activation must be one of identity, relu.*got 'swish'"):
        activation_named("swish", "op")
