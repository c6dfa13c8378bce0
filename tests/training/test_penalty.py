"""The penalty λ/2 (‖W1‖² + ‖W2‖²) of many weights."""

import pytest
import torch
from torch.nn import functional as F

import torch_manual_bp as tmb


@pytest.mark.parametrize("tile_rows", ["auto", 1])
def test_it_is_as_accurate_as_torchs_own_sum(tile_rows):
    """A norm of all weights at once adds millions of squares one after another on a CPU: 5e-4 off here."""
    objective = tmb.Objective(tmb.MLP(1024, 4096, 3), weight_decay=1.0)
    x, y = torch.randn(2, 1024), torch.tensor([0, 1])
    w1, w2 = (layer.weight.detach().double() for layer in (objective.mlp.fc1, objective.mlp.fc2))
    expected = F.cross_entropy(objective.mlp(x), y).double() + (w1.square().sum() + w2.square().sum()) / 2
    J = objective.accumulate_grad(x, y, tile_rows=tile_rows)
    assert abs(J.double() - expected) <= 1e-6 * expected
