"""Labelled rows for a model: found by its names, in its order, or refused by name."""

import numpy as np
import pytest

from torch_manual_bp.fit import Model, Settings, Training, load_csv, load_labelled, load_model, torch_file

SMALL = Settings(hidden=4, epochs=1, batch_size=30, weight_decay=0.25)


def trained(dataset, tmp_path):
    training = Training(dataset, SMALL, compare=False)
    for _ in training.steps():
        pass
    path = tmp_path / "model.pt"
    path.write_bytes(Model.trained(training.mlp, dataset, training.data, SMALL.weight_decay).to_bytes())
    return load_model(path), training


def written(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_tensors_are_those_that_the_net_was_trained_on(any_data, tmp_path):
    """An NPZ file of the training rows gives the very tensors that training saw, labels and scaling included."""
    model, training = trained(any_data, tmp_path)
    data = training.data
    rows = np.array([i for i, row in enumerate(any_data.x) if (model.x_scale.apply(row).astype(np.float32)
                     == data.x.numpy()).all(1).any()])  # fmt: skip
    y = any_data.y[rows]
    np.savez(tmp_path / "rows.npz", x=any_data.x[rows],
             y=np.array(any_data.outputs)[y] if any_data.task == "classification" else y)  # fmt: skip
    x, labels = model.tensors(load_labelled(model, tmp_path / "rows.npz"))
    assert x.equal(data.x) and labels.equal(data.y)
    assert model.weight_decay == 0.25


def test_columns_are_found_by_name_and_classes_by_text(blobs, tmp_path):
    model, _ = trained(blobs, tmp_path)
    path = written(tmp_path, "id;v;colour;u\na;1;blue;2\nb;3;red;4\nc;5;blue;6\n")
    dataset = load_labelled(model, path, ["colour"])
    assert dataset.x.tolist() == [[2, 1], [4, 3], [6, 5]]
    assert [blobs.outputs[k] for k in dataset.y] == ["blue", "red", "blue"]  # of three classes only two are there


def test_targets_are_found_by_their_names(plane, tmp_path):
    model, _ = trained(plane, tmp_path)
    path = written(tmp_path, "t,a,b,c,s\n1,2,3,4,5\n6,7,8,9,10\n")
    dataset = load_labelled(model, path)
    assert dataset.y.tolist() == [[5, 1], [10, 6]]
    assert dataset.x.tolist() == [[2, 3, 4], [7, 8, 9]]


def test_a_file_without_a_header_is_read_as_it_was_for_training(tmp_path):
    """The label in front, a column dropped: both are known by number."""
    rows = "".join(f"{'ab'[i % 2]},{i},{10 * i},{i * i}\n" for i in range(1, 13))
    path = written(tmp_path, rows)
    given = load_csv(path, 0, drop=[2], header=False)
    model, _ = trained(given, tmp_path)
    again = load_labelled(model, path, [0], header=False)
    assert again.x.tolist() == given.x.tolist() and again.y.tolist() == given.y.tolist()


CSV = {
    "a class it does not know": ("u,v,kind\n1,2,red\n1,2,pink\n", (), "column 'kind': a label must be one of the "
                                 "model's classes 'red', 'green', 'blue'; got 'pink' in row 1"),
    "a missing feature": ("u,w,kind\n1,2,red\n", (), "a column for each feature of the model, got none for 'v'"),
    "the label is a feature": ("kind,u,v\nred,1,2\n", (), "feature of the model beside the label, got none for 'v'"),
    "two labels": ("u,v,kind\n1,2,red\n", ("kind", "u"), "label must be one column for this model, got 2"),
    "no such label": ("u,v,kind\n1,2,red\n", ("colour",), "label must be one of the columns 'u', 'v', 'kind'"),
    "a cell that is no number": ("u,v,kind\n1,x,red\n", (), "line 2, column 'v': expected a number, got 'x'"),
    "more columns and no header": ("1,2,3,red\n", (), "expected 2 columns, one for each feature of the model, got 3"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "label", "message"), CSV.values(), ids=CSV)
def test_what_does_not_fit_is_refused_by_name(blobs, tmp_path, text, label, message):
    model, _ = trained(blobs, tmp_path)
    with pytest.raises(ValueError) as error:
        load_labelled(model, written(tmp_path, text), label)
    assert message in str(error.value)


def test_arrays_that_do_not_fit_are_refused(plane, blobs, tmp_path):
    path = tmp_path / "rows.npz"
    for dataset, x, y, message in (
        (plane, np.ones((3, 4)), np.ones((3, 2)), "x must have the model's 3 features, got 4"),
        (plane, np.ones((3, 3)), np.ones(3), "y must have the model's 2 targets, got 1"),
        (plane, np.full((3, 3), np.nan), np.ones((3, 2)), "x must be finite, got nan in row 0, column 0"),
        (blobs, np.ones((3, 2)), np.arange(3), "y: a label must be one of the model's classes 'red', 'green', 'blue'; "
         "got '0' in row 0"),
    ):  # fmt: skip
        np.savez(path, x=x, y=y)
        with pytest.raises(ValueError) as error:
            load_labelled(trained(dataset, tmp_path)[0], path)
        assert message in str(error.value)


def test_the_digits_are_for_nets_of_the_digits(blobs, tmp_path):
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=r"digits: the model's features must be 'pixel_0_0', .* got 'u', 'v'"):
        load_labelled(trained(blobs, tmp_path)[0], "digits")
    with pytest.raises(ValueError, match="data must be 'digits' or end in"):
        load_labelled(trained(blobs, tmp_path)[0], "rows.xlsx")


def test_a_file_of_the_first_versions_has_no_weight_decay(blobs, tmp_path):
    trained(blobs, tmp_path)
    content = torch_file.read(tmp_path / "model.pt", "a model file")
    del content["weight_decay"]
    (tmp_path / "old.pt").write_bytes(torch_file.to_bytes(content))
    assert load_model(tmp_path / "old.pt").weight_decay is None
