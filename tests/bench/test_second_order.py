"""Every candidate computes the same numbers as the others."""

import pytest
import torch
from torch.func import hessian

from torch_manual_bp.bench import second_order
from torch_manual_bp.bench.problem import Problem

SHAPE = (8, 5, 7, 3)  # n = 66


@pytest.fixture(params=["tanh", "relu"])
def problem(request):
    return Problem(SHAPE, request.param, torch.float64)


@pytest.fixture
def H(problem):
    theta, L = second_order._flat(problem)
    return hessian(L)(theta)


def flat(parts):
    parts = parts.values() if isinstance(parts, dict) else parts
    return torch.cat([part.flatten() for part in parts])


def assert_equal(ours, theirs, name):
    assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max(), name


def test_all_products_are_the_same_product(problem, H):
    expected = H @ flat(second_order._direction(problem))
    candidates = {c.name: c for c in (*second_order.closed_forms(problem), *second_order.double_backward(problem))}
    for name in (second_order.PRODUCT, second_order.CACHED, second_order.DOUBLE, second_order.RETAINED):
        for _ in range(2):  # as often as it is timed
            assert_equal(flat(candidates[name].call()), expected, name)


def test_all_diagonals_are_the_same_and_come_with_the_gradient(problem, H):
    expected = flat(second_order.gradient(problem).call())
    diagonal = next(c for c in second_order.closed_forms(problem) if c.name == second_order.DIAGONAL)
    for candidate in (diagonal, second_order.backpack_diagonal(problem)):
        for _ in range(2):
            gradient, d2 = candidate.call()
            assert_equal(flat(gradient), expected, candidate.name)
            assert_equal(flat(d2), H.diagonal(), candidate.name)


def test_the_trace_is_the_trace(problem, H):
    trace = next(c for c in second_order.closed_forms(problem) if c.name == second_order.TRACE)
    assert_equal(trace.call(), H.trace(), "trace")


def test_all_matrices_are_the_same_matrix(problem, H):
    candidates = list(second_order.matrices(problem, chunks=(10,)))
    assert [c.name for c in candidates] == [
        second_order.DENSE, second_order.FUNC, "torch.func, 10 rows at a time", second_order.FUNCTIONAL,
        f"{second_order.FUNCTIONAL}, vectorized", second_order.CURVLINOPS,
    ]  # fmt: skip
    for candidate in candidates:
        assert_equal(candidate.call(), H, candidate.name)


def test_one_pass_is_a_row(problem, H):
    assert_equal(second_order.one_pass_of_n(problem).call()[0], H[0], "one pass")
