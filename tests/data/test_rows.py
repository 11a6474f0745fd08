"""Rows of numbers: the data set, the sources it is read from, and what is refused."""

import os
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn import datasets
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader

from counterpoise.commands import embed
from counterpoise.data import imperfect
from counterpoise.data.images import Images, shape_of
from counterpoise.data.rows import Rows, RowSplits, is_rows, joined_rows, load_rows, row_files
from counterpoise.data.targets import Targets
from counterpoise.errors import InputError

SIDE = 4


def make(count=6, width=2, **fields):
    """Rows whose first number is their place."""
    inputs = torch.arange(count)[:, None] + torch.arange(width) / 10
    return Rows(inputs, torch.arange(count) % 2, ("cat", "dog"), "pets", **fields)


def write(folder, columns, name="t.parquet"):
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return folder / name


def text(folder, lines, name="t.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def vectors(count, width=3):
    return [[float(row)] * width for row in range(count)]


def both(splits):
    """All rows in the order of their first number: inputs and names of classes."""
    rows = joined_rows(splits)
    order = rows.inputs[:, 0].argsort()
    return rows.inputs[order].tolist(), [rows.classes[i] if i >= 0 else None for i in rows.labels[order]]


# The data set


def test_batches_hold_inputs_labels_and_indices():
    rows = make()
    assert (len(rows), rows.counts().tolist()) == (6, [3, 3])
    assert rows[-1][1:] == (1, 5)
    batches = list(DataLoader(rows, batch_size=4, collate_fn=lambda batch: batch))
    assert [batch[2].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert torch.equal(batches[1][0], rows.inputs[4:])
    assert batches[1][1].tolist() == [0, 1]
    with pytest.raises(IndexError, match="row 6 of 6"):
        rows[6]


def test_a_subset_keeps_what_is_known_of_each_row():
    rows = make(
        paths=tuple("abcdef"), factors={"site": torch.tensor([0, 1, 2] * 2)}, factor_names={"site": ("x", "y", "z")}
    )
    some = rows.subset(torch.tensor([4, 1]), "two")
    assert (some.paths, some.notes, some.factor_names) == (("e", "b"), ("two",), {"site": ("x", "y", "z")})
    assert (some.factors["site"].tolist(), some.labels.tolist()) == ([1, 1], [0, 1])
    assert some.inputs[:, 0].tolist() == [4, 1]
    part = rows.rows(2, 4)
    assert (part.paths, part.factors["site"].tolist()) == (("c", "d"), [2, 0])
    assert part.inputs.data_ptr() == rows.inputs[2:].data_ptr()
    assert len(rows.subset(torch.arange(0))) == 0


def test_parts_are_joined_with_all_that_is_known():
    first = make(2, paths=("a", "b"), factors={"site": torch.tensor([0, 1])}, notes=("x",), unreadable=("q",))
    second = make(1, paths=("c",), factors={"site": torch.tensor([1])}, notes=("x", "y"), reasons={"r": "empty"})
    found = joined_rows([first, second])
    assert (found.paths, found.notes, found.unreadable) == (("a", "b", "c"), ("x", "y"), ("q",))
    assert (found.factors["site"].tolist(), found.reasons) == ([0, 1, 1], {"r": "empty"})
    assert found.inputs[:, 0].tolist() == [0, 1, 0]
    assert joined_rows([first, make(1, factors={"site": torch.tensor([1])})]).paths is None
    with pytest.raises(InputError, match="expected the same columns in all of them, which 'pets' lacks"):
        joined_rows([make(1), make(1, width=3)])
    with pytest.raises(InputError, match="expected the same columns in all of them"):
        joined_rows([make(1), make(1, columns=("a", "b"))])
    with pytest.raises(InputError, match="expected at least one, got none"):
        joined_rows([])


def test_columns_are_scaled_by_the_training_rows_alone_as_scikit_learn_scales_them():
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(700, 70, generator=generator) * torch.logspace(-3, 3, 70) + 1e4
    numbers[:, 5] = 0.1
    train, test = (Rows(x, torch.zeros(len(x), dtype=torch.int64), ("a",), "x") for x in (numbers[:600], numbers[600:]))
    found = RowSplits(train, test).standardized()
    scaler = StandardScaler().fit(train.inputs.double().numpy())
    for part, given in zip(found, (train, test), strict=True):
        torch.testing.assert_close(
            part.inputs.double(),
            torch.from_numpy(scaler.transform(given.inputs.double().numpy())),
            atol=1e-6,
            rtol=1e-6,
        )
    assert (found.test.inputs[:, 5] == 0).all()
    assert found.test.notes == ("columns scaled to mean 0 and deviation 1 of 600 rows",)
    with pytest.raises(InputError, match="by: expected 70 columns, got 2"):
        train.standardized(make())
    with pytest.raises(InputError, match="by: expected at least 1 row, got none"):
        train.standardized(train.subset(torch.arange(0)))


def test_the_shape_of_one_item():
    pixels = torch.zeros(2, 3, 8, 6, dtype=torch.uint8)
    assert shape_of(Images(pixels, torch.tensor([0, 1]), ("a", "b"), "x")) == (3, 8, 6)
    assert shape_of(make(width=5)) == (5,)
    assert shape_of(Targets(torch.zeros(3, 2), torch.zeros(3), "x")) == (2,)
    with pytest.raises(
        InputError, match="part: expected a data set with pixels or inputs in one tensor, got TensorData"
    ):
        shape_of(torch.utils.data.TensorDataset(torch.zeros(2)))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": torch.zeros(3)}, r"inputs: expected a matrix \[rows, dim\], got shape \[3\]"),
        ({"inputs": torch.zeros(3, 2, dtype=torch.int64)}, "inputs: expected floating-point numbers, got torch.int64"),
        ({"inputs": torch.full((3, 2), torch.nan)}, "inputs: 6 of 6 numbers are NaN or infinite"),
        ({"inputs": torch.zeros(3, 0)}, "inputs: expected at least 1 columns, got 0"),
        ({"labels": torch.tensor([0, 1])}, "labels: expected one integer for each of the 3 rows"),
        ({"labels": torch.tensor([0, 1, 2])}, "labels: expected integers from -1 to 1, got 2"),
        ({"labels": torch.zeros(3)}, "labels: expected integers, got torch.float32"),
        ({"columns": ("a",)}, "columns: expected a name for each of the 2 columns, got 1"),
        ({"paths": ("a",)}, "paths: expected one for each of the 3 rows, got 1"),
        ({"factors": {"site": torch.tensor([0])}}, "factors: site: expected one integer for each of the 3 rows"),
        ({"factors": {"site": torch.tensor([0, 0, -2])}}, "factors: site: expected integers of at least -1, got -2"),
        (
            {"factors": {"site": torch.tensor([0, 1, 2])}, "factor_names": {"site": ("x", "y")}},
            "factors: site: expected integers from -1 to 1, got 2",
        ),
        ({"factor_names": {"site": ("x",)}}, "factor_names: factor 'site' is not known"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, message):
    given = {"inputs": torch.zeros(3, 2), "labels": torch.tensor([0, 1, -1]), "classes": ("a", "b"), "name": "x"}
    with pytest.raises(InputError, match=message):
        Rows(**{**given, **fields})


@pytest.mark.usefixtures("plain_shapes")  # the signatures of imperfections name Images
@pytest.mark.parametrize(
    ("name", "value"),
    [("long-tail", 4.0), ("random-tail", 4.0), ("linear-tail", 4.0), ("fewer", 0.5), ("unknown", 1.0)],
)
def test_imperfections_that_thin_classes_take_rows(name, value):
    rows = make(40, factors={"row": torch.arange(40)})
    made, note = imperfect.IMPERFECTIONS[name].apply(rows, value, torch.Generator().manual_seed(1))
    assert isinstance(made, Rows)
    assert 0 < len(made) < 40
    assert note
    kept = made.factors["row"]
    assert torch.equal(made.inputs, rows.inputs[kept])
    assert torch.equal(made.labels, rows.labels[kept])


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("name", ["label-noise", "label-noise-asymmetric", "unlabelled"])
def test_imperfections_of_labels_take_rows(name):
    rows = make(40)
    made, _ = imperfect.IMPERFECTIONS[name].apply(rows, 0.25, torch.Generator().manual_seed(1))
    assert isinstance(made, Rows)
    assert torch.equal(made.inputs, rows.inputs)
    assert int((made.labels != rows.labels).sum()) == 10


# scikit-learn's sets


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "iris", "wine"])
def test_a_set_of_scikit_learn_is_there_as_a_whole(name):
    train, test = load_rows(f"sklearn:{name}")
    known = getattr(datasets, f"load_{name}")()
    assert train.classes == tuple(map(str, known.target_names))
    assert train.columns == tuple(known.feature_names)
    found = torch.cat([torch.cat([part.inputs, part.labels[:, None]], 1) for part in (train, test)])
    expected = torch.from_numpy(np.column_stack([known.data, known.target])).float()
    assert sorted(found.tolist()) == sorted(expected.tolist())
    for share in test.counts() / (test.counts() + train.counts()):
        assert 0.15 < share < 0.25


def test_the_division_is_the_seed_s():
    first, again, other = (load_rows("sklearn:wine", seed=seed).test for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.counts().tolist() == other.counts().tolist()


# Tables


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


def test_parts_are_joined_though_one_lacks_a_factor():
    known = make(2).with_factor("client", torch.tensor([1, 0]), ("north", "south"))
    both = joined_rows([make(1), known])
    assert (both.factors["client"].tolist(), both.factor_names) == ([-1, 1, 0], {"client": ("north", "south")})
    with pytest.raises(
        InputError, match="the same names of the values of 'client' in all parts, got north, south and west"
    ):
        joined_rows([known, make(1).with_factor("client", torch.tensor([0]), ("west",))])
    assert known.without_factor("client").factors == known.without_factor("client").factor_names == {}


def test_splits_go_by_the_rules_of_images(tmp_path):
    lines = ["a,label,split", "0,x,train", "1,y,train", "2,x,val", "3,z,test", "4,y,test", "nan,q,dev"]
    with pytest.warns() as caught:
        train, test = load_rows(text(tmp_path, lines))
    said = [str(warning.message).partition("t.csv: ")[2] for warning in caught]
    assert said == ["left out of the data: val, dev", "classes that train has no row of (1): z"]
    assert (train.classes, train.counts().tolist(), test.counts().tolist()) == (("x", "y", "z"), [1, 1, 0], [0, 1, 1])
    train, test = load_rows(text(tmp_path, ["a,label,split", "0,x,Training", "1,y,train", "2,x,val", "3,y,VALID"]))
    assert (train.inputs.tolist(), test.inputs.tolist()) == ([[0], [1]], [[2], [3]])
    train, test = load_rows(text(tmp_path, ["a,label,split", *(f"{i},{'xy'[i % 2]},train" for i in range(10))]))
    assert (len(train), len(test)) == (8, 2)


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


# Names, options and files


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("sklearn:wien", "scikit-learn data set 'wien' is not known; did you mean 'wine'"),
        ("sklearn:wine:label=x", "label: is for files, not for the sets of scikit-learn"),
        ("rows:t.txt", "rows 't.txt' is not known"),
        ("nowhere.parquet", "data: no such file: nowhere.parquet"),
        ("rows:t.csv:lable=x", "option of rows 'lable' is not known; did you mean 'label'"),
        ("rows:t.csv:label=x:label=y", "label is given twice"),
        ("rows:t.csv:label=", "label: expected a name after '=', got nothing"),
        ("a\0.npy", "data: .* holds a NUL character"),
    ],
)
def test_names_that_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        load_rows(data)


def test_an_option_given_twice_is_refused(tmp_path):
    path = text(tmp_path, ["a,label", "1,x", "2,y"])
    with pytest.raises(InputError, match="label: is given twice, as an argument and in"):
        load_rows(f"{path}:label=label", label="label")


def test_a_file_whose_name_reads_like_an_option_is_that_file(tmp_path):
    path = text(tmp_path, ["a,label", "0,x", "1,y", "2,x", "3,y"], "t:label=b.csv")
    assert both(load_rows(f"rows:{path}"))[0] == [[0], [1], [2], [3]]


def test_which_data_is_rows():
    assert all(map(is_rows, ("rows:t.csv", "sklearn:wine", "X.NPY", "X.npy:labels=y.npy")))
    assert not any(map(is_rows, ("t.csv", "mnist", "rotations:class=7", "photos/x:y=z", "glyphs:split=style")))


def test_the_files_that_rows_stand_on(tmp_path):
    table = text(tmp_path, ["a,label", "1,x"])
    assert row_files(f"rows:{table}:label=label") == [table]
    matrix, named = tmp_path / "X.npy", tmp_path / "y.npy"
    for path in (matrix, named):
        np.save(path, np.zeros(2))
    assert row_files(matrix) == [matrix]
    beside = tmp_path / "X.labels.npy"
    np.save(beside, np.zeros(2))
    assert row_files(matrix) == [matrix, beside]
    assert row_files(f"{matrix}:labels={named}") == row_files(matrix, labels=named) == [matrix, named]
    assert row_files(tmp_path / "gone.npy") == row_files("sklearn:iris") == []


# Matrices of NumPy


def save(folder, matrix, labels=None, name="X"):
    np.save(folder / f"{name}.npy", matrix)
    if labels is not None:
        np.save(folder / f"{name}.labels.npy", labels)
    return folder / f"{name}.npy"


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


# What `counterpoise embed` writes


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Images of one grey value each, one of them damaged, and an encoder whose features are the pixels themselves."""
    monkeypatch.setattr(embed, "load_encoder", lambda folder: (nn.Flatten(), {"shape": [1, SIDE, SIDE]}))
    for row, place in enumerate(
        ("train/cat/a", "train/cat/b", "train/dog/c", "train/dog/d", "test/cat/e", "test/dog/f", "test/dog/g")
    ):
        path = tmp_path / "photos" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (SIDE, SIDE), 20 * row).save(path)
    (tmp_path / "photos" / "train" / "dog" / "c.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("out", ["out.parquet", "out.npy"])
@pytest.mark.filterwarnings("ignore:.*cannot be read", "ignore:.*rows without features", "ignore:.*nearly constant")
def test_what_embed_writes_is_read_back(photos, tmp_path, out):
    features = embed.embed("run", str(photos), str(tmp_path / out))
    with pytest.warns(match=r"rows without any number are left out \(1\): train/dog/c.png"):
        train, test = load_rows(tmp_path / out)
    assert (train.paths, train.labels.tolist()) == (
        ("train/cat/a.png", "train/cat/b.png", "train/dog/d.png"),
        [0, 0, 1],
    )
    assert (test.paths, test.labels.tolist()) == (("test/cat/e.png", "test/dog/f.png", "test/dog/g.png"), [0, 1, 1])
    assert train.classes == ("cat", "dog")
    assert torch.equal(torch.cat([test.inputs, train.inputs]), features[~features.isnan().any(1)])
    assert train.unreadable == ("train/dog/c.png",)
