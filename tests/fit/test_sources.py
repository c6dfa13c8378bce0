import numpy as np
import pytest

from torch_manual_bp.fit.sources import load, load_digits, load_npz

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "t.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_the_digits_are_the_ones_known():
    digits = load_digits()
    assert digits.x.shape == (1797, 64)
    assert (digits.x.min(), digits.x.max()) == (0, 16)
    assert digits.outputs == tuple("0123456789")
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI lists them


LABELS = {
    "integers": (np.array([7, 3, 7]), ("3", "7"), [1, 0, 1]),
    "a column": (np.array([[7], [3], [7]]), ("3", "7"), [1, 0, 1]),
    "whole floats": (np.array([7.0, 3.0, 7.0]), ("3", "7"), [1, 0, 1]),
    "strings": (np.array(["x", "a", "x"]), ("a", "x"), [1, 0, 1]),
    "bytes": (np.array([b"x", b"a", b"x"]), ("a", "x"), [1, 0, 1]),
    "booleans": (np.array([True, False, True]), ("False", "True"), [1, 0, 1]),
    "unsigned": (np.array([7, 3, 7], np.uint8), ("3", "7"), [1, 0, 1]),
}


@pytest.mark.parametrize(("y", "outputs", "index"), LABELS.values(), ids=LABELS)
def test_labels_of_every_kind(npz, y, outputs, index):
    data = load_npz(npz(x=X, y=y))
    assert data.outputs == outputs
    assert data.y.tolist() == index


@pytest.mark.parametrize("names", [("x", "y"), ("X", "Y"), ("features", "labels"), ("data", "target")])
def test_names_of_the_arrays(npz, names):
    data = load_npz(npz(**dict(zip(names, (X, np.array([0, 1, 0])), strict=True))))
    assert data.x.tolist() == X.tolist()
    assert data.y.tolist() == [0, 1, 0]


def test_images_are_flattened_and_their_dtype_kept_where_it_can_be(npz):
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert load_npz(npz(x=images, y=[0, 1, 0])).x.tolist() == images.reshape(3, 8).tolist()
    assert load_npz(npz(x=X.astype(np.float32), y=[0, 1, 0])).x.dtype == np.float32


@pytest.mark.parametrize(("y", "shape"), [([1.5, 2, 3], (3, 1)), ([[1, 2], [3, 4], [5, 6]], (3, 2))])
def test_targets(npz, y, shape):
    data = load_npz(npz(x=X, y=np.array(y)), "regression")
    assert data.y.shape == shape
    assert data.y.tolist() == np.array(y, float).reshape(shape).tolist()


CLASSES = "classification"
BAD = {
    "no labels": ({"x": X, "z": [1]}, CLASSES, ValueError, r"arrays x and y .* got \['x', 'z'\]"),
    "pickled objects": ({"x": np.array([{}, {}]), "y": [0, 1]}, CLASSES, ValueError, "t.npz: .*[Oo]bject"),
    "text as features": ({"x": np.array([["a"]] * 3), "y": [0, 1, 0]}, CLASSES, TypeError, "real numbers, got"),
    "complex features": ({"x": X + 1j, "y": [0, 1, 0]}, CLASSES, TypeError, "real numbers, got dtype complex128"),
    "a vector of features": ({"x": X[:, 0], "y": [0, 1, 0]}, CLASSES, ValueError, r"shape \(N, …\).* got \(3,\)"),
    "rows that differ": ({"x": X, "y": [0, 1]}, CLASSES, ValueError, r"each of the 3 rows of x, got shape \(2,\)"),
    "a scalar label": ({"x": X, "y": 1}, CLASSES, ValueError, r"3 rows of x, got shape \(\)"),
    "fractions as classes": (
        {"x": X, "y": [0, 0.5, 1]}, CLASSES, ValueError, "whole numbers or strings.* got 0.5 in row 1;.*regression",
    ),
    "NaN as a class": ({"x": X, "y": [0, np.nan, 1]}, CLASSES, ValueError, "got nan in row 1"),
    "one-hot classes": ({"x": X, "y": np.eye(3)}, CLASSES, ValueError, r"shape \(3,\).* got \(3, 3\)"),
    "NaN feature": ({"x": X * [1, np.nan], "y": [0, 1, 0]}, CLASSES, ValueError, "got nan in row 0, column 1"),
    "text targets": ({"x": X, "y": ["a", "b", "c"]}, "regression", TypeError, "y must hold real numbers"),
    "deep targets": ({"x": X, "y": np.zeros((3, 2, 2))}, "regression", ValueError, r"\(3, q\), got \(3, 2, 2\)"),
    "unknown task": ({"x": X, "y": [0, 1, 0]}, "ranking", ValueError, "task must be one of"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "task", "error", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_by_name(npz, arrays, task, error, message):
    with pytest.raises(error, match=message):
        load_npz(npz(**arrays), task)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t.npz: expected an NPZ file"):
        load_npz(path)


def test_a_damaged_archive_is_refused(npz):
    path = npz(x=X, y=[0, 1, 0])
    content = bytearray(path.read_bytes())
    content[150:160] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t.npz: "):
        load_npz(path)


def test_the_ending_decides(tmp_path, npz):
    assert load(npz(x=X, y=[0, 1, 0])).name == "t"
    for ending in (".csv", ".tsv", ".txt", ".CSV"):
        path = tmp_path / f"u{ending}"
        path.write_text("a\ty\n1\t0\n2\t1\n")
        assert load(path).features == ("a",)
    assert load("digits").name == "digits"
    with pytest.raises(ValueError, match=r"data must be 'digits' or end in .csv, .* got 'mnist'"):
        load("mnist")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")
