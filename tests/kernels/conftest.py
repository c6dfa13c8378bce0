import warnings

import pytest
import torch

from torch_manual_bp.kernels import _dispatch

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(params=["compiled", "plain", "cuda_on_cpu"])
def backend(request, on_device, monkeypatch):
    """The compiled kernels of each device, the plain-torch ones, and those for CUDA, run on the CPU, in turn."""
    yield from _computed_by(request, on_device, monkeypatch)


@pytest.fixture(params=["compiled", "cuda_on_cpu"])
def one_call(request, monkeypatch):
    """The kernels of whole nets, which have no counterpart in plain torch."""
    yield from _computed_by(request, "cpu", monkeypatch)


def _computed_by(request, device, monkeypatch):
    if request.param == "plain":
        for kernels in ("_cpu", "_cuda"):
            monkeypatch.setattr(_dispatch, kernels, None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", device})
    elif request.param == "cuda_on_cpu":
        if device != "cpu":
            pytest.skip("the CPU alone stands in for a GPU")
        monkeypatch.setattr(_dispatch, "_cpu", request.getfixturevalue("emulated"))
    elif {"cpu": _dispatch._cpu, "cuda": _dispatch._cuda}.get(device) is None:
        pytest.skip(f"no compiled kernels for {device}: {_dispatch.backend()}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield request.param


@pytest.fixture
def compiled():
    if _dispatch._cpu is None:
        pytest.skip(f"no compiled kernels: {_dispatch.backend()}")
    return torch.ops.torch_manual_bp


@pytest.fixture(params=list(DTYPES))
def dtype(request):
    return DTYPES[request.param]
