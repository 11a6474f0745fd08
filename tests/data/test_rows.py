"""Rows of numbers: the data set, the sources it is read from, and what is refused."""

import numpy as np
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
from tabled import both, text

SIDE = 4


def make(count=6, width=2, **fields):
    """Rows whose first number is their place."""
    inputs = torch.arange(count)[:, None] + torch.arange(width) / 10
    return Rows(inputs, torch.arange(count) % 2, ("cat", "dog"), "pets", **fields)


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
