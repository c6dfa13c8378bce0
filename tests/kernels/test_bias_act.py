from functools import partial

import pytest
import torch
from torch import nn

from torch_manual_bp import kernels
from torch_manual_bp.equations import ACTIVATIONS

from .precision import assert_accurate

SHAPES = [
    (0, 5),
    (1, 1),
    (5, 7),
    (5, 8),
    (300, 9),
    (5, 31),
    (70, 264),
    (300, 33),
    (5, 257),
    (3, 2051),
    (2, 4099),
    (300, 0),
]
MASKED = ("relu", "leaky_relu")


def eager(name, z):
    module = ACTIVATIONS[name].module
    return module()(z) if module else torch.relu(z).square()


def sample(B, h, dtype):
    return 3 * torch.randn(B, h).to(dtype), torch.randn(h).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
def test_bias_act_is_the_definition(backend, activation, dtype, shape, with_bias):
    z, bias = sample(*shape, dtype)
    bias = bias if with_bias else None
    total = z if bias is None else z + bias
    truth = ACTIVATIONS[activation].phi(z.double() if bias is None else z.double() + bias.double())
    h = z.clone()
    assert kernels.bias_act_(h, bias, activation) is None
    assert_accurate(h, truth, eager(activation, total))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_act_keep_keeps_z_beside_its_activation(backend, activation, dtype, shape):
    z, bias = sample(*shape, dtype)
    kept, h = z.clone(), torch.full_like(z, torch.nan)
    assert kernels.bias_act_keep_(kept, h, bias, activation) is None
    assert torch.equal(kept, z + bias)
    assert_accurate(h, ACTIVATIONS[activation].phi(kept.double()), eager(activation, kept))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", MASKED)
def test_bias_act_mask_holds_one_bit_a_unit(backend, activation, dtype, shape):
    z, bias = sample(*shape, dtype)
    z[:, ::3] = -bias[::3]  # units at the kink: not > 0
    h = z.clone()
    mask = kernels.bias_act_mask_(h, bias, activation)
    assert mask.dtype == torch.uint8 and mask.shape == (shape[0], (shape[1] + 7) // 8)
    bits = torch.stack([(mask >> j) & 1 for j in range(8)], dim=2).flatten(1)
    assert torch.equal(bits[:, : shape[1]].bool(), z + bias > 0)
    assert not bits[:, shape[1] :].any()
    plain = z.clone()
    kernels.bias_act_(plain, bias, activation)
    assert_accurate(h, plain.double(), plain)


def test_act_leaves_z_alone(backend, activation, dtype):
    z, _ = sample(300, 33, dtype)
    before = z.clone()
    h = kernels.act(z, activation)
    assert torch.equal(z, before)
    assert_accurate(h, ACTIVATIONS[activation].phi(z.double()), eager(activation, z))


def test_extreme_values(backend, activation, dtype):
    """Far out, φ is what the definition says in float64; NaN stays NaN."""
    z = torch.tensor([[-1e4, -300.0, -88.0, -0.0, 0.0, 20.0, 20.5, 90.0, 200.0, float("nan")]]).to(dtype)
    h = kernels.act(z, activation)
    truth = ACTIVATIONS[activation].phi(z.double())
    assert torch.isnan(h[0, -1])
    eps = {torch.float64: 1e-13}.get(dtype, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(h[:, :-1].double(), truth[:, :-1].to(dtype).double(), rtol=eps, atol=1e-35)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "elu", "softplus", "gelu"])
def test_float32_is_good_to_a_few_ulp_everywhere(device_kernels, name):
    """Relative, so that small results count: tanh and elu near 0, σ in its tail (e^x below 2^-126 is taken to be 0)."""
    z = torch.cat([torch.linspace(-80, 80, 400_001), torch.logspace(-30, 2, 100_001)])[None]
    z = torch.cat([z, -z], 1)
    if name == "gelu":  # beyond −6, where zΦ(z) is below 1e-8, the rounding of z² shows in e^{−z²/2}
        z = z.clamp(-6, 80)
    got, truth = kernels.act(z, name).double(), ACTIVATIONS[name].phi(z.double())
    error = ((got - truth).abs() / truth.abs())[truth.abs() > 1e-35].max().item()
    assert error < (12 if name == "gelu" else 3) * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_conversion_rounds_to_nearest_even(device_kernels, dtype):
    """identity over every value of a short dtype returns it, and z + bias rounds as torch does."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    z = bits.view(dtype)[None].clone() if dtype != torch.float32 else torch.randn(1, 2**16)
    h = kernels.act(z, "identity")
    assert torch.equal(h.nan_to_num(7.0, 8.0, -8.0), z.nan_to_num(7.0, 8.0, -8.0))
    assert torch.equal(h.isnan(), z.isnan())
    bias = (torch.randn(2**16) * z[0].float().abs().clamp(max=1e4)).nan_to_num(1.0, 1.0, 1.0).to(dtype)
    summed = z.clone()
    kernels.bias_act_(summed, bias, "identity")
    assert torch.equal(summed.nan_to_num(7.0, 8.0, -8.0), (z + bias).nan_to_num(7.0, 8.0, -8.0))


def test_the_same_answer_whatever_the_threads(device_kernels, activation):
    z, bias = sample(700, 257, torch.float32)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        h = z.clone()
        kernels.bias_act_(h, bias, activation)
        answers.append(h)
    torch.set_num_threads(before)
    assert torch.equal(*answers)


def test_unknown_activation_is_named(backend):
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"activation must be one of identity, relu.*got 'rulu'"):
        kernels.bias_act_(z, None, "rulu")
    with pytest.raises(ValueError, match="bias_act_mask_: activation must be one of relu, leaky_relu; got 'gelu'"):
        kernels.bias_act_mask_(z, None, "gelu")


@pytest.mark.parametrize(
    "z, bias, message",
    [
        (torch.zeros(4), None, r"z must be 2-d, got shape \(4\)"),
        (torch.zeros(4, 3).t(), None, r"z must be contiguous, got strides \(1, 3\)"),
        (torch.zeros(4, 3, dtype=torch.int64), None, "z must be float32, float64, bfloat16 or float16, got Long"),
        (torch.zeros(4, 3), torch.zeros(4), r"bias must have shape \(3\), got \(4\)"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.float64), "bias must be Float, got Double"),
        (torch.zeros(4, 3), torch.zeros(6)[::2], "bias must be contiguous"),
    ],
)
def test_compiled_ops_check_before_they_write(compiled, z, bias, message):
    h = torch.zeros(4, 3)
    for op in (kernels.bias_act_, partial(_keep, h), kernels.bias_act_mask_):
        with pytest.raises(RuntimeError, match=message):
            op(z, bias, "relu")
        assert not z.any() and not h.any()


def _keep(h, z, bias, activation):
    kernels.bias_act_keep_(z, h, bias, activation)


def test_the_kept_h_is_checked(compiled):
    z = torch.zeros(4, 3)
    with pytest.raises(RuntimeError, match=r"bias_act_keep_: h must have shape \(4, 3\), got \(3, 4\)"):
        kernels.bias_act_keep_(z, torch.zeros(3, 4), None, "relu")


def test_opcheck(device_kernels):
    z, bias = sample(5, 11, torch.float32)
    for b in (bias, None):
        for op in (device_kernels.bias_act_, device_kernels.bias_act_mask_):
            torch.library.opcheck(op.default, (z.clone(), b, 1))
        torch.library.opcheck(device_kernels.bias_act_keep_.default, (z.clone(), torch.empty_like(z), b, 1))
    torch.library.opcheck(device_kernels.act.default, (z, 6))


def test_modules_and_names_agree():
    """The numbers by which C++ knows activations are those of its enum: each is met by its own formula above."""
    assert set(kernels.CODES) == set(ACTIVATIONS)
    assert isinstance(ACTIVATIONS["gelu"].module(), nn.GELU)
