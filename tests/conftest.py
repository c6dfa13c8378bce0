import os
import signal
from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch
from kernels import cuda_on_cpu

from torch_manual_bp.equations import ACTIVATIONS
from torch_manual_bp.kernels import _dispatch

ACCELERATOR = os.environ.get("TMB_TEST_DEVICE", "cuda")  # another of torch's device types runs the same tests
DEVICES = ("cpu", ACCELERATOR)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as where a shell started this with &: no child would see Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def why_absent(device):
    """Why nothing can run on this device; "" where something can."""
    module = getattr(torch, device, None)
    if module is None:
        return f"torch {torch.__version__} knows no device {device!r}"
    return "" if module.is_available() else f"no {'CUDA' if device == 'cuda' else device} device"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=list(ACTIVATIONS))
def activation(request):
    return request.param


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """The CPU, then the GPU."""
    # an extension without kernels for it leaves it to plain torch, and says so once a process: in whichever test
    monkeypatch.setattr(_dispatch, "_warned", {*_dispatch._warned, request.param})
    return request.param


@pytest.fixture
def on_device(device):
    """Tensors are made on the CPU, then on the GPU, where nothing else is said.

    By a mode of torch, under which a bound call is not taken, and Dynamo does not trace all: where that is the matter,
    a test says ``device`` itself.
    """
    with nullcontext() if device == "cpu" else torch.device(device):
        yield device


@pytest.fixture
def device_kernels(on_device):
    """The compiled ops, where the device has any."""
    if {"cpu": _dispatch._cpu, "cuda": _dispatch._cuda}.get(on_device) is None:
        pytest.skip(f"no compiled kernels for {on_device}: {_dispatch.backend()}")
    return torch.ops.torch_manual_bp


@pytest.fixture(scope="session")
def emulated(request, tmp_path_factory):
    """The CUDA kernels as ops for CPU tensors; they are built once."""
    if why := cuda_on_cpu.why_not():
        pytest.skip(why)
    cache = getattr(request.config, "cache", None)
    common = tmp_path_factory.getbasetemp().parent  # of all workers, where pytest runs without a cache
    return cuda_on_cpu.load(cache.mkdir("cuda_on_cpu") if cache else common / "cuda_on_cpu")


@pytest.fixture(params=["compiled", "python", "cuda_on_cpu"])
def backend(request, on_device, monkeypatch):
    """On the compiled kernels of the device, if there are any, on their fallback in plain torch, on those for CUDA."""
    if request.param == "cuda_on_cpu":
        if on_device != "cpu":
            pytest.skip("the CPU alone stands in for a GPU")
        monkeypatch.setattr(_dispatch, "_cpu", request.getfixturevalue("emulated"))
    elif request.param == "python":
        for kernels in ("_cpu", "_cuda"):
            monkeypatch.setattr(_dispatch, kernels, None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", on_device})
    else:
        request.getfixturevalue("device_kernels")
    return request.param


def pytest_collection_modifyitems(config, items):
    """Without a GPU one skipped test of a file stands for all in it that wait for one: half of all tests do."""
    why = why_absent(ACCELERATOR)
    if not why:
        return
    waiting = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("device") == ACCELERATOR:
            waiting[item.path].append(item)
    left_out = set()
    for first, *others in waiting.values():
        first.add_marker(pytest.mark.skip(reason=f"{why}; so many tests of this file wait for one: {1 + len(others)}"))
        left_out.update(others)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
