import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torch_manual_bp import kernels
from torch_manual_bp.equations import ACTIVATIONS
from torch_manual_bp.kernels.codes import KIND_CODES

from .precision import assert_accurate
from .test_bias_act import MASKED, SHAPES, eager

CASES = [(name, kind) for name, kind in KIND_CODES]


def sample(name, kind, B, h, dtype):
    """dh, z, and what was kept."""
    z, dh = 2 * torch.randn(B, h).to(dtype), torch.randn(B, h).to(dtype)
    if kind == "mask":
        return dh, z, kernels.bias_act_mask_(z.clone(), None, name)
    return dh, z, z if kind == "z" else kernels.act(z, name)


def truth(name, kind, dh, z, saved):
    """dz and its column sums in float64, from what was kept."""
    phi = ACTIVATIONS[name]
    dphi = phi.from_output.dphi(saved.double()) if kind == "h" else phi.dphi(z.double())
    dz = dphi * dh.double()
    return dz, dz.sum(0)


def eager_gradient(name, dh, z):
    leaf = z.clone().requires_grad_()
    eager(name, leaf).backward(dh)
    return leaf.grad


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name, kind", CASES)
def test_dact_is_the_definition(backend, name, kind, dtype, shape):
    dh, z, saved = sample(name, kind, *shape, dtype)
    dz, db = truth(name, kind, dh, z, saved)
    kept = saved.clone()
    theirs = eager_gradient(name, dh, z)
    got = dh.clone()
    db_got = kernels.dact_(got, saved, name, kind, True)
    assert torch.equal(saved, kept)
    assert_accurate(got, dz, theirs, terms=dh)  # 1 − h² is a difference: its terms times dh are what is rounded
    assert db_got.dtype == dtype
    assert_accurate(db_got, db, theirs.sum(0), terms=dh)
    again = dh.clone()
    assert kernels.dact_(again, saved, name, kind, False) is None
    assert torch.equal(again, got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(65536, 3), (65536, 24), (20011, 100)], ids=str)
def test_long_column_sums_stay_accurate(backend, dtype, shape):
    """Summing 65536 rows one after the other in float32 would lose half the digits; all of one sign here."""
    dh = torch.rand(shape).to(dtype)
    saved = torch.ones(shape, dtype=dtype)
    db = kernels.dact_(dh.clone(), saved, "relu", "h", True)
    assert_accurate(db, dh.double().sum(0), dh.sum(0))


@pytest.mark.parametrize("name, kind", [("gelu", "z"), ("relu", "mask"), ("tanh", "h")])
@pytest.mark.parametrize("shape", [(3000, 31), (700, 257), (129, 2051)], ids=str)
def test_the_same_sums_whatever_the_threads(backend, name, kind, shape):
    dh, _, saved = sample(name, kind, *shape, torch.float32)
    answers = []
    before = torch.get_num_threads()
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        answers.append(kernels.dact_(dh.clone(), saved, name, kind, True))
    torch.set_num_threads(before)
    if backend != "plain":
        assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.usefixtures("on_device")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # one device
@given(B=st.integers(0, 200), h=st.integers(1, 70), seed=st.integers(0, 99))
def test_dact_is_linear_in_dh_and_sums_what_it_writes(B, h, seed):
    """In whole numbers nothing is rounded: sums over merged rows, the short last one included, must be exact."""
    torch.manual_seed(seed)
    dh = torch.randint(-8, 9, (B, h)).float()
    z = torch.randint(-1, 2, (B, h)).float()
    mask = kernels.bias_act_mask_(z.clone(), None, "relu")
    for saved, kind in ((z, "z"), (z.relu(), "h"), (mask, "mask")):
        dz = dh.clone()
        db = kernels.dact_(dz, saved, "relu", kind, True)
        assert torch.equal(dz, torch.where(z > 0, dh, 0.0))
        assert torch.equal(db, dz.sum(0))


@pytest.mark.parametrize("name, kind", CASES)
def test_kinks_and_nan(backend, name, kind, dtype):
    """φ′ at 0 is PyTorch's; a NaN unit has a NaN gradient, but for a mask, which cannot hold one, and identity."""
    z = torch.tensor([[0.0, -0.0, 1.0, -1.0, float("nan")]], dtype=dtype)
    saved = kernels.bias_act_mask_(z.clone(), None, name) if kind == "mask" else z
    saved = kernels.act(z, name) if kind == "h" else saved
    dz = torch.ones_like(z)
    kernels.dact_(dz, saved, name, kind, False)
    leaf = z.clone().requires_grad_()
    eager(name, leaf).sum().backward()
    torch.testing.assert_close(dz[:, :4], leaf.grad[:, :4])
    assert torch.isnan(dz[0, 4]) == (kind != "mask" and name != "identity")


def test_kind_that_does_not_fit_is_refused(backend):
    dh = torch.ones(2, 3)
    with pytest.raises(ValueError, match="dact_: kind must be one of z for gelu; got 'h'"):
        kernels.dact_(dh, dh.clone(), "gelu", "h", False)
    with pytest.raises(ValueError, match="dact_: kind must be one of z, h for tanh; got 'mask'"):
        kernels.dact_(dh, dh.clone(), "tanh", "mask", False)


@pytest.mark.parametrize(
    "saved, code, kind, message",
    [
        (torch.ones(2, 4), 3, 0, r"saved must have shape \(2, 3\), got \(2, 4\)"),
        (torch.ones(2, 3).half(), 3, 0, "saved must be Float, got Half"),
        (torch.ones(2, 3), 1, 2, r"saved must have shape \(2, 1\)"),
        (torch.ones(2, 1), 1, 2, "saved must be Byte, got Float"),
        (torch.ones(2, 3), 6, 0, "does not follow from h"),
        (torch.ones(2, 1, dtype=torch.uint8), 3, 2, "a mask is enough for relu and leaky_relu only"),
        (torch.ones(2, 3), 11, 1, r"activation must be in \[0, 10\], got 11"),
        (torch.ones(2, 3), 1, 3, r"kind must be in \[0, 2\], got 3"),
    ],
)
def test_compiled_ops_check_before_they_write(compiled, saved, code, kind, message):
    dh = torch.full((2, 3), 5.0)
    for op in (compiled.dact_, compiled.dact_bias_grad_):
        with pytest.raises(RuntimeError, match=message):
            op(dh, saved, code, kind)
    assert (dh == 5).all()


def test_opcheck(device_kernels):
    dh, z = torch.randn(5, 11), torch.randn(5, 11)
    for op in (device_kernels.dact_, device_kernels.dact_bias_grad_):
        torch.library.opcheck(op.default, (dh.clone(), z, 6, 1))
        mask = kernels.bias_act_mask_(z.clone(), None, MASKED[0])
        torch.library.opcheck(op.default, (dh.clone(), mask, 1, 2))
