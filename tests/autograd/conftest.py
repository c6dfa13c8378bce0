import pytest

from torch_manual_bp import kernels
from torch_manual_bp.kernels import fallback

from .reference import SAVES

BACKENDS = ["python"] if kernels.backend().startswith("python") else ["compiled", "python"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """Tests that ask for it run on the compiled kernels, if there are any, and on their fallback in plain torch."""
    if request.param == "python":
        monkeypatch.setattr(kernels, "kernels_for", lambda tensor: fallback)
    return request.param


@pytest.fixture(params=SAVES)
def save(request):
    return request.param
