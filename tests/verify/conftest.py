import pytest
import torch

from torch_manual_bp.verify import Setting


@pytest.fixture
def setting():
    """The CPU, at sizes that are quick."""
    return Setting(torch.device("cpu"), sizes=(33, 7, 19, 5), large_elements=2**15, compile_backend="aot_eager")
