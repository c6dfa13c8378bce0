import warnings

import pytest
import torch

from torch_manual_bp.kernels import _dispatch

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(params=["compiled", "plain"])
def backend(request, on_device, monkeypatch):
    """The compiled kernels and the plain-torch ones, in turn."""
    if request.param == "plain":
        for kernels in ("_cpu", "_cuda"):
            monkeypatch.setattr(_dispatch, kernels, None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", on_device})
    else:
        request.getfixturevalue("device_kernels")
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
