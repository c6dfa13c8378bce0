"""The emulator of CUDA's threads: what is right runs right, and each mistake is found, and named."""

import pytest
import torch

from torch_manual_bp import kernels
from torch_manual_bp.kernels import _dispatch

from . import cuda_on_cpu
from .test_classes import walk
from .test_cross_entropy import IGNORED, sample

BLOCK = 128
RACE = r"(reads|writes) 4 bytes of shared memory that thread \d+ (reads|writes) with no barrier between"


@pytest.fixture
def case(emulated):
    return lambda name, x: cuda_on_cpu.on_cuda("torch_manual_bp_cases", name)(x)


@pytest.fixture
def x():
    return torch.randint(-8, 9, (3 * BLOCK,)).float()


@pytest.mark.parametrize("name", ["reversed", "reversed_in_dynamic_memory", "more_shared_memory_on_demand"])
def test_shared_memory_is_a_blocks(case, x, name):
    assert torch.equal(case(name, x), x.view(3, BLOCK).flip(1).flatten())


def test_shuffles_take_from_the_lane_they_name(case, x):
    lanes, w = torch.arange(32), x.view(-1, 32)
    rotated = w[:, lanes // 16 * 16 + (lanes + 1) % 16]
    up = w[:, torch.where(lanes < 2, lanes, lanes - 2)]
    down = w[:, torch.where(lanes % 8 >= 6, lanes, lanes + 2)]
    assert torch.equal(case("shuffles", x).view(-1, 32), rotated + 10 * w[:, lanes ^ 1] + 100 * up + 1000 * down)


def test_votes_are_the_masks(case, x):
    x[:64] = x[:64].abs() + 1
    positive = x.view(-1, 16, 2) > 0
    expected = positive.sum(1) + 100 * positive.all(1) + 1000 * positive.any(1)
    assert torch.equal(case("votes", x).view(-1, 16, 2), expected[:, None].expand_as(positive).float())


def test_barriers_count_and_atomics_add(case, x):
    x[:BLOCK] = 1
    positive = x.view(3, BLOCK) > 0
    expected = 1001 * positive.sum(1) + 1_000_000 * (positive.all(1).int() + 2 * positive.any(1))
    assert torch.equal(case("counts", x), expected[:, None].expand(3, BLOCK).flatten().float())


def test_a_blocks_sum_can_be_taken_twice(case, x):
    assert torch.equal(case("two_sums", x), x.view(3, BLOCK).sum(1, keepdim=True).expand(3, BLOCK).flatten())


@pytest.mark.parametrize(
    "name, message",
    {
        "no_barrier": RACE,
        "one_barrier_too_few": RACE,
        "no_syncwarp": RACE,
        "barrier_for_some": r"__syncthreads at cases.cu:\d+: 64 of the block's 128 threads wait, 64 have returned",
        "barrier_after_return": r"__syncthreads at cases.cu:\d+: 127 of the block's 128 threads wait, 1 have returned",
        "two_barriers": r"__syncthreads at cases.cu:\d+: some of .* threads wait for __syncthreads at cases.cu:\d+",
        "absent_lane": r"__shfl_xor_sync at cases.cu:\d+: a lane of its mask does not come",
        "value_of_a_lane_that_returned": r"__shfl_xor_sync at .*: lane 0 takes a value from lane 16, which brings none",
        "lane_outside_its_mask": r"__shfl_sync at cases.cu:\d+: a lane is not in the mask that it names",
        "reads_beyond": r"reads 4 bytes outside of every tensor, 0 bytes beyond one of 1536 \(block 2 0 0, thread",
        "reads_before": r"reads 4 bytes outside of every tensor.* \(block 0 0 0, thread 0 0 0\)",
        "writes_beyond": r"writes 4 bytes outside of every tensor, 0 bytes beyond one of 1536 \(block 2 0 0, thread",
        "writes_what_is_read_only": "writes 4 bytes of a tensor that is only to be read",
        "misaligned": r"a pointer to what is not aligned at vectors.cuh:\d+ \(block \d 0 0, thread",
        "index_beyond_its_array": r"an index beyond its array at cases.cu:\d+ \(block \d 0 0, thread 127 0 0\)",
        "beyond_dynamic_memory": "writes 4 bytes of dynamic shared memory beyond its 512 bytes",
        "overflow": r"an integer overflow at cases.cu:\d+",
        "assertion": r"error 710 .*: device-side assert: .*7 is refused.* at cases.cu:\d+ \(block 0 0 0, thread 7",
        "no_blocks": "CUDA error 9 .*: a grid of 0 x 1 x 1 blocks",
        "too_many_rows_of_blocks": "CUDA error 9 .*: a grid of 1 x 65536 x 1 blocks",
        "too_many_threads": "CUDA error 9 .*: a block of 33 x 32 x 1 threads",
        "too_much_shared_memory": "CUDA error 1 .*: 49153 bytes of shared memory, where 49152 are allowed",
        "another_stream": "not on the current stream",
        "no_guard": "no DeviceGuard lives",
    }.items(),
)
def test_mistakes_are_named(case, x, name, message):
    for _ in range(2):  # in either order of threads; and after an error the next launch is as good as the first
        with pytest.raises(RuntimeError, match=message):
            case(name, x)
        assert torch.equal(case("two_sums", x), x.view(3, BLOCK).sum(1, keepdim=True).expand(3, BLOCK).flatten())


def test_what_was_not_written_is_nan(case, x):
    assert case("unwritten_shared", x).isnan().all()
    out = case("unwritten_output", x)
    assert out[0].isnan() and torch.equal(out[1:], x[1:])


@pytest.mark.parametrize("q", [257, 1100])  # a warp a row, and a block a row
def test_the_order_of_threads_does_not_matter(emulated, monkeypatch, q):
    """Bit by bit: what was launched before is launched in the other order."""
    monkeypatch.setattr(_dispatch, "_cpu", emulated)
    o, bias, target, class_weight, row_weight = sample(99, q, torch.float32)
    saved, y = torch.randn(3000, q), torch.rand(99, q)

    def answers():
        G, R, E, dz = o.clone(), o.clone(), o.clone(), saved.clone()
        yield from (*kernels.cross_entropy_(G, bias, target, class_weight, row_weight, 0.1, IGNORED, "mean"), G)
        yield from walk(o, bias, target, class_weight, row_weight, 0.1, IGNORED, [q // 3, q - q // 3])
        yield from (*kernels.mse_(R, bias, y, row_weight, "mean"), R)
        yield from (*kernels.bce_with_logits_(E, bias, y, row_weight, "mean"), E)
        yield from (kernels.dact_(dz, saved, "gelu", "z", True), dz)

    assert all(torch.equal(a, b) for a, b in zip(answers(), answers(), strict=True))


def test_every_op_with_a_cuda_kernel_is_run(emulated):
    """What the sources register is what the emulated ops are."""
    sources = "".join(path.read_text() for path in (cuda_on_cpu.CSRC / "cuda").glob("*.cu"))
    registered = {name for name in vars(emulated) if f'm.impl("{name}"' in sources}
    assert registered >= {"bias_act_", "dact_", "cross_entropy_"}
    assert registered == {name for name in vars(emulated) if cuda_on_cpu.has_cuda_kernel("torch_manual_bp", name)}
