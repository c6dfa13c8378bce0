import pytest
import torch

from torch_manual_bp.equations import ACTIVATIONS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=list(ACTIVATIONS))
def activation(request):
    return request.param
