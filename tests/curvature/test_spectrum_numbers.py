"""What is said of a spectrum: exact, or a bound that holds, or that it is not known."""

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp.curvature import spectrum as module
from torch_manual_bp.curvature.null import known_null
from torch_manual_bp.curvature.spectrum import condition, spectrum

from .conftest import Case, flat, make

LARGE = (40, 7, 9, 5)
CASES = [
    Case("tanh", shape=LARGE),
    Case("tanh", weight_decay=0.01, shape=LARGE),
    Case("tanh", biases=(1, 0), shape=LARGE),
    Case("relu", biases=(0, 1), shape=LARGE),
    Case("gelu", "mse", shape=LARGE),
    Case("gelu", "mse", weight_decay=0.01, shape=LARGE),
    Case("silu", "bce_with_logits", weight_decay=0.01, shape=LARGE),
    Case("tanh", options=("class_weight", "row_weight", "label_smoothing", "ignore_index"), shape=LARGE),
    Case("softplus", weight_decay=0.1, shape=(3, 4, 3, 3)),
]


def objective_of(setting):
    options = {name: value for name, value in setting.options.items() if name != "row_weight"}
    return tmb.Objective(setting.mlp, **options)


def both(setting, ggn, **more):
    c = setting.curvature
    return spectrum(c, objective_of(setting), ggn, 4, **more, generator=torch.Generator().manual_seed(0))


def test_a_condition_worked_by_hand():
    values = torch.tensor([-4, -1e-20, 0, 1e-18, 2, 8], dtype=torch.float64)
    assert condition(values, rounding=1e-15) == (3, 4)
    assert condition(torch.zeros(3), rounding=0) == (3, None)


def test_exact_numbers_are_those_of_the_hessian_by_autograd():
    setting = make(Case("gelu", weight_decay=0.1, shape=LARGE))
    H = torch.func.hessian(setting.J)(setting.theta)
    found, values = both(setting, ggn=False), torch.linalg.eigvalsh(H)
    assert found.exact
    assert found.trace == pytest.approx(float(H.trace()), rel=1e-12)
    assert found.largest == pytest.approx(values[values.abs().argsort(descending=True)][:4].tolist(), rel=1e-10)
    assert found.smallest == pytest.approx(float(values[0]), rel=1e-10)
    assert found.negative == int((values < -1e-12).sum()) > 5
    assert found.null == 1  # b2
    assert found.condition == pytest.approx(float(values.abs().max() / values.abs().sort()[0][1]), rel=1e-6)
    sizes = [p.numel() for p in setting.mlp.parameters()]
    for part, entries in zip(H.diagonal().split(sizes), found.diagonal.values(), strict=True):
        share = float((part < 0).double().mean())
        assert entries == pytest.approx((float(part.min()), float(part.median()), float(part.max()), share), rel=1e-9)


@pytest.mark.parametrize(
    ("case", "null"),
    [
        (Case("tanh", shape=LARGE), 9 + 1),  # W2 and b2, by the shift that softmax does not see
        (Case("tanh", weight_decay=0.1, shape=LARGE), 1),  # λ bends W2
        (Case("tanh", weight_decay=0.1, biases=(1, 0), shape=LARGE), 0),
        (Case("tanh", "mse", weight_decay=0.1, shape=LARGE), 0),
    ],
    ids=str,
)
def test_null_directions_are_counted_beside_the_condition(case, null):
    for ggn in (False, True):
        found = both(make(case), ggn)
        assert found.null == null
        assert found.condition < 1e8


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dead", [False, True], ids=["", "with a dead unit and a constant input"])
def test_known_null_directions_are_null(case, dead):
    setting = make(case)
    if dead:
        with torch.no_grad():
            setting.mlp.fc1.weight[2] = 0
            if setting.mlp.fc1.bias is not None:
                setting.mlp.fc1.bias[2] = -50
        setting.x[:, 1] = 0
        setting = setting._replace(
            curvature=tmb.curvature.Curvature(setting.mlp, setting.x, setting.y, **setting.options)
        )
    c = setting.curvature
    known, exact = known_null(c.ggn_diagonal(), objective_of(setting)), both(setting, ggn=True).null
    if case.activation == "gelu" or (case.activation == "tanh" and not dead):
        assert known == exact
    else:  # relu has others; a dead tanh is −1, as constant as b2's 1; softplus and silu are only nearly 0
        assert known <= exact


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounds_hold(case):
    """Against the whole spectrum: what is at least so is so, and what Lanczos finds is there."""
    setting = make(case)
    for ggn in (False, True):
        exact, found = both(setting, ggn), both(setting, ggn, exact_up_to=0)
        size = abs(exact.largest[0])
        assert found.largest == pytest.approx(exact.largest, abs=1e-6 * size)
        assert found.trace == exact.trace and found.diagonal == exact.diagonal
        assert found.negative <= exact.negative
        assert not found.exact
        assert found.condition is None
        if ggn:
            assert found.null <= exact.null
        else:
            assert found.smallest == pytest.approx(exact.smallest, abs=1e-6 * size)
            assert found.null is None
            assert found.negative >= (exact.negative > 0)


@pytest.mark.parametrize("why", ["fewer outputs than parameters", "relu", "inputs that depend on one another"])
def test_no_condition_is_said_where_null_directions_are_not_known(why):
    """The smallest Ritz value is nearly 0 then: the largest over it would be far more than the condition."""
    rows = 8 if why.startswith("fewer") else 60
    setting = make(Case("relu" if why == "relu" else "tanh", "mse", shape=(rows, 5, 8, 3)))
    if why.startswith("inputs"):
        setting.x[:, 0] = setting.x[:, 1] - setting.x[:, 2]
        setting = setting._replace(curvature=tmb.curvature.Curvature(setting.mlp, setting.x, setting.y, loss="mse"))
    exact, found = both(setting, ggn=True), both(setting, ggn=True, exact_up_to=0)
    assert exact.condition > 1 and exact.null > found.null == 0
    assert found.condition is None


def test_what_does_not_converge_is_not_said(monkeypatch):
    monkeypatch.setattr(module, "MOST_STEPS", 5)
    found = both(make(Case("tanh", shape=LARGE)), ggn=False, exact_up_to=0)
    assert (found.largest, found.smallest) == (None, None)
    assert found.negative > 0  # Ritz values of the density tell it all the same


def test_a_matrix_of_zeros_has_no_condition():
    """Without rows that count there is nothing but null directions."""
    mlp = tmb.MLP(3, 4, 2, dtype=torch.float64)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.full((5,), -100)
    objective = tmb.Objective(mlp, reduction="sum")
    c = tmb.curvature.Curvature(objective, x, y)
    assert flat(c.ggn_diagonal()).abs().max() == 0
    for up_to in (100, 0):
        found = spectrum(c, objective, True, 1, up_to)
        assert (found.condition, found.null) == (None, c.n)


@pytest.mark.parametrize("up_to", [4096, 0], ids=["exact", "products"])
@pytest.mark.parametrize("margin", [36, 700])
def test_what_is_left_of_terms_that_cancel_is_not_taken_for_curvature(margin, up_to):
    """Rows that are all but certain: S_b = diag(p) − p pᵀ is rounding then, and has eigenvalues below 0."""
    mlp = tmb.MLP(3, 4, 3, "tanh", dtype=torch.float64)
    with torch.no_grad():
        mlp.fc2.bias[0] = margin
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.zeros(40, dtype=torch.long)
    objective = tmb.Objective(mlp)
    c = tmb.curvature.Curvature(objective, x, y)
    values = torch.linalg.eigvalsh(c.dense(ggn=True))
    assert values[0] < -c.n * 2**-52 * values[-1]  # what is semidefinite has one, beyond n ε |λ|max
    for ggn in (False, True):
        found = spectrum(c, objective, ggn, 2, up_to)
        assert found.negative == 0
        assert found.rounding >= found.values.abs().max()
        assert found.condition is None


def test_rounding_hides_no_curvature_that_there_is():
    """S_b shrinks with e^−margin, and so do eigenvalues, as long as they are above rounding."""
    mlp = tmb.MLP(3, 4, 3, "tanh", dtype=torch.float64)
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.zeros(40, dtype=torch.long)
    found = []
    for margin in (12, 20):
        with torch.no_grad():
            mlp.fc2.bias[0] = margin
        objective = tmb.Objective(mlp)
        found.append(spectrum(tmb.curvature.Curvature(objective, x, y), objective, True, 4))
        assert (found[-1].null, found[-1].negative) == (5, 0)
    near, far = (torch.tensor(f.largest, dtype=torch.float64) for f in found)
    torch.testing.assert_close(far * torch.e**8, near, rtol=1e-4, atol=0)


@pytest.mark.parametrize("up_to", [4096, 0], ids=["exact", "products"])
def test_second_derivatives_that_are_not_finite_are_refused(up_to):
    """J is finite, and x is, but x² is not."""
    setting = make(Case("tanh", "mse", shape=(5, 3, 4, 2)))
    with torch.no_grad():
        setting.mlp.fc1.weight.mul_(1e-160)
    c = tmb.curvature.Curvature(setting.mlp, setting.x * 1e160, setting.y, loss="mse")
    with pytest.raises(ValueError, match="spectrum: the trace must be finite, got inf"):
        spectrum(c, objective_of(setting), True, 2, up_to)


def test_more_eigenvalues_than_there_are_are_refused():
    with pytest.raises(ValueError, match="spectrum: k must be between 1 and n = 3, got 4"):
        both(make(Case("tanh", "mse", biases=(0, 1), shape=(4, 1, 1, 1))), ggn=False)
