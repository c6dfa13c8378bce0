"""The estimate of a whole spectrum: exact where the probes are, and within the law of random vectors where not."""

import math
from itertools import cycle

import pytest
import torch

from torch_manual_bp.curvature import Density
from torch_manual_bp.curvature.density import stochastic_lanczos

from .conftest import Case, make
from .test_curvature import assert_equal


@pytest.fixture
def H():
    return make(Case("gelu", weight_decay=0.1, shape=(20, 6, 7, 4))).curvature.dense()


@pytest.mark.parametrize("steps", [3, 40, 200])
def test_with_unit_vectors_as_probes_the_moments_are_the_matrix_s_own(H, steps):
    """Over a whole basis the mean of vᵀ f(A) v is tr f(A)/n, and m steps are exact for powers below 2m."""
    n = len(H)
    unit = cycle(torch.eye(n, dtype=H.dtype))
    density = stochastic_lanczos(lambda v: H @ v, lambda: next(unit), n, steps)
    for power in range(2 * 3):
        expected = torch.linalg.matrix_power(H, power).trace() / n
        assert_equal(torch.tensor(density.moment(power), dtype=H.dtype), expected)
    assert density.weights.min() >= 0
    assert (density.values.diff() >= 0).all()


def test_with_unit_vectors_and_all_steps_eigenvalues_are_counted_one_by_one(H):
    """Each Krylov space is exhausted, so the quadrature is the eigenvalues' own measure."""
    n = len(H)
    unit = cycle(torch.eye(n, dtype=H.dtype))
    density = stochastic_lanczos(lambda v: H @ v, lambda: next(unit), n, n)
    eigenvalues = torch.linalg.eigvalsh(H)
    gaps = eigenvalues.diff()
    for i in (gaps > 1e-3).nonzero().flatten().tolist():  # in the middle of a gap nothing can be counted wrongly
        assert density.number(high=float(eigenvalues[i] + gaps[i] / 2)) == pytest.approx(i + 1, abs=1e-6)
    assert density.number() == pytest.approx(n, abs=1e-9)


@pytest.mark.parametrize("ggn", [False, True], ids=["hessian", "ggn"])
def test_random_probes_miss_by_what_random_vectors_miss(ggn):
    """The standard deviation of vᵀ A v/‖v‖² is √(2 (tr A²/n − (tr A/n)²) / (n + 2)); of the mean, 1/√probes of it."""
    c = make(Case("silu", weight_decay=0.05, shape=(30, 8, 12, 5))).curvature
    H, probes = c.dense(ggn=ggn), 16
    density = c.spectral_density(ggn=ggn, probes=probes, steps=20, generator=torch.Generator().manual_seed(3))
    for power in (1, 2):
        A = torch.linalg.matrix_power(H, power)
        mean, square = float(A.trace()) / c.n, float(A.square().sum()) / c.n
        deviation = math.sqrt(2 * (square - mean**2) / (c.n + 2) / probes)
        assert abs(density.moment(power) - mean) < 4 * deviation
    low, *_, high = torch.linalg.eigvalsh(H)
    assert low - 1e-12 <= density.values[0] and density.values[-1] <= high + 1e-12  # Ritz values lie inside


def test_the_density_integrates_to_one_and_its_mean_is_the_first_moment():
    c = make(Case("tanh", shape=(20, 4, 5, 3))).curvature
    density = c.spectral_density(probes=4, steps=15)
    width = 0.01
    t = torch.linspace(float(density.values[0]) - 1, float(density.values[-1]) + 1, 20_001, dtype=torch.float64)
    f = density.at(t, width)
    assert torch.trapezoid(f, t) == pytest.approx(1, abs=1e-9)
    assert torch.trapezoid(f * t, t) == pytest.approx(density.moment(1), abs=1e-9)


def test_a_density_worked_by_hand():
    density = Density(
        torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64), 8
    )
    assert (density.moment(1), density.moment(2), density.number(high=0)) == (1.25, 3.25, 2)
    peak = 1 / math.sqrt(2 * math.pi)
    assert density.at(torch.tensor(2.0), 1).item() == pytest.approx(peak * (0.75 + 0.25 * math.exp(-4.5)), rel=1e-12)


def test_the_same_generator_draws_the_same_density_in_tiles():
    case = Case("gelu", shape=(23, 5, 6, 4))
    whole = make(case)
    tiled = type(whole.curvature)(whole.mlp, whole.x, whole.y, tile_rows=5, **whole.options)
    a, b = (c.spectral_density(steps=4, generator=torch.Generator().manual_seed(1)) for c in (whole.curvature, tiled))
    assert_equal(b.values, a.values)
    assert (b.weights - a.weights).abs().max() < 1e-9


@pytest.mark.parametrize("options", [{"probes": 0}, {"steps": 0}])
def test_what_it_cannot_do_it_says(options):
    c = make(Case()).curvature
    with pytest.raises(ValueError, match="spectral_density: probes and steps must be at least 1, got"):
        c.spectral_density(**options)
    with pytest.raises(ValueError, match=r"Density.at: width must be above 0, got 0"):
        c.spectral_density(probes=1, steps=2).at(torch.zeros(1), 0)
