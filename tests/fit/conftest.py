import numpy as np
import pytest

from torch_manual_bp.fit import Dataset

N = 60


@pytest.fixture
def blobs():
    """Three clouds of points in the plane, far apart."""
    generator = np.random.default_rng(0)
    y = np.arange(N) % 3
    x = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])[y] + generator.normal(size=(N, 2))
    return Dataset("blobs", x, y, "classification", ("u", "v"), ("red", "green", "blue"))


@pytest.fixture
def plane():
    """Two targets that are linear in the features, in units far from 1."""
    x = np.random.default_rng(0).normal(size=(N, 3)) * [1, 10, 100]
    y = x @ np.array([[1000.0, 1.0], [200.0, 0.5], [-3.0, 0.0]]) + [5e4, -1.0]
    return Dataset("plane", x, y, "regression", ("a", "b", "c"), ("s", "t"))


@pytest.fixture
def flags():
    """Two labels a row, each of them on one side of a line."""
    x = np.random.default_rng(0).normal(size=(N, 2))
    y = np.stack([x[:, 0] > 0, x.sum(1) > 0], 1).astype(np.float64)
    return Dataset("flags", x, y, "multilabel", ("a", "b"), ("right", "above"))


@pytest.fixture(params=["blobs", "plane", "flags"])
def any_data(request):
    return request.getfixturevalue(request.param)
