"""Eigenvalues, low-rank approximations and the operator for scipy, against the whole matrix."""

import pytest
import torch

from torch_manual_bp.curvature.lanczos import lanczos

from .conftest import Case, flat, make
from .test_curvature import assert_equal

ORDER = {"LM": lambda t: t[t.abs().argsort(descending=True)], "LA": lambda t: t.flip(0), "SA": lambda t: t}


@pytest.mark.parametrize("which", ORDER)
@pytest.mark.parametrize("ggn", [False, True], ids=["hessian", "ggn"])
def test_eigenvalues(which, ggn):
    c = make(Case("gelu", weight_decay=0.1, shape=(20, 6, 7, 4))).curvature
    H = c.dense(ggn=ggn)
    values, vectors = c.eigsh(4, which=which, ggn=ggn)
    # an error of the eigenvalue is at most the residual, ε^⅔ of the largest
    expected = ORDER[which](torch.linalg.eigvalsh(H))
    size = expected.abs().max()
    if not ggn or which != "SA":  # (the GGN's smallest one, λ or 0, is there many times)
        assert (values - expected[:4]).abs().max() < 1e-9 * size
    assert (H @ vectors - values * vectors).norm(dim=0).max() < 1e-9 * size
    assert (vectors.T @ vectors - torch.eye(4)).abs().max() < 1e-12


def test_a_matrix_with_few_distinct_eigenvalues_is_exhausted():
    H = torch.diag(torch.tensor([3.0, 3, 2] + [1.0] * 97, dtype=torch.float64))
    products = []
    values, vectors = lanczos(
        lambda v: products.append(v) or H @ v, lambda: torch.randn(100, dtype=torch.float64), 4, "LA", 1e-10, 100
    )
    assert_equal(values, torch.tensor([3.0, 3, 2, 1], dtype=torch.float64))
    assert_equal(H @ vectors, values * vectors)
    assert len(products) < 12  # three distinct ones, then two of what is left, then 1 once more or twice


def test_all_of_a_small_spectrum():
    c = make(Case("tanh", "bce_with_logits", shape=(5, 2, 2, 1))).curvature
    assert_equal(c.eigsh(c.n, which="SA")[0], torch.linalg.eigvalsh(c.dense()))


def test_float32():
    c = make(Case("tanh", shape=(30, 8, 9, 4)), dtype=torch.float32).curvature
    expected = torch.linalg.eigvalsh(c.dense().double()).abs().max()
    assert abs(c.eigsh(3)[0][0].abs() - expected) < 1e-4 * expected


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, ValueError, "eigsh: k must be an int between 1 and n = 43, got 0"),
        ({"k": 2.5}, ValueError, "eigsh: k must be an int between 1 and n = 43, got 2.5"),
        ({"k": 6, "max_steps": 3}, ValueError, "eigsh: k must be an int between 1 and max_steps = 3, got 6"),
        ({"which": "BE"}, ValueError, "eigsh: which must be one of LM, LA, SA; got 'BE'"),
        ({"k": 3, "max_steps": 4}, RuntimeError, "eigsh: the residuals of 3 eigenvalues must fall to .* in 4 products"),
    ],
    ids=["k", "no int", "fewer steps", "which", "steps"],
)
def test_what_it_cannot_do_it_says(options, error, words):
    with pytest.raises(error, match=words):
        make(Case()).curvature.eigsh(**options)


@pytest.mark.parametrize("ggn", [False, True], ids=["hessian", "ggn"])
def test_low_rank_with_its_diagonal(ggn):
    c = make(Case("silu", weight_decay=0.1)).curvature
    H, near = c.dense(ggn=ggn), c.low_rank(5, ggn=ggn)
    assert_equal(near.dense().diagonal(), H.diagonal())
    v = torch.randn(c.n, 2, dtype=torch.float64)
    assert_equal(near.times(v), near.dense() @ v)
    assert_equal(near.times(v[:, 0]), near.dense() @ v[:, 0])
    left_out = ORDER["LM"](torch.linalg.eigvalsh(H))[5:]  # ‖H − U Λ Uᵀ‖², and off the diagonal there is less
    assert (near.dense() - H).norm() < left_out.norm()
    assert_equal(c.low_rank(c.n, ggn=False).dense(), c.dense())


def test_scipy():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    c = make(Case("gelu", weight_decay=0.1)).curvature
    for ggn in (False, True):
        operator, H = c.to_scipy(ggn=ggn), c.dense(ggn=ggn)
        v, V = torch.randn(c.n, dtype=torch.float64), torch.randn(c.n, 3, dtype=torch.float64)
        assert_equal(torch.from_numpy(operator @ v.numpy()), H @ v)
        assert_equal(torch.from_numpy(operator @ V.numpy()), H @ V)
        assert_equal(torch.from_numpy(operator.T @ V.numpy()), H @ V)
        assert abs(linalg.eigsh(operator, 1, which="LA")[0][0] - torch.linalg.eigvalsh(H)[-1]) < 1e-9


def test_diagonal_of_float32_is_kept_by_low_rank():
    c = make(Case("tanh", weight_decay=0.1), dtype=torch.float32).curvature
    torch.testing.assert_close(c.low_rank(3).dense().diagonal(), flat(c.diagonal()))
