"""Labelled rows for a model that is there already: its features, its classes, its targets, found in a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .csv_file import Column, CsvFile, listed
from .dataset import Array, Dataset
from .model_file import Model
from .sources import CSV_ENDINGS, class_texts, load_digits, npz_arrays, targets


def load_labelled(
    model: Model, source: str | Path, label: Sequence[Column] = (), *,
    delimiter: str | None = None, header: bool | None = None,
) -> Dataset:  # fmt: skip
    """The rows of ``"digits"`` or of a .csv, .tsv, .txt or .npz file, with the model's own features and outputs.

    Args:
        model: says which features and which classes or targets there are, and in which order.
        source: where the rows are. A CSV file with a header may have more columns, in any order; the features of an NPZ
            file, whose columns have no names, are the model's in order.
        label: CSV: the columns of the labels, by name or number; if not given, the columns that are called as the
            model's targets, or, for classes, the last one.
        delimiter: as of `load_csv`.
        header: as of `load_csv`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a feature or a target is missing, a label that is none of the model's classes, a
            cell that is no finite number; the message says which.
    """
    if str(source) == "digits":
        x, y = _of_digits(model)
        return Dataset("digits", x, y, model.task, model.features, model.outputs)
    path = Path(source)
    if path.suffix.lower() in CSV_ENDINGS:
        x, y = _of_csv(model, CsvFile(path, delimiter, header), label)
    elif path.suffix.lower() == ".npz":
        x, y = _of_npz(model, path)
    else:
        endings = ", ".join((*CSV_ENDINGS, ".npz"))
        raise ValueError(f"load_labelled: data must be 'digits' or end in {endings}; got {str(source)!r}")
    return Dataset(path.stem, x, y, model.task, model.features, model.outputs)


def _of_digits(model: Model) -> tuple[Array, Array]:
    digits = load_digits()
    if digits.features != model.features:
        raise ValueError(f"digits: the model's features must be {listed(digits.features)}; "
                         f"got {listed(model.features)}")  # fmt: skip
    if model.task != digits.task:
        raise ValueError(f"digits: the model's task must be {digits.task}, got {model.task}")
    return digits.x, _indices(model, [digits.outputs[k] for k in digits.y], "digits")


def _of_csv(model: Model, file: CsvFile, label: Sequence[Column]) -> tuple[Array, Array]:
    classes, q = model.task == "classification", len(model.outputs)
    if not label:
        label = (-1,) if classes else model.outputs
    if len(label) != (1 if classes else q):
        file.fail(f"label must be {'one column' if classes else f'{q} columns'} for this model, got {len(label)}")
    labels = [file.position(column, "label") for column in label]
    features = file.features(model.features, labels)
    if classes:
        x, (texts,) = file.read(features, labels)
        return np.array(x), _indices(model, texts, f"{file.path}: column {file.names[labels[0]]!r}")
    numbers, _ = file.read([*features, *labels])
    return np.array(numbers[:, : len(features)]), np.array(numbers[:, len(features) :])


def _of_npz(model: Model, path: Path) -> tuple[Array, Array]:
    x, y = npz_arrays(path)
    d, q = len(model.features), len(model.outputs)
    if x.shape[1] != d:
        raise ValueError(f"{path}: x must have the model's {d} features, got {x.shape[1]}")
    if model.task == "classification":
        return x, _indices(model, class_texts(path, y), f"{path}: y")
    y = targets(path, y)
    if y.shape[1] != q:
        raise ValueError(f"{path}: y must have the model's {q} targets, got {y.shape[1]}")
    return x, y


def _indices(model: Model, texts: Sequence[str], where: str) -> Array:
    """Each label's place among the model's classes, shape (N,), int64."""
    index = {name: k for k, name in enumerate(model.outputs)}
    for row, text in enumerate(texts):
        if text not in index:
            raise ValueError(f"{where}: a label must be one of the model's classes {listed(model.outputs)}; "
                             f"got {text!r} in row {row}")  # fmt: skip
    return np.fromiter(map(index.__getitem__, texts), np.int64, len(texts))
