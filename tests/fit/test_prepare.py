import numpy as np
import pytest
import torch

from torch_manual_bp.fit import Dataset, load_digits
from torch_manual_bp.fit.prepare import Scale, prepare, split_rows


def labelled(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(y), dtype=np.float64)[:, None]
    return Dataset("t", x, y, "classification", ("a",), tuple(f"c{i}" for i in range(len(counts))))


def test_every_row_is_on_one_side():
    train, out = split_rows(load_digits(), 0.25, 0)
    assert sorted([*train, *out]) == list(range(1797))


def test_each_class_gives_its_share():
    data = labelled([40, 8, 4])
    _, out = split_rows(data, 0.25, 3)
    assert np.bincount(data.y[out]).tolist() == [10, 2, 1]


def test_each_class_keeps_a_row_to_train_on():
    data = labelled([10, 2, 1])
    train, out = split_rows(data, 0.9, 0)
    assert np.bincount(data.y[train]).tolist() == [1, 1, 1]
    assert np.bincount(data.y[out], minlength=3).tolist() == [9, 1, 0]


def test_the_seed_decides(blobs):
    assert split_rows(blobs, 0.3, 1)[1].tolist() == split_rows(blobs, 0.3, 1)[1].tolist()
    assert split_rows(blobs, 0.3, 1)[1].tolist() != split_rows(blobs, 0.3, 2)[1].tolist()


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_outside_is_refused(blobs, share):
    with pytest.raises(ValueError, match=r"held_out must lie in \(0, 1\)"):
        split_rows(blobs, share, 0)


@pytest.mark.parametrize("data", [labelled([1, 1]), labelled([3, 3])], ids=["no class to spare", "a share below a row"])
def test_a_side_without_rows_is_refused(data):
    with pytest.raises(ValueError, match="held_out must leave a row to judge by"):
        split_rows(data, 0.1, 0)


def test_scale_worked_by_hand():
    scale = Scale.of(np.array([[1.0, 7.0], [3.0, 7.0]]))
    assert scale.apply(np.array([[4.0, 8.0]])).tolist() == [[2.0, 1.0]]  # mean 2 and deviation 1; mean 7 and constant


def test_a_constant_column_is_found_in_spite_of_rounding():
    column = np.full((1000, 1), 0.1) * 3
    assert column.std() > 0  # what a test for zero would miss
    assert Scale.of(column).spread.tolist() == [1.0]


def test_undo_is_the_inverse(plane):
    scale = Scale.of(plane.x)
    np.testing.assert_allclose(scale.undo(scale.apply(plane.x)), plane.x, rtol=1e-14, atol=1e-13)


def test_nothing_of_the_held_out_rows_leaks_into_the_scale(plane):
    _, out = split_rows(plane, 0.25, 0)
    x, y = plane.x.copy(), plane.y.copy()
    x[out], y[out] = 1e9, -1e9
    other = Dataset("other", x, y, plane.task, plane.features, plane.outputs)
    for before, after in zip(_scales(prepare(plane)), _scales(prepare(other)), strict=True):
        np.testing.assert_array_equal(before, after)


def _scales(data):
    return data.x_scale.mean, data.x_scale.spread, data.y_scale.mean, data.y_scale.spread


def test_training_rows_have_mean_0_and_deviation_1(any_data):
    data = prepare(any_data, dtype=torch.float64)
    torch.testing.assert_close(data.x.mean(0), torch.zeros_like(data.x[0]), rtol=0, atol=1e-14)
    torch.testing.assert_close(data.x.std(0, correction=0), torch.ones_like(data.x[0]))


def test_labels_get_the_dtype_that_the_loss_takes(any_data):
    data = prepare(any_data, dtype=torch.float32)
    assert data.x.dtype is data.x_held_out.dtype is torch.float32
    assert data.y.dtype is (torch.int64 if any_data.task == "classification" else torch.float32)


def test_only_targets_of_a_regression_are_scaled(flags):
    data = prepare(flags)
    assert data.y_scale is None
    assert set(data.y.unique().tolist()) == {0.0, 1.0}


def test_the_users_arrays_stay_as_they_were(plane):
    x = plane.x.copy()
    prepare(plane)
    np.testing.assert_array_equal(plane.x, x)
    assert plane.x.flags.writeable
