"""Data sets from CSV files: one example a record, with or without a header, read as a stream.

Every error names the file and, where there is one, the line and the column.
"""

import csv
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from .dataset import Array, Dataset, classes_of, is_number, task_named

Column = str | int

_DELIMITERS = ",;\t|"
_SAMPLE = 20  # records looked at to find the delimiter


class CsvFile:
    """A CSV file whose delimiter and column names are known; its records have not been read yet.

    Attributes:
        names: the columns' names; "column 0", "column 1", … where there is no header.
        header: whether the first record is one.

    Args:
        path: the file, UTF-8.
        delimiter: one character; None finds out whether it is a comma, a semicolon, a tab or a bar.
        header: None takes the first record for a header if no cell of it is a number.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty file, no UTF-8, or no CSV.
    """

    def __init__(self, path: str | Path, delimiter: str | None = None, header: bool | None = None) -> None:
        self.path = Path(path)
        if delimiter is not None and len(delimiter) != 1:
            raise ValueError(f"csv: delimiter must be one character, got {delimiter!r}")
        self.delimiter = delimiter or self._find_delimiter()
        first = next(self._records(), None)
        if first is None:
            raise ValueError(f"{self.path}: expected rows of numbers, got an empty file")
        cells = [cell.strip() for cell in first[1]]
        self.guessed = header is None
        self.header = not any(map(is_number, cells)) if header is None else header
        self.names = tuple(cells) if self.header else tuple(f"column {i}" for i in range(len(cells)))
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"{self.path}: the header must name each column once, got {twice!r} more than once")

    def position(self, column: Column, argument: str) -> int:
        """Where a column stands, given by name, or by number from 0 (from the end: -1).

        Raises:
            ValueError: there is no such column.
        """
        if column in self.names:
            return self.names.index(str(column))
        count = len(self.names)
        try:
            number = int(column)
        except ValueError:
            number = count
        if not -count <= number < count:
            self.fail(f"{argument} must be one of the columns {listed(self.names)}, or a number in [{-count}, {count})"
                      f", got {column!r}")  # fmt: skip
        return number % count

    def features(self, names: Sequence[str], labels: Sequence[int] = ()) -> list[int]:
        """Where a model's features stand: by name where there is a header, else the columns in order.

        Args:
            names: what the model calls them.
            labels: positions of columns that are no features.

        Raises:
            ValueError: one is missing or is a label, or without a header there are more or fewer columns.
        """
        rest = [i for i in range(len(self.names)) if i not in labels]
        if not self.header and len(rest) == len(names):
            return rest
        found = {self.names[i]: i for i in rest}
        # without a header names are numbers, which tell where the features are in a file like the one trained on
        if (self.header or labels) and set(names) <= set(found):
            return [found[name] for name in names]
        if not self.header:
            self.fail(f"expected {len(names)} columns, one for each feature of the model, got {len(rest)}")
        missing = [name for name in names if name not in found]
        twice = " beside the label" if set(missing) & {self.names[i] for i in labels} else ""
        self.fail(f"expected a column for each feature of the model{twice}, got none for {listed(missing)}")

    def read(self, numeric: Sequence[int], text: Sequence[int] = ()) -> tuple[Array, list[list[str]]]:
        """Columns at the positions ``numeric`` as float64, shape (N, len(numeric)), and those at ``text``, a list each.

        Raises:
            ValueError: no rows, a row of another length, a cell that is empty, no number, NaN or infinite.
        """
        values, texts, lines = array("d"), [[] for _ in text], array("q")  # type: ignore[var-annotated]
        width = len(self.names)
        for line, record in islice(self._records(), int(self.header), None):
            if len(record) != width:
                self.fail(f"line {line}: expected {width} cells as in the first line, got {len(record)}")
            try:
                values.extend(map(float, [record[i] for i in numeric]))
            except ValueError:
                self._fail_at_cell(line, record, numeric)
            for column, i in zip(texts, text, strict=True):
                if not (cell := record[i].strip()):
                    self.fail(f"line {line}, column {self.names[i]!r}: expected a label, got an empty cell")
                column.append(cell)
            lines.append(line)
        if not lines:
            self.fail("expected rows below the header, got none")
        numbers = np.frombuffer(values, np.float64).reshape(len(lines), len(numeric))
        bad = np.argwhere(~np.isfinite(numbers))
        if len(bad):
            row, i = bad[0]
            name = self.names[numeric[i]]
            self.fail(f"line {lines[row]}, column {name!r}: expected a finite number, got {numbers[row, i]}")
        return numbers, texts

    def fail(self, message: str) -> NoReturn:
        """Raise a ValueError that names the file."""
        raise ValueError(f"{self.path}: {message}")

    def _fail_at_cell(self, line: int, record: list[str], numeric: Sequence[int]) -> NoReturn:
        i = next(i for i in numeric if not is_number(record[i]))
        got = repr(record[i]) if record[i].strip() else "an empty cell"
        maybe = " (if the first line is a header, say so)" if line == 1 and self.guessed else ""
        self.fail(f"line {line}, column {self.names[i]!r}: expected a number, got {got}{maybe}")

    def _records(self, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
        """The number of its last line and the cells, for each record that is not blank."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter or self.delimiter)
            try:
                for record in reader:
                    if record:
                        yield reader.line_num, record
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.path}: expected UTF-8 text, got {error.reason} at {error.start}") from error
            except csv.Error as error:
                raise ValueError(f"{self.path}: line {reader.line_num}: expected CSV, got: {error}") from error

    def _find_delimiter(self) -> str:
        """The delimiter that cuts the first records into the same number of cells, and into the most."""

        def cells(delimiter: str) -> int:
            counts = {len(record) for _, record in islice(self._records(delimiter), _SAMPLE)}
            return counts.pop() if len(counts) == 1 else 0

        return max(_DELIMITERS, key=cells)


def load_csv(
    path: str | Path,
    label: Column | Sequence[Column] = -1,
    task: str = "classification",
    *,
    drop: Sequence[Column] = (),
    delimiter: str | None = None,
    header: bool | None = None,
) -> Dataset:
    """The data set in a CSV file.

    Args:
        path: the file, UTF-8; all its columns but label's and drop's are features and hold numbers.
        label: the column of the labels, by name or number (-1 is the last); several for several targets.
        task: "classification" (labels are any text), "regression" or "multilabel" (labels are numbers).
        drop: columns to leave out.
        delimiter: one character, or None to find out.
        header: whether the first record names the columns, or None to find out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty file, an unknown column, a cell that is no finite number; each with file, line and column.
    """
    task_named(task, "load_csv")
    file = CsvFile(path, delimiter, header)
    labels = [file.position(c, "label") for c in ([label] if isinstance(label, Column) else label)]
    left_out = {*labels, *(file.position(column, "drop") for column in drop)}
    features = [i for i in range(len(file.names)) if i not in left_out]
    if not features:
        file.fail(f"expected features beside the label, got only the columns {listed(file.names)}")
    if task == "classification":
        if len(labels) != 1:
            file.fail(f"label must be one column for classification, got {len(labels)}")
        x, (texts,) = file.read(features, labels)
        if file.guessed and not file.header and not is_number(texts[0]) and all(map(is_number, texts[1:])):
            file.fail(
                f"line 1 may be a header or data: its label is {texts[0]!r} and all others are numbers; say which"
            )
        outputs, y = classes_of(texts, f"{path}: column {file.names[labels[0]]!r}")
    else:
        numbers, _ = file.read([*features, *labels])
        x, y = numbers[:, : len(features)], numbers[:, len(features) :]
        outputs = tuple(file.names[i] for i in labels)
    names = tuple(file.names[i] for i in features)
    return Dataset(Path(path).stem, np.array(x), np.array(y), task, names, outputs)


def read_features(
    path: str | Path, features: Sequence[str], delimiter: str | None = None, header: bool | None = None
) -> Array:
    """The features of rows to predict, shape (N, d): found by name where there is a header, else the columns in order.

    Args:
        path: the file; with a header it may have more columns, in any order.
        features: the d names that the model was trained on.
        delimiter: as of `load_csv`.
        header: as of `load_csv`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a feature is missing, or a cell is no finite number.
    """
    file = CsvFile(path, delimiter, header)
    return file.read(file.features(features))[0]


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names in quotes, the first of them where they are many."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
