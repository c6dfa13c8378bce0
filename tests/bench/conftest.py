import pytest

from torch_manual_bp.bench import Settings, Timings

SHAPE = (8, 5, 7, 3)


@pytest.fixture
def shape():
    return SHAPE


@pytest.fixture
def quick(monkeypatch):
    """Settings of a bench so small that it is quick; how noisy the machine is does not matter here."""
    monkeypatch.setattr(Timings, "require_quiet", lambda *_: None)
    return Settings(budget=0.05, compiled=False)
