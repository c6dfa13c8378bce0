"""The emulator itself: kernels that are right run, and each mistake is found and named."""

import pytest
import torch

from . import cuda_on_cpu


@pytest.fixture
def total(emulated):
    op = cuda_on_cpu.on_cuda("torch_manual_bp_mistakes", "sum")
    kinds = ["none", "no_barrier", "some_threads_at_barrier", "early_return", "two_barriers", "unwritten"]
    return lambda x, mistake: op(x, kinds.index(mistake))

def test_right(total):
    x = torch.randn(500)
    sums = total(x, "none")
    torch.testing.assert_close(sums.sum(), x.sum())
    assert torch.equal(sums, total(x, "none"))

@pytest.mark.parametrize("m", ["no_barrier", "some_threads_at_barrier", "early_return", "two_barriers", "unwritten"])
def test_m(total, m):
    print(total(torch.randn(500), m))
