"""Files of rows: which columns are inputs, labels and factors, and what is refused."""

import os
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from counterpoise.data.rows import joined_rows, load_rows
from counterpoise.errors import InputError
from tabled import both, save, text


def write(folder, columns, name="t.parquet"):
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return folder / name


def vectors(count, width=3):
    return [[float(row)] * width for row in range(count)]


def test_a_column_of_vectors_is_the_inputs(tmp_path):
    columns = {
        "path": [f"{i}.png" for i in range(6)],
        "label": ["b", "a"] * 3,
        "split": ["train"] * 4 + ["test"] * 2,
        "embedding": vectors(6),
    }
    for kind in (
        pyarrow.list_(pyarrow.float64()),
        pyarrow.large_list(pyarrow.int32()),
        pyarrow.list_(pyarrow.float16(), 3),
        pyarrow.list_(pyarrow.float32(), 3),
    ):
        values = np.array(columns["embedding"], np.float16 if "half" in str(kind) else np.float64)
        path = write(tmp_path, {**columns, "embedding": pyarrow.array(list(values), kind)})
        train, test = load_rows(path)
        assert train.inputs.dtype == torch.float32
        assert train.inputs.tolist() == vectors(4)
        assert test.inputs.tolist() == vectors(6)[4:]
        assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("a", "b"), [1, 0, 1, 0], [1, 0])
        assert (test.paths, train.columns[2], train.name) == (("4.png", "5.png"), "embedding[2]", "t.parquet")
        assert train.notes == ()


def test_vectors_of_the_hub_s_arrays_are_read(tmp_path):
    values = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8.0).reshape(4, 2))
    path = write(tmp_path, {"label": [0, 1, 0, 1], "x": values})
    assert both(load_rows(path)) == ([[0, 1], [2, 3], [4, 5], [6, 7]], ["0", "1", "0", "1"])


def test_all_columns_of_numbers_are_the_inputs(tmp_path):
    lines = [" age ,Class,ok,weight,name", *(f"{i},{'ab'[i % 2]},{str(i > 4).lower()},{i / 2},x{i}" for i in range(10))]
    with pytest.warns(match=r"t.csv: columns not used \(1\): name"):
        train, test = load_rows(text(tmp_path, lines))
    assert train.columns == ("age", "ok", "weight")
    assert (train.counts().tolist(), test.counts().tolist()) == ([4, 4], [1, 1])
    inputs, labels = both((train, test))
    assert inputs == [[i, i > 4, i / 2] for i in range(10)]
    assert labels == ["a", "b"] * 5
    assert "divided at random within each class: 8 rows for train, 2 for test" in train.notes
    assert any("columns not used (1): name" in note for note in train.notes)


def test_csv_and_parquet_give_the_same_rows(tmp_path):
    columns = {"a": [0, 1, 2, 3], "b": [0.5, 1.5, 2.5, 3.5], "target": ["10", "9", "10", "9"]}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    found = [both(load_rows(path)) for path in (write(tmp_path, columns), text(tmp_path, lines))]
    assert found[0] == found[1]
    assert found[0][1] == ["10", "9", "10", "9"]


def test_a_column_that_numbers_the_rows_is_no_input_unless_it_is_named(tmp_path):
    path = text(tmp_path, [",id,a,label", *(f"{i},{i},{i * i},{'ab'[i // 3]}" for i in range(6))])
    with pytest.warns(match=r"columns not used \(2\): , id"):
        assert load_rows(path).train.columns == ("a",)
    with pytest.warns(match="columns not used"):
        assert load_rows(path, columns=["id", "a"]).train.columns == ("id", "a")


def test_columns_that_are_named_are_the_inputs_in_their_order(tmp_path):
    columns = {"a": [1, 2, 3, 4], "v": vectors(4, 2), "w": vectors(4, 2), "label": [0, 1, 0, 1]}
    path = write(tmp_path, columns)
    with pytest.raises(InputError, match=r"columns v, w hold vectors; name one of them \(columns=NAME\)"):
        load_rows(path)
    with pytest.warns(match=r"columns not used \(1\): v"):
        train, test = load_rows(f"rows:{path}:columns=w,a")
    assert train.columns == ("w[0]", "w[1]", "a")
    assert both((train, test))[0] == [[0, 0, 1], [1, 1, 2], [2, 2, 3], [3, 3, 4]]


def test_words_become_columns_of_zeros_and_ones_where_they_are_asked_for(tmp_path):
    path = text(tmp_path, ["a,town,label", "0,oslo,x", "1,bonn,y", "2,,x", "3,oslo,y"])
    train, test = load_rows(path, categories=["town"])
    assert train.columns == ("a", "town=bonn", "town=oslo")
    assert both((train, test))[0] == [[0, 0, 1], [1, 1, 0], [2, 0, 0], [3, 0, 1]]
    with pytest.warns(match="columns not used"):
        assert load_rows(f"{path}:columns=a").train.columns == ("a",)
    assert load_rows(path, columns=[], categories=["town"]).train.columns == ("town=bonn", "town=oslo")


def test_columns_that_say_something_of_a_row_become_factors(tmp_path):
    path = text(tmp_path, ["a,domain,site,label", "0,day,2,x", "1,night,10,y", "2,day,2,x", "3,day,10,y"])
    with pytest.warns(match="t.csv: taken as factors: domain"):
        rows = joined_rows(load_rows(path))
    assert rows.columns == ("a", "site")
    assert rows.factor_names == {"domain": ("day", "night")}
    assert [rows.factors["domain"][i] for i in rows.inputs[:, 0].argsort()] == [0, 1, 0, 0]
    with pytest.warns(match="taken as factors: site, domain"):
        rows = load_rows(f"{path}:factors=site,domain").train
    assert (rows.columns, rows.factor_names["site"]) == (("a",), ("2", "10"))
    with pytest.warns(match="columns not used"):
        assert not load_rows(path, factors=()).train.factors


def test_factors_of_rows_go_by_the_rules_of_tables_of_images(tmp_path):
    lines = ["a,Client,forget,label", "0,10,no,x", "1,,YES,y", "2,9,1,x", "3,10,,y"]
    with pytest.warns(match="column 'Client': 1 rows have no value"):
        rows = joined_rows(load_rows(text(tmp_path, lines)))
    order = rows.inputs[:, 0].argsort()
    assert rows.columns == ("a",)
    assert rows.factor_names == {"client": ("9", "10"), "forget": ("kept", "forgotten")}
    assert rows.factors["client"][order].tolist() == [1, -1, 0, 1]
    assert rows.factors["forget"][order].tolist() == [0, 1, 1, 0]
    with pytest.raises(InputError, match=r"column 'forget': expected yes or no .*, got 'perhaps'"):
        load_rows(text(tmp_path, [*lines, "4,9,perhaps,x"]))
    with pytest.raises(InputError, match="columns 'Client' and 'client' may each be the client"):
        load_rows(text(tmp_path, ["a,Client,client,label", "0,1,2,x", "1,1,2,y"]))


def test_rows_without_a_label_are_kept(tmp_path):
    path = text(tmp_path, ["a,label,split", "0,x,train", "1,y,train", "2,,train", "3,x,test", "4,y,test"])
    train, test = load_rows(path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, -1], [0, 1])
    train, test = load_rows(write(tmp_path, {"a": range(5), "label": [None] * 5}))
    assert (train.classes, {*train.labels.tolist()}, len(test)) == ((), {-1}, 1)


def test_another_label_is_chosen_by_name_and_the_rest_give_nothing_away(tmp_path):
    path = text(tmp_path, ["a,label,class,quality", *(f"{i},{i % 2},{i % 3},{i % 4}" for i in range(12))])
    with pytest.raises(InputError, match="columns 'label' and 'class' may each be the label"):
        load_rows(path)
    with pytest.warns(match=r"columns not used \(2\): label, class"):
        train, _ = load_rows(f"{path}:label=quality")
    assert (train.classes, train.columns) == (("0", "1", "2", "3"), ("a",))


def test_a_row_without_any_number_is_left_out_and_named(tmp_path):
    path = write(tmp_path, {"v": [[0.0], None, [2.0], [3.0], [4.0]], "label": list("xyxyx"), "path": list("abcde")})
    with pytest.warns(match=r"t.parquet: rows without any number are left out \(1\): b"):
        splits = load_rows(path)
    assert both(splits) == ([[0], [2], [3], [4]], ["x", "x", "y", "x"])
    assert (splits.test.unreadable, dict(splits.test.reasons)) == (("b",), {"b": "holds no number"})
    assert "rows without any number are left out (1): b" in splits.train.notes[0]
    with pytest.warns(match=r"left out \(1\): row 2"):
        assert load_rows(text(tmp_path, ["a,b,label", "0,1,x", ",,y", "1,2,y", "2,3,x"])).train.paths is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"v": [[1.0, 2.0], [1.0], [2.0, 3.0]], "label": [0, 1, 0]},
            "row 2: column 'v' has a vector of 1 numbers; expected 2, as in row 1",
        ),
        (
            {"v": [[], [], [2.0]], "label": [0, 1, 0]},
            "row 1: column 'v' has a vector of 0 numbers; expected 1, as in row 3",
        ),
        ({"v": pyarrow.array([[], []], pyarrow.list_(pyarrow.float32())), "label": [0, 1]}, "got none with a number"),
        ({"v": [[1.0, 2.0], [1.0, None]], "label": [0, 1]}, r"row 2: column 'v\[1\]' holds no number; fill the place"),
        ({"v": [[1.0, np.nan], [1.0, 2]], "label": [0, 1]}, r"row 1: column 'v\[1\]' holds no number"),
        ({"a": [1.0, 1e300], "label": [0, 1]}, "row 2: column 'a' holds an infinite number, or one beyond float32"),
        ({"v": [[1e300], [-np.inf]], "label": [0, 1]}, r"column 'v\[0\]' holds an infinite .*\(as do 1 other rows\)"),
        ({"a": [1, None, 3], "b": [1, 2, 3], "label": [0, 1, 0]}, "row 2: column 'a' holds no number"),
        ({"v": [["x"], ["y"]], "label": [0, 1]}, r"expected a column of vectors, .* got v \(list<.*string>\)"),
        ({"label": [0, 1]}, "expected a column of vectors, or columns of numbers, got none"),
        ({"v": [[[1.0]], [[2.0]]], "label": [0, 1]}, "expected a column of vectors, or columns of numbers, got v"),
        ({"a": [1, 2], "label": ["x", "x"]}, "expected labels of at least two classes, got 'x' alone"),
        ({"a": [1, 2], "label": ["x", None]}, "expected labels of at least two classes, got 'x' alone"),
        ({"a": [1, 2], "class": [0.5, 1.0]}, "column 'class': expected classes .* got numbers such as 0.5, .* regress"),
        ({"a": [1, 2], "label": [[0], [1]]}, "column 'label' holds lists or maps; expected one text or number a row"),
        ({"a": [1, 2], "b": [1, 2]}, "expected a column named label, class, target or category, found: a, b"),
        ({"a": [1, 2], "label": [0, 1], "split": ["train", None]}, "row 2 has no split, which others have"),
        ({"a": [1, 2], "label": [0, 1], "split": ["train", "tset"]}, "split 'tset' is not known; did you mean 'test'"),
        (
            {"a": [1, 2], "label": [0, 1], "split": ["val", "val"]},
            "expected a split named train to learn from, found: val",
        ),
        (
            {"a": [1, 2], "label": [0, 1], "group": [None, None]},
            "column 'group' holds no value, so that it is no factor",
        ),
        ({"a": [1, 2], "label": ["x", "y"]}, "no class has two rows, so none can be kept apart"),
        (
            {"v": pyarrow.array([None, None], pyarrow.list_(pyarrow.float32(), 2)), "label": [0, 1]},
            "got none with a number",
        ),
        ({"a": [None, np.nan], "label": [0, 1]}, "none of its 2 rows holds a number"),
        ({"a": pyarrow.array([], pyarrow.int64()), "label": pyarrow.array([], pyarrow.int64())}, "has no rows"),
        ({"a": [1, 2], " a": [1, 2], "label": [0, 1]}, "has more than one column 'a'"),
        (
            {"a": [1, 2, np.nan], "label": [0, 1, 1], "split": ["train", "train", "test"]},
            "no row with numbers in its test split",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tables_that_are_refused(tmp_path, columns, message):
    with pytest.raises(InputError, match=message) as caught:
        load_rows(write(tmp_path, columns))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"columns": ["town"]}, "column 'town': expected numbers or vectors, got string; .* categories=town"),
        ({"columns": ["aeg"]}, "column 'aeg' is not known; did you mean 'age'"),
        ({"columns": ["age", "age"]}, "column 'age' is named twice"),
        ({"label": "town", "categories": ["town"]}, "column 'town' is named twice"),
        ({"columns": []}, "expected a column of vectors, or columns of numbers, got age"),
        ({"columns": ["label"]}, "expected a column named label, class, target or category, found: age, town, empty"),
        ({"columns": "age"}, "columns: expected a list of names, got 'age'"),
        ({"categories": ["empty"]}, "column 'empty': expected 1 to 1,000 different words, got 0"),
        ({"factors": ["empty"]}, "column 'empty' holds no value, so that it is no factor"),
        ({"labels": "y.npy"}, "labels: is for .npy files; the labels of .*t.csv are in a column"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
    ],
)
def test_choices_that_do_not_fit_are_refused(tmp_path, chosen, message):
    path = text(tmp_path, ["age,town,empty,label", "1,oslo,,x", "2,bonn,,y"])
    with pytest.raises(InputError, match=message):
        load_rows(path, **chosen)


def test_a_column_of_many_words_is_no_category(tmp_path):
    path = write(tmp_path, {"a": range(1001), "id": [f"x{i}" for i in range(1001)], "label": [0, 1, *[0] * 999]})
    with pytest.raises(InputError, match="column 'id': expected 1 to 1,000 different words, got 1,001"):
        load_rows(path, categories=["id"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([3, 10, -1, 3, 10, 3], np.int16), ["3", "10", None, "3", "10", "3"]),
        (np.array([3.0, 10.0, np.nan, 3.0, 10.0, -1.0]), ["3", "10", None, "3", "10", None]),
        (np.array(["cat", "dog", "", "cat", "dog", "nan"]), ["cat", "dog", None, "cat", "dog", None]),
        (np.array([b"cat", b"dog", b"cat", b"cat", b"dog", b"dog"]), ["cat", "dog", "cat", "cat", "dog", "dog"]),
        (np.array([True, False] * 3), ["True", "False"] * 3),
    ],
)
@pytest.mark.filterwarnings("ignore:.*rows without a label")
def test_a_matrix_and_its_labels(tmp_path, labels, expected):
    numbers = np.asfortranarray(np.arange(12.0).reshape(6, 2))
    splits = load_rows(save(tmp_path, numbers, labels))
    assert splits.train.inputs.dtype == torch.float32
    assert both(splits) == (numbers.tolist(), expected)
    assert (splits.train.name, splits.train.columns) == ("X.npy", ("X[0]", "X[1]"))


def test_labels_of_a_matrix_may_lie_anywhere(tmp_path):
    (tmp_path / "far").mkdir()
    matrix = save(tmp_path, np.arange(4, dtype=np.uint8)[:, None])
    np.save(tmp_path / "far" / "y.npy", np.array([0, 1, 0, 1]))
    text(tmp_path / "far", ["label,split", "a,train", "b,train", "b,test", "a,test"], "y.csv")
    assert both(load_rows(f"rows:{matrix}:labels={tmp_path}/far/y.npy")) == ([[0], [1], [2], [3]], ["0", "1", "0", "1"])
    train, test = load_rows(matrix, labels=tmp_path / "far" / "y.csv")
    assert (train.inputs.tolist(), test.labels.tolist()) == ([[0], [1]], [1, 0])


def test_a_note_counts_labels_of_minus_one(tmp_path):
    path = save(tmp_path, np.arange(6.0)[:, None], np.array([0, 1, -1, 0, 1, -1]))
    with pytest.warns(match=r"X.labels.npy: rows without a label, which is -1 \(2\)"):
        load_rows(path)


@pytest.mark.parametrize(
    ("matrix", "labels", "message"),
    [
        (np.zeros(4), np.zeros(4, int), r"X.npy: expected a matrix \[rows, columns\], got shape \[4\]"),
        (np.zeros((4, 2, 2)), np.zeros(4, int), r"expected a matrix \[rows, columns\], got shape \[4, 2, 2\]"),
        (np.zeros((0, 2)), np.zeros(0, int), r"X.npy: expected at least 1 row and 1 column, got shape \[0, 2\]"),
        (np.zeros((4, 0)), np.zeros(4, int), "expected at least 1 row and 1 column"),
        (
            np.array([[{}], [None]]),
            np.zeros(2, int),
            "X.npy: cannot be read: .*; expected a NPY file of numbers, without",
        ),
        (np.array([["a"], ["b"]]), np.zeros(2, int), "X.npy: expected numbers, got <U1"),
        (np.zeros((2, 1), complex), np.zeros(2, int), "X.npy: expected numbers, got complex128"),
        (np.array([[1, np.nan], [1, 2]]), np.array([0, 1]), r"row 1: column 'X\[1\]' holds no number"),
        (np.array([[1.0], [np.inf]]), np.array([0, 1]), r"row 2: column 'X\[0\]' holds an infinite number"),
        (np.full((2, 1), np.nan), np.array([0, 1]), "none of its 2 rows holds a number"),
        (np.zeros((4, 1)), np.zeros(3, int), "X.labels.npy: expected 4 labels, one for each row of X.npy, got 3"),
        (
            np.zeros((4, 1)),
            np.zeros((4, 1), int),
            r"X.labels.npy: expected one label a row, a vector, got shape \[4, 1\]",
        ),
        (np.zeros((2, 1)), np.array(["a", None]), "X.labels.npy: cannot be read"),
        (np.zeros((2, 1)), np.array([1j, 2j]), "expected labels that are whole numbers or texts, got complex128"),
        (np.zeros((2, 1)), np.array([0.1, 0.9]), "X.labels.npy: expected classes .* got numbers such as 0.1"),
        (np.zeros((2, 1)), np.array([1, 1]), "X.npy: expected labels of at least two classes, got '1' alone"),
    ],
)
def test_matrices_that_are_refused(tmp_path, matrix, labels, message):
    with pytest.raises(InputError, match=message):
        load_rows(save(tmp_path, matrix, labels))


def test_labels_that_are_nowhere_or_in_two_places_are_refused(tmp_path):
    path = save(tmp_path, np.zeros((2, 1)))
    with pytest.raises(InputError, match=r"X.npy: has no labels: neither of X.labels.npy and X.csv is beside it; name"):
        load_rows(path)
    np.save(tmp_path / "X.labels.npy", np.array([0, 1]))
    text(tmp_path, ["label,note", "a,1", "b,2"], "X.csv")
    with pytest.raises(InputError, match=r"X.labels.npy and X.csv may each hold its labels; name one \(labels=FILE\)"):
        load_rows(path)
    for labels, message in (
        ("gone.npy", "no such file: gone.npy"),
        ("y.txt", "expected a file ending in .csv, .parquet"),
    ):
        with pytest.raises(InputError, match=f"labels: {message}"):
            load_rows(path, labels=labels)
    for chosen in ({"columns": ["a"]}, {"categories": ["a"]}):
        with pytest.raises(
            InputError, match=f"{next(iter(chosen))}: is for tables; the columns of .*X.npy have no names"
        ):
            load_rows(path, **chosen)
    with pytest.raises(InputError, match=r"label: names a column of a table, but the labels are in .*X.labels.npy"):
        load_rows(path, labels=tmp_path / "X.labels.npy", label="a")


def test_no_code_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "X.npy").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "Y.npy", np.array([[Evil()]], object), allow_pickle=True)
    np.savez(tmp_path / "Z.npz", np.zeros((2, 2)))
    (tmp_path / "Z.npz").rename(tmp_path / "Z.npy")
    (tmp_path / "E.npy").write_bytes(b"")
    for name in "XYZE":
        np.save(tmp_path / f"{name}.labels.npy", np.array([0, 1]))
        with pytest.raises(InputError, match=rf"{name}\.npy: (cannot be read|holds several arrays)"):
            load_rows(tmp_path / f"{name}.npy")
    assert not (tmp_path / "run").exists()


def test_a_file_shorter_than_it_says_is_refused(tmp_path):
    path = save(tmp_path, np.zeros((100, 10)), np.zeros(100, int))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"X.npy: cannot be read"):
        load_rows(path)


@pytest.mark.parametrize(
    "header",
    [
        "((((",
        "{'descr': 5, 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 100000000000), }",
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header):
    path = save(tmp_path, np.zeros((2, 1)), np.array([0, 1]))
    line = header.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(16))
    with pytest.raises(InputError, match=r"X.npy: cannot be read: .*; expected a NPY file of numbers, without objects"):
        load_rows(path)
