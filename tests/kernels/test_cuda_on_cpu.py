"""The emulation that the CUDA kernels are tested on: it computes what a GPU would, and finds what one would hang on."""

import ctypes
import re

import pytest
import torch

from . import cuda_on_cpu

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not())


@pytest.fixture
def run(request):
    """name, blocks, threads → what the kernel wrote, and what went wrong."""
    folder = request.config.cache.mkdir("cuda_on_cpu")
    library = ctypes.CDLL(str(cuda_on_cpu.build([cuda_on_cpu.HERE / "mistakes.cu"], folder)))
    library.run_mistake.restype = ctypes.c_char_p

    def call(name, blocks, threads):
        out = torch.zeros(blocks * threads)
        told = library.run_mistake(name.encode(), blocks, threads, ctypes.c_void_p(out.data_ptr()))
        return out, told.decode()

    return call


def test_shuffles(run):
    out, told = run("sum_of_a_warp", 1, 32)
    assert told == "" and out.tolist() == [31 * 16.0] * 32


def test_barriers_and_shared_memory(run):
    out, told = run("reversed_through_shared_memory", 3, 128)
    assert told == "" and torch.equal(out.view(3, 128), torch.arange(384.0).view(3, 128).flip(1))


def test_what_is_read_too_early_is_nan(run):
    out, told = run("not_waited_for", 1, 128)
    assert told == "" and out[:64].isnan().all()


def test_shared_memory_does_not_last(run):
    out, told = run("shared_memory_of_the_block_before", 2, 1)
    assert told == "" and out[0] == 1 and out[1].isnan()


@pytest.mark.parametrize(
    ("name", "threads", "message"),
    [
        ("barrier_of_some_threads", 64, r"block 0,0: thread 0 waits at .*mistakes.cu:\d+ for thread 40, .* its end"),
        (
            "barriers_in_two_branches",
            64,
            r"thread 0 waits at .*mistakes.cu:\d+ for thread 1, .*mistakes.cu",
        ),
        ("shuffle_of_some_lanes", 32, r"lane 0 waits at .*mistakes.cu:\d+ for lanes that are not there"),
        ("sum_of_a_warp", 2048, "invalid configuration"),
    ],
)
def test_mistakes_are_found(run, name, threads, message):
    _, told = run(name, 1, threads)
    assert re.search(message, told), told
