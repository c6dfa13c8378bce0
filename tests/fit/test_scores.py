import math

import pytest
import torch

from torch_manual_bp.fit.scores import accuracy, multilabel_accuracy, r_squared, score

OUTPUTS = torch.tensor([[1.0, -1.0], [0.0, 2.0], [3.0, -3.0], [-1.0, 4.0]])


def test_accuracy_by_hand():
    assert accuracy(OUTPUTS, torch.tensor([0, 1, 1, 1])) == 0.75


def test_multilabel_accuracy_by_hand():
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert multilabel_accuracy(OUTPUTS, y) == 6 / 8


def test_r_squared_by_hand():
    y = torch.tensor([[0.0], [2.0], [4.0]])
    assert r_squared(torch.tensor([[1.0], [2.0], [3.0]]), y) == 1 - 2 / 8


@pytest.mark.parametrize("task", ["regression"])
def test_the_mean_alone_scores_zero_and_the_truth_one(task):
    y = torch.randn(20, 3, dtype=torch.float64)
    assert score(task, y.mean(0).expand_as(y), y) == 0
    assert score(task, y, y) == 1


def test_r_squared_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    y, o = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    expected = metrics.r2_score(y.flatten() - y.mean(0).expand_as(y).flatten(), (o - y.mean(0)).flatten())
    assert r_squared(o, y) == pytest.approx(expected, rel=1e-12)


def test_targets_that_do_not_vary_have_no_r_squared():
    assert math.isnan(r_squared(torch.ones(3, 1), torch.zeros(3, 1)))
