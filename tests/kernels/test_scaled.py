import pytest
import torch

from torch_manual_bp import kernels
from torch_manual_bp.memory import measure

from .precision import assert_accurate


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1), (5, 7), (5, 8), (300, 257), (1, 70_001)], ids=str)
def test_scaled_is_rounded_once(backend, dtype, shape):
    g, wide = torch.randn(shape).to(dtype), torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.tensor(1 / 3, dtype=wide)
    before = g.clone()
    to = kernels.scaled(g, factor)
    assert torch.equal(g, before) and to.dtype == dtype
    assert torch.equal(to, (g.to(wide) * factor).to(dtype))
    assert_accurate(to, g.double() * factor.double(), g * factor.to(dtype))


@pytest.mark.parametrize(
    "factor, message",
    [
        (torch.ones(1), r"factor must have shape \(\), got \(1\)"),
        (torch.ones((), dtype=torch.float64), "factor must be Float, got Double"),
    ],
)
def test_compiled_op_checks(compiled, factor, message):
    with pytest.raises(RuntimeError, match=f"scaled: {message}"):
        kernels.scaled(torch.zeros(2, 3), factor)


def test_nothing_longer_is_made_on_the_way(compiled):
    g, factor = torch.randn(64, 1000).bfloat16(), torch.tensor(0.3)
    assert measure(lambda: kernels.scaled(g, factor)).peak_bytes == g.nbytes


def test_opcheck(device_kernels):
    torch.library.opcheck(device_kernels.scaled.default, (torch.randn(3, 5).bfloat16(), torch.tensor(0.3)))
