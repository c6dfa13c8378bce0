import warnings

import pytest
import torch

from torch_manual_bp.kernels import _dispatch

from . import cuda_on_cpu

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="session")
def emulated(request, tmp_path_factory):
    """The CUDA kernels as ops for CPU tensors; they are built once."""
    if why := cuda_on_cpu.why_not():
        pytest.skip(why)
    cache = getattr(request.config, "cache", None)
    common = tmp_path_factory.getbasetemp().parent  # of all workers, where pytest runs without a cache
    return cuda_on_cpu.load(cache.mkdir("cuda_on_cpu") if cache else common / "cuda_on_cpu")


@pytest.fixture(params=["compiled", "plain", "cuda_on_cpu"])
def backend(request, monkeypatch):
    """The compiled kernels, the plain-torch ones, and the CUDA kernels run on the CPU, in turn."""
    if request.param == "cuda_on_cpu":
        monkeypatch.setattr(_dispatch, "_cpu", request.getfixturevalue("emulated"))
    elif request.param == "plain":
        monkeypatch.setattr(_dispatch, "_cpu", None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", "cpu"})
    elif _dispatch._cpu is None:
        pytest.skip(f"no compiled kernels: {_dispatch.backend()}")
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
