import numpy as np
import pytest

from torch_manual_bp.fit.dataset import TASKS, Dataset, classes_of

X = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
CLASSES = np.array([0, 1, 0])
TARGETS = np.array([[0.0], [0.5], [1.0]])


def make(**changed):
    given = {"name": "t", "x": X, "y": CLASSES, "task": "classification", "features": ("a", "b"), "outputs": ("n", "p")}
    return Dataset(**(given | changed))


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = {
    "unknown task": ({"task": "ranking"}, ValueError, "task must be one of classification, .* got 'ranking'"),
    "x is a vector": ({"x": X[:, 0]}, ValueError, r"x must have shape \(N, d\).* got \(3,\)"),
    "x has no columns": ({"x": X[:, :0], "features": ()}, ValueError, r"d > 0, got \(3, 0\)"),
    "x of integers": ({"x": X.astype(int)}, TypeError, "x must have a floating-point dtype, got int64"),
    "one row": ({"x": X[:1], "y": CLASSES[:1]}, ValueError, "at least two rows.* got 1"),
    "names that do not fit": ({"features": ("a",)}, ValueError, "x's 2 columns, got 1 names"),
    "NaN in x": ({"x": with_value(X, (1, 0), np.nan)}, ValueError, "x must be finite, got nan in row 1, column 0"),
    "y of int32": ({"y": CLASSES.astype(np.int32)}, TypeError, "dtype int64 for classification, got int32"),
    "too few labels": ({"y": CLASSES[:2]}, ValueError, r"y must have shape \(3,\).* got \(2,\)"),
    "label too large": ({"y": with_value(CLASSES, 2, 2)}, ValueError, r"labels in \[0, 2\), got 2 in row 2"),
    "label negative": ({"y": with_value(CLASSES, 1, -1)}, ValueError, r"labels in \[0, 2\), got -1 in row 1"),
    "a single class": ({"y": 0 * CLASSES, "outputs": ("n",)}, ValueError, "at least two classes, got 1: n"),
    "targets of float32": (
        {"task": "regression", "y": TARGETS.astype(np.float32), "outputs": ("t",)},
        TypeError,
        "float64 for regression, got float32",
    ),
    "targets as a vector": (
        {"task": "regression", "y": TARGETS[:, 0], "outputs": ("t",)},
        ValueError,
        r"y must have shape \(3, 1\) for regression, got \(3,\)",
    ),
    "infinite target": (
        {"task": "regression", "y": with_value(TARGETS, (0, 0), np.inf), "outputs": ("t",)},
        ValueError,
        "y must be finite, got inf in row 0",
    ),
    "multilabel outside [0, 1]": (
        {"task": "multilabel", "y": with_value(TARGETS, (2, 0), 2), "outputs": ("t",)},
        ValueError,
        r"y must lie in \[0, 1\] for multilabel, got 2.0 in row 2",
    ),
}


@pytest.mark.parametrize(("changed", "error", "message"), BAD.values(), ids=BAD)
def test_bad_data_is_refused_by_name(changed, error, message):
    with pytest.raises(error, match=f"Dataset: .*{message}"):
        make(**changed)


@pytest.mark.parametrize(
    ("task", "loss"), [("classification", "cross_entropy"), ("regression", "mse"), ("multilabel", "bce_with_logits")]
)
def test_the_task_decides_the_loss(task, loss):
    y = CLASSES if task == "classification" else TARGETS
    outputs = ("n", "p") if task == "classification" else ("t",)
    assert make(task=task, y=y, outputs=outputs).loss == loss == TASKS[task].loss


LABELS = {
    "text, by alphabet": (["b", "a", "b", "b"], ("a", "b"), [1, 0, 1, 1]),
    "numbers, by size": (["10", "9", "9", "10"], ("9", "10"), [1, 0, 0, 1]),
    "negative numbers": (["1", "-1", "-1", "1"], ("-1", "1"), [1, 0, 0, 1]),
    "few rows": (["1", "2"], ("1", "2"), [0, 1]),
}


@pytest.mark.parametrize(("labels", "names", "y"), LABELS.values(), ids=LABELS)
def test_classes_of(labels, names, y):
    found, index = classes_of(labels, "t")
    assert found == names
    assert index.dtype == np.int64
    assert index.tolist() == y


def test_numbers_that_hardly_repeat_are_no_classes():
    with pytest.raises(ValueError, match=r"t: labels must be classes, got 4 distinct ones in 6 rows.*regression"):
        classes_of(["0.1", "0.2", "0.3", "0.4", "0.4", "0.4"], "t")
