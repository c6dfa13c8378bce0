"""Data sets from what scikit-learn ships, from NPZ files, and from whatever a path's ending says."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .csv_file import Column, load_csv
from .dataset import Array, Dataset, classes_of, task_named

_FEATURES = ("x", "features", "data")
_LABELS = ("y", "labels", "target")
CSV_ENDINGS = (".csv", ".tsv", ".txt")


def load_digits() -> Dataset:
    """1797 handwritten digits of 8×8 grey values in 0 … 16, which come with scikit-learn (from the UCI repository).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    x, y = digits.data.astype(np.float64), digits.target.astype(np.int64)
    return Dataset("digits", x, y, "classification", tuple(digits.feature_names), tuple(map(str, digits.target_names)))


def load_npz(path: str | Path, task: str = "classification") -> Dataset:
    """The data set in an NPZ file with the arrays x and y (or features and labels, or data and target).

    Args:
        path: the file. x has shape (N, …), of any real dtype; everything behind N is flattened into d features. y has
            shape (N,) or (N, 1): integers, whole numbers or strings for classification; or (N,) or (N, q) numbers.
        task: "classification", "regression" or "multilabel".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no NPZ file, an array is missing (the message lists those found), shapes or values that do not fit.
        TypeError: a dtype that holds no real numbers.
    """
    task_named(task, "load_npz")
    path = Path(path)
    x, y = npz_arrays(path)
    features = tuple(f"x{i}" for i in range(x.shape[1]))
    if task == "classification":
        outputs, y = classes_of(class_texts(path, y), f"{path}: y")
    else:
        y = targets(path, y)
        outputs = tuple(f"y{i}" for i in range(y.shape[1]))
    return Dataset(path.stem, x, y, task, features, outputs)


def npz_arrays(path: Path) -> tuple[Array, Array]:
    """Features (N,d), floating point, and labels (N, …), as they are, of an NPZ file; raises what `load_npz` does."""
    x, y = _arrays(path)
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{path}: x must hold real numbers, got dtype {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"{path}: x must have shape (N, …), a row for each example, got {x.shape}")
    if y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{path}: y must have a label for each of the {len(x)} rows of x, got shape {y.shape}")
    x = x.reshape(len(x), -1)
    return x.astype(np.float64) if x.dtype != np.float32 else x, y


def load(
    source: str | Path,
    label: Column | Sequence[Column] = -1,
    task: str = "classification",
    *,
    drop: Sequence[Column] = (),
    delimiter: str | None = None,
    header: bool | None = None,
) -> Dataset:
    """``"digits"``, or the data set in a .csv, .tsv, .txt or .npz file; the options are those of `load_csv`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending; and all of `load_csv` and `load_npz`.
    """
    if str(source) == "digits":
        return load_digits()
    path = Path(source)
    if path.suffix.lower() in CSV_ENDINGS:
        return load_csv(path, label, task, drop=drop, delimiter=delimiter, header=header)
    if path.suffix.lower() == ".npz":
        return load_npz(path, task)
    raise ValueError(f"load: data must be 'digits' or end in {', '.join((*CSV_ENDINGS, '.npz'))}; got {str(source)!r}")


def class_texts(path: Path, y: Array) -> list[str]:
    """Labels (N,) or (N,1) of classes as texts, N of them; raises what `load_npz` does."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"{path}: y must have shape ({len(y)},) for classification, got {y.shape}")
    if y.dtype.kind == "S":
        return [label.decode() for label in y]
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y))
        if not whole.all():
            row = int(np.argmin(whole))
            raise ValueError(
                f"{path}: y must hold whole numbers or strings for classification, got {y[row]} in row {row}; "
                "for numbers to be predicted the task is regression"
            )
        y = y.astype(np.int64)
    if y.dtype.kind not in "biuU":
        raise TypeError(f"{path}: y must hold whole numbers or strings for classification, got dtype {y.dtype}")
    return [str(label) for label in y.tolist()]


def targets(path: Path, y: Array) -> Array:
    """Targets (N,q), float64, of (N,) or (N,q) numbers; raises what `load_npz` does."""
    if y.dtype.kind not in "biuf":
        raise TypeError(f"{path}: y must hold real numbers, got dtype {y.dtype}")
    if y.ndim > 2:
        raise ValueError(f"{path}: y must have shape ({len(y)},) or ({len(y)}, q), got {y.shape}")
    return y.reshape(len(y), -1).astype(np.float64)


def _arrays(path: Path) -> tuple[Array, Array]:
    with path.open("rb") as file:  # opened here, so that a missing file is a FileNotFoundError
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path}: expected an NPZ file (numpy.savez), got something else")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                names = {name.lower(): name for name in archive.files}
                found = [next((names[n] for n in wanted if n in names), None) for wanted in (_FEATURES, _LABELS)]
                if None in found:
                    raise ValueError(f"expected the arrays x and y (or features and labels), got {archive.files}")
                x, y = (archive[name] for name in found if name is not None)
        except (ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: {error}") from error
    return x, y
