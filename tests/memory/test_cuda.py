"""What our kernels take on CUDA: the formulas against the kernels themselves, run on the CPU; and plans by hand."""

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp import kernels, memory
from torch_manual_bp.equations import Loss
from torch_manual_bp.kernels import _dispatch
from torch_manual_bp.memory.cuda import Cuda, dact_chunks, loss_blocks, small_net_sums

SHAPES = [(1, 1), (3, 7), (40, 50), (1000, 8), (777, 300), (64, 5000), (9000, 17), (40000, 3)]


@pytest.fixture
def on_cuda(emulated, monkeypatch):
    monkeypatch.setattr(_dispatch, "_cpu", emulated)


def taken(call):
    """The bytes of each block that a call takes, the largest first."""
    return sorted((block.bytes for block in memory.measure(call, "cpu").allocations), reverse=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_column_sums_of_dact(on_cuda, shape, dtype):
    dh, h = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    B, columns = shape
    wide = 8 if dtype is torch.float64 else 4
    sums = dact_chunks(B, columns) * columns * wide
    assert taken(lambda: kernels.dact_(dh, h, "tanh", "h", True)) == sorted(
        (sums, columns * dtype.itemsize), reverse=True
    )
    assert taken(lambda: kernels.dact_(dh, h, "tanh", "h", False)) == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_the_sums_of_an_elementwise_loss(on_cuda, shape, biased):
    o, y = torch.randn(shape), torch.rand(shape)
    bias = torch.zeros(shape[1]) if biased else None
    seen = taken(lambda: kernels.loss_(o, bias, y, None, None, Loss("mse"), "mean"))
    assert seen == sorted((8 * loss_blocks(*shape, biased), 4, 4), reverse=True)


def test_the_rows_of_cross_entropy(on_cuda):
    o, y = torch.randn(100, 30), torch.randint(30, (100,))
    assert taken(lambda: kernels.loss_(o, None, y, None, None, Loss("cross_entropy"), "mean")) == [800, 800, 4, 4]


@pytest.mark.parametrize("sizes", [(5, 3, 4, 2), (300, 20, 33, 10), (5000, 8, 16, 3)], ids=str)
def test_a_small_nets_call(on_cuda, sizes):
    B, d, h, q = sizes
    w1, b1, w2, b2 = torch.randn(h, d), torch.randn(h), torch.randn(q, h), torch.randn(q)
    to = [torch.empty_like(p) for p in (w1, b1, w2, b2)]
    x, y = torch.randn(B, d), torch.randint(q, (B,))
    seen = taken(
        lambda: kernels.objective_gradient_(
            x, y, None, w1, b1, w2, b2, None, "relu", Loss("cross_entropy"), 0.0, 1.0, 0.0, False, *to
        )
    )
    chunks, stride = small_net_sums(*sizes)
    assert seen == [4 * chunks * stride, 24 * chunks, 4]


def planned(widths, batch, **options):
    return memory.plan(tmb.MLP(*widths, "relu", device="meta"), batch, device="cuda", **options)


def test_the_usual_loop_by_hand():
    """At the peak: h, Ĝ, do, dz, all gradients, and the scalars scale, J, dJ."""
    B, d, h, q = 4096, 784, 1024, 10
    plan = planned((d, h, q), B)
    assert plan.peak_bytes == 4 * (2 * B * h + 2 * B * q + h * d + h + q * h + q) + 12
    assert "cuBLAS" in plan.notes[0]


def test_a_step_of_16_bits_sums_in_float32_without_a_copy():
    plan = planned((784, 1024, 10), 100_000, dtype=torch.bfloat16, path="accumulate_grad")
    dw1 = [tensor for tensor in plan.tensors if tensor.name == "dw1"]
    assert [tensor.dtype for tensor in dw1] == [torch.float32, torch.bfloat16]
    assert not any("of a tile" in tensor.name and tensor.shape == ("h", "d") for tensor in plan.tensors)


def test_nothing_of_the_cpus_is_planned():
    machine = Cuda({"B": 8})
    machine.mm(("B", 3), (3, 4), torch.bfloat16)
    machine.cast(("B",), torch.float32, torch.float64)
    with machine.number(torch.float32):
        pass
    assert machine.tensors == []


@pytest.mark.parametrize("path", ["accumulate_grad", "step"])
def test_small_nets_have_one_call(path):
    assert planned((64, 64, 10), 256, path=path).setting.choice.way == "one call"
    assert planned((129, 64, 10), 256, path=path).setting.choice.way != "one call"
    assert planned((64, 64, 10), 256, path=path, dtype=torch.bfloat16).setting.choice.way != "one call"


def test_eager_is_not_known():
    with pytest.raises(ValueError, match="known on the CPU only"):
        planned((64, 64, 10), 256, path="eager")
    with pytest.raises(ValueError, match="must be a CPU or CUDA, got mps"):
        memory.plan(tmb.MLP(3, 4, 5, device="meta"), 8, device="mps")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("path, options", [
    ("autograd", {}), ("accumulate_grad", {}), ("step", {"optimizer": "adamw"}), ("predict", {}),
], ids=str)  # fmt: skip
def test_a_plan_is_what_is_measured_within_the_allocators_rounding(path, options):
    plan = memory.plan(tmb.MLP(784, 1024, 10, device="meta"), 4096, device="cuda", path=path, **options)
    from torch_manual_bp.memory.sample import Sample

    measured = Sample(plan.setting).measured()
    assert plan.call_bytes <= measured.peak_bytes <= plan.call_bytes + 512 * len(plan.at_peak) + 64 * 1024
