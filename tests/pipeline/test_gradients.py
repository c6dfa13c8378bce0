"""Gradients that wait: nothing is made before it is asked for, each is made once, and sums go where they belong."""

import pytest
import torch
from torch import nn

from torch_manual_bp.pipeline.gradients import WeightGradients


def parameter(*shape, dtype=torch.float64, grad=None):
    p = nn.Parameter(torch.randn(*shape, dtype=dtype))
    p.grad = grad
    return p


def started(**options):
    gradients = WeightGradients()
    gradients.begin(**options)
    return gradients


def test_a_product_is_made_when_its_runner_runs():
    w, b, (do, h) = parameter(2, 3), parameter(2), (torch.randn(4, 2).double(), torch.randn(4, 3).double())
    gradients = started()
    gradients.defer(w, do, h)
    gradients.defer(b, do)
    run = gradients.runner()
    assert w.grad is None
    gradients.runner()()  # a later call's: nothing has been deferred since
    assert w.grad is None
    run()
    torch.testing.assert_close(w.grad, do.T @ h)
    torch.testing.assert_close(b.grad, do.sum(0))
    run()  # what it had is gone
    torch.testing.assert_close(w.grad, do.T @ h)


def test_a_sum_is_added_in_place_and_has_no_graph():
    w = parameter(2, 3, grad=torch.ones(2, 3).double())
    before = w.grad
    do, h = torch.randn(4, 2).double(), torch.randn(4, 3).double().requires_grad_()
    gradients = started()
    gradients.defer(w, do, h)
    gradients.runner()()
    assert w.grad is before
    assert not before.requires_grad
    torch.testing.assert_close(before, 1 + do.T @ h.detach())


def test_short_dtypes_are_summed_in_float32():
    """A thousand times 2⁻⁹ next to 1, which bfloat16 would not notice."""
    w = parameter(1, 1, dtype=torch.bfloat16, grad=torch.ones(1, 1, dtype=torch.bfloat16))
    one, small = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((1, 1), 2.0**-9, dtype=torch.bfloat16)
    gradients = started()
    for b in [one] + [small] * 1024:
        gradients.defer(w, one, b)
    gradients.runner()()
    assert w.grad.item() == 1
    gradients.finish([w], [w], 0.0, None)
    assert w.grad.dtype == torch.bfloat16
    assert w.grad.item() == 1 + 1 + 2


def test_what_is_to_be_reduced_stays_apart_from_what_was_there():
    w = parameter(2, 3, grad=torch.ones(2, 3).double())
    a, b = torch.randn(4, 2).double(), torch.randn(4, 3).double()
    gradients = started(replicas=2)
    gradients.defer(w, a, b)
    gradients.runner()()
    assert torch.equal(w.grad, torch.ones(2, 3).double())
    gradients.finish([w], [], 0.0, None)
    torch.testing.assert_close(w.grad, 1 + a.T @ b)


def test_shards_are_scaled_for_a_mean_and_are_in_grad():
    """FSDP divides by the number of replicas."""
    w, b, (a, c) = parameter(2, 3), parameter(2), (torch.randn(4, 2).double(), torch.randn(4, 3).double())
    gradients = started(replicas=4, sharded=True)
    for _ in range(2):
        gradients.defer(w, a, c)
        gradients.defer(b, a)
        gradients.runner()()
    torch.testing.assert_close(w.grad, 2 * 4 * a.T @ c)
    torch.testing.assert_close(b.grad, 2 * 4 * a.sum(0))


def test_the_penalty_is_added_once_and_to_what_is_trained_alone():
    w1, w2, b = parameter(2, 3), parameter(2, 2).requires_grad_(False), parameter(2)
    gradients = started()
    gradients.add(b, torch.ones(2).double())
    for _ in range(3):
        gradients.defer(w1, torch.zeros(4, 2).double(), torch.zeros(4, 3).double())
    gradients.runner()()
    gradients.finish([w1, w2, b], [w1, w2], 0.5, None)
    torch.testing.assert_close(w1.grad, 0.5 * w1.detach())
    assert w2.grad is None
    assert torch.equal(b.grad, torch.ones(2).double())


def test_a_gradient_that_was_never_made_is_an_error():
    w = parameter(2, 3)
    gradients = started()
    gradients.defer(w, torch.ones(4, 2).double(), torch.ones(4, 3).double())
    with pytest.raises(AssertionError, match="never made"):
        gradients.finish([w], [], 0.0, None)
    gradients.abandon()
    gradients.finish([w], [], 0.0, None)
    assert w.grad is None
