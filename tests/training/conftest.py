import pytest

from torch_manual_bp.kernels import _dispatch
from torch_manual_bp.training import tiling

from .cases import WAYS

BACKENDS = ["compiled", "python"] if _dispatch._cpu is not None else ["python"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """On the compiled kernels, if there are any, and on their fallback in plain torch."""
    if request.param == "python":
        monkeypatch.setattr(_dispatch, "_cpu", None)
        monkeypatch.setattr(_dispatch, "_warned", {"meta", "cpu"})
    return request.param


@pytest.fixture(params=list(WAYS))
def way(request):
    """objective, x, y, row_weight, tile_rows → J, with the gradients added to ``.grad``."""
    return WAYS[request.param]


@pytest.fixture
def three_classes(monkeypatch):
    """Tiles of three classes, however few there are of them all."""
    small = {kind: limits._replace(logits=0, classes=3) for kind, limits in tiling.LIMITS.items()}
    monkeypatch.setattr(tiling, "LIMITS", small)
