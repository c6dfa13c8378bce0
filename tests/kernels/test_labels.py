import pytest
import torch

from torch_manual_bp import kernels


@pytest.mark.parametrize("B", [0, 1, 7, 1000])
def test_good_labels(backend, B):
    y = torch.randint(10, (B,))
    y[::3] = -100
    assert kernels.find_bad_label(y, 10, -100) == -1


@pytest.mark.parametrize("bad", [10, -1, -101, 2**62, -(2**63)])
@pytest.mark.parametrize("row", [0, 6, 999])
def test_the_first_bad_label_is_found(backend, bad, row):
    y = torch.randint(10, (1000,))
    y[row] = bad
    y[row + 1 :: 5] = 11  # later ones do not hide it
    assert kernels.find_bad_label(y, 10, -100) == row


def test_ignore_index_may_be_a_class_or_beyond(backend):
    assert kernels.find_bad_label(torch.tensor([3, 12, 3]), 10, 12) == -1
    assert kernels.find_bad_label(torch.tensor([3, 12, 13]), 10, 12) == 2


def test_meta_has_no_labels():
    assert kernels.find_bad_label(torch.empty(5, dtype=torch.int64, device="meta"), 10, -100) == -1


def test_other_tensors_are_refused(compiled):
    with pytest.raises(RuntimeError, match="target must be a contiguous 1-d int64 tensor"):
        kernels.find_bad_label(torch.zeros(5), 10, -100)


def test_opcheck(device_kernels):
    torch.library.opcheck(device_kernels.find_bad_label.default, (torch.randint(5, (9,)), 5, -100))
