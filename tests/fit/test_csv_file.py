import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_manual_bp.fit.csv_file import CsvFile, load_csv, read_features


@pytest.fixture
def file(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


SAME = {
    "comma": "a,b,label\n1,2,no\n3.5,-4e1,yes\n",
    "semicolon": "a;b;label\n1;2;no\n3.5;-4e1;yes\n",
    "tab": "a\tb\tlabel\n1\t2\tno\n3.5\t-4e1\tyes\n",
    "bar": "a|b|label\n1|2|no\n3.5|-4e1|yes\n",
    "Windows line ends": "a,b,label\r\n1,2,no\r\n3.5,-4e1,yes\r\n",
    "no line end at the end": "a,b,label\n1,2,no\n3.5,-4e1,yes",
    "blank lines": "a,b,label\n\n1,2,no\n\n3.5,-4e1,yes\n\n",
    "spaces": "a, b, label\n 1 , 2 , no \n3.5,-4e1,yes\n",
    "quotes": '"a","b","label"\n"1","2","no"\n3.5,-4e1,"yes"\n',
    "byte order mark": "\ufeffa,b,label\n1,2,no\n3.5,-4e1,yes\n",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_ways_to_write_the_same_data(file, text):
    data = load_csv(file(text))
    assert data.x.tolist() == [[1.0, 2.0], [3.5, -40.0]]
    assert data.y.tolist() == [0, 1]
    assert data.features == ("a", "b")
    assert data.outputs == ("no", "yes")
    assert data.name == "t"


def test_without_a_header_the_columns_are_numbered(file):
    data = load_csv(file("1,2,0\n3,4,1\n"))
    assert data.x.tolist() == [[1, 2], [3, 4]]
    assert data.features == ("column 0", "column 1")


@pytest.mark.parametrize("label", ["b", 1, -2, "1", ["b"]])
def test_the_label_by_name_or_number(file, label):
    data = load_csv(file("a,b,c\n1,u,2\n3,v,4\n"), label)
    assert data.features == ("a", "c")
    assert data.outputs == ("u", "v")
    assert data.x.tolist() == [[1, 2], [3, 4]]


def test_a_name_goes_before_a_number(file):
    data = load_csv(file("a,1,0\n5,6,7\n8,9,7\n5,6,8\n"), "0", header=True)
    assert data.features == ("a", "1")


def test_several_targets_in_the_order_asked_for(file):
    data = load_csv(file("a,s,t\n1,2,3\n4,5,6\n"), ["t", "s"], "regression")
    assert data.y.tolist() == [[3, 2], [6, 5]]
    assert data.outputs == ("t", "s")
    assert data.x.tolist() == [[1], [4]]


def test_columns_that_are_dropped_may_hold_anything(file):
    data = load_csv(file("name,a,y\nada,1,0\nbob,2,1\n"), drop=["name"])
    assert data.features == ("a",)


BAD = {
    "empty": ("", {}, "t.csv: expected rows of numbers, got an empty file"),
    "blank": ("\n\n", {}, "t.csv: expected rows of numbers, got an empty file"),
    "header only": ("a,y\n", {}, "expected rows below the header, got none"),
    "text among the numbers": ("a,y\n1,0\nx,1\n", {}, "line 3, column 'a': expected a number, got 'x'"),
    "a missing value": ("a,b,y\n1,,0\n", {}, "line 2, column 'b': expected a number, got an empty cell"),
    "NaN": ("a,y\n1,0\nnan,1\n", {}, "line 3, column 'a': expected a finite number, got nan"),
    "infinity": ("a,y\ninf,0\n1,1\n", {}, "line 2, column 'a': expected a finite number, got inf"),
    "NaN target": (
        "a,y\n1,0\n1,nan\n",
        {"task": "regression"},
        "line 3, column 'y': expected a finite number, got nan",
    ),
    "a line number counts blank lines": ("a,y\n\n\nx,0\n", {}, "line 4, column 'a'"),
    "a short row": ("a,b,y\n1,2,0\n1,2\n", {"delimiter": ","}, "line 3: expected 3 cells as in the first line, got 2"),
    "a missing label": ("a,y\n1,\n", {}, "line 2, column 'y': expected a label, got an empty cell"),
    "a name twice": ("a,a,y\n1,2,3\n", {}, "each column once, got 'a' more than once"),
    "unknown label": ("a,y\n1,0\n", {"label": "z"}, "label must be one of the columns 'a', 'y', .* got 'z'"),
    "number too large": ("a,y\n1,0\n", {"label": 2}, r"a number in \[-2, 2\), got 2"),
    "unknown drop": ("a,y\n1,0\n", {"drop": ["z"]}, "drop must be one of the columns 'a', 'y', .* got 'z'"),
    "no feature left": ("a,y\n1,0\n", {"drop": ["a"]}, "expected features beside the label"),
    "two labels to classify": ("a,b,y\n1,2,0\n", {"label": ["b", "y"]}, "one column for classification, got 2"),
    "half a header": (
        "1,b,y\n1,2,0\n3,4,1\n",
        {},
        "line 1, column 'column 1': .* got 'b' .if the first line is a header",
    ),
    "numbers as a header": ("0,1,y\n1,2,0\n3,4,1\n", {}, "line 1 may be a header or data: its label is 'y'"),
    "unknown task": ("a,y\n1,0\n", {"task": "ranking"}, "task must be one of .* got 'ranking'"),
    "long delimiter": ("a,y\n1,0\n", {"delimiter": ",,"}, "delimiter must be one character, got ',,'"),
    "not CSV": ("a,y\n1,0\n\x00,1\n" + "9" * 200_000 + ",1\n", {}, "t.csv: line .*: expected"),
    "labels that look like targets": (
        "a,y\n" + "".join(f"{i},{i / 7}\n" for i in range(9)),
        {},
        "column 'y': labels must be classes, got 9 distinct ones in 9 rows.*regression",
    ),
}


@pytest.mark.parametrize(("text", "options", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_by_line_and_column(file, text, options, message):
    with pytest.raises(ValueError, match=message):
        load_csv(file(text), **options)


def test_the_header_can_be_said(file):
    text = "0,1,y\n1,2,0\n3,4,1\n"
    assert load_csv(file(text), header=True).features == ("0", "1")
    assert load_csv(file(text), header=False).outputs == ("0", "1", "y")


def test_other_encodings_are_refused(file):
    with pytest.raises(ValueError, match=r"t.csv: expected UTF-8 text"):
        load_csv(file("é,y\n1,0\n2,1\n", "latin-1"))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_csv(tmp_path / "none.csv")


@given(
    st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=64)] * 3), min_size=2, max_size=30),
    st.sampled_from(",;\t|"),
)
def test_every_number_reads_back_to_the_bit(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text("a,b,y\n".replace(",", delimiter) + "".join(delimiter.join(map(repr, row)) + "\n" for row in rows))
    data = load_csv(path, task="regression")
    read = np.concatenate([data.x, data.y], 1)
    assert read.tobytes() == np.array(rows).tobytes()


def test_features_are_found_by_name_in_any_order(file):
    path = file("y,b,more,a\n9,2,x,1\n9,4,y,3\n")
    assert read_features(path, ("a", "b")).tolist() == [[1, 2], [3, 4]]


def test_features_without_a_header_are_taken_in_order(file):
    assert read_features(file("1,2\n3,4\n"), ("a", "b")).tolist() == [[1, 2], [3, 4]]


def test_one_column_needs_no_delimiter(file):
    assert read_features(file("a\n1\n2\n"), ("a",)).tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,c\n1,2\n", "a column for each feature of the model, got none for 'b'"),
        ("1\n2\n", "expected 2 columns.* got 1"),
    ],
)
def test_missing_features_are_named(file, text, message):
    with pytest.raises(ValueError, match=message):
        read_features(file(text), ("a", "b"))


def test_a_large_file_is_read_as_a_stream(file):
    """The records are not held as text: a file of 2 MB needs little more than its numbers."""
    import tracemalloc

    path = file("a,b,c,y\n" + "1.25,2.5,3.75,0\n" * 120_000)
    tracemalloc.start()
    numbers, _ = CsvFile(path).read([0, 1, 2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers.shape == (120_000, 3)
    assert peak < 4 * numbers.nbytes
