import pytest

from torch_manual_bp.training import tiling

from . import cases
from .cases import WAYS


@pytest.fixture(params=list(WAYS))
def way(request):
    """objective, x, y, row_weight, tile_rows → J, with the gradients added to ``.grad``."""
    return WAYS[request.param]


@pytest.fixture
def three_classes(monkeypatch):
    """Tiles of three classes, however few there are of them all."""
    small = {kind: limits._replace(logits=0, classes=3) for kind, limits in tiling.LIMITS.items()}
    monkeypatch.setattr(tiling, "LIMITS", small)


@pytest.fixture
def made_on_device(device, monkeypatch):
    """Objectives and batches are on the CPU, then on the GPU, and nothing else is: as in a script that says device=…"""
    monkeypatch.setattr(cases, "makers_device", device)
    return device
