import os
from collections import Counter

import pytest
import torch

from torch_manual_bp.equations import ACTIVATIONS
from torch_manual_bp.kernels import _dispatch

ACCELERATOR = os.environ.get("TMB_TEST_DEVICE", "cuda")  # another of torch's device types runs the same tests
DEVICES = ("cpu", ACCELERATOR)


def _why_absent(device):
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
    """Where tensors are made for which nothing else is said: on the CPU, then on the GPU."""
    if request.param == "cpu":
        yield request.param
        return
    # an extension without kernels for it leaves it to plain torch, and says so once a process: in whichever test
    monkeypatch.setattr(_dispatch, "_warned", {*_dispatch._warned, request.param})
    with torch.device(request.param):
        yield request.param


@pytest.fixture
def device_kernels(device):
    """The compiled ops, where the device has any."""
    if {"cpu": _dispatch._cpu, "cuda": _dispatch._cuda}.get(device) is None:
        pytest.skip(f"no compiled kernels for {device}: {_dispatch.backend()}")
    return torch.ops.torch_manual_bp


@pytest.fixture(params=["compiled", "python"])
def backend(request, device, monkeypatch):
    """On the compiled kernels of the device, if there are any, and on their fallback in plain torch."""
    if request.param == "python":
        for kernels in ("_cpu", "_cuda"):
            monkeypatch.setattr(_dispatch, kernels, None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", device})
    else:
        request.getfixturevalue("device_kernels")
    return request.param


def pytest_collection_modifyitems(config, items):
    """Where there is no GPU, one skipped test a file stands for all that wait for one: they are as many as the others."""
    why = _why_absent(ACCELERATOR)
    if not why:
        return
    waiting = [
        item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("device") == ACCELERATOR
    ]
    number, standing = Counter(item.path for item in waiting), {}
    for item in waiting:
        standing.setdefault(item.path, item)
    for path, item in standing.items():
        tests = "1 test of this file waits" if number[path] == 1 else f"{number[path]} tests of this file wait"
        item.add_marker(pytest.mark.skip(reason=f"{why}: {tests} for one"))
    left_out = set(waiting) - set(standing.values())
    items[:] = [item for item in items if item not in left_out]
