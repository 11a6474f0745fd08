"""Data for regression: what the numbers are numbers of, users' tables, and what is refused."""

import pytest
import torch
from sklearn.datasets import load_diabetes
from torchvision.transforms.v2.functional import InterpolationMode, rotate

from counterpoise.data import load
from counterpoise.data.targets import Targets, load_targets
from counterpoise.errors import InputError


def test_rotations_are_torchvision_s():
    train, test = load_targets("rotations:set=mnist:class=4:most=30", seed=3)
    pixels = load("mnist").train
    fours = pixels.pixels[pixels.labels == 4]
    assert len(train) == 2 * len(fours)
    assert train.targets.min() == 0
    assert train.targets.max() == 30
    assert test.targets.unique().tolist() == list(range(31))
    for i in (0, 1, len(fours) + 5):
        turned = rotate(fours[i % len(fours)], float(train.targets[i]), InterpolationMode.BILINEAR)
        assert (turned.int() - train.inputs[i].int()).abs().max() <= 1
    again, _ = load_targets("rotations:set=mnist:class=4:most=30", seed=3)
    assert torch.equal(again.inputs, train.inputs)
    assert not torch.equal(load_targets("rotations:set=mnist:class=4:most=30", seed=4).train.targets, train.targets)


def test_digit_sums_show_two_digits():
    train, test = load_targets("digit-sums")
    assert train.inputs.shape == (5000, 1, 40, 40)
    assert len(test) == 1000
    assert train.targets.unique().tolist() == list(range(19))
    counts = train.targets.long().bincount()
    assert counts[9] > 5 * counts[0]
    assert (train.inputs[:, :, :, :20].flatten(1).sum(1) > 0).all()
    assert (train.inputs[:, :, :, 20:].flatten(1).sum(1) > 0).all()


def test_diabetes_is_scaled_as_its_training_rows():
    train, test = load_targets("diabetes", seed=1)
    assert len(train) + len(test) == 442
    assert len(test) == 88
    torch.testing.assert_close(train.inputs.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.inputs.std(0), torch.ones(10))
    both = torch.cat([train.targets, test.targets]).sort().values
    torch.testing.assert_close(both, torch.from_numpy(load_diabetes().target).float().sort().values)


def test_a_user_s_table(tmp_path):
    path = tmp_path / "houses.csv"
    lines = ["size,rooms,target", *(f"{i},{i % 3},{2 * i}" for i in range(30)), "5,,3"]
    path.write_text("\n".join(lines))
    with pytest.warns(match=r"houses\.csv: 1 rows with an empty place are left out"):
        train, test = load_targets(str(path))
    assert len(train) == 24
    assert len(test) == 6
    assert train.notes == ("1 rows with an empty place are left out",)
    assert not train.images


def test_tables_as_spreadsheets_write_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = ["size; target ", *(f"{i};{2 * i}" for i in range(12)), "nan;3", "4;NaN", "inf;1"]
    (tmp_path / "t.CSV").write_text("\n".join(lines), encoding="utf-8-sig")
    with pytest.warns(match="1 rows with an infinite number are left out"):
        train, test = load_targets("~/t.CSV")
    assert len(train) + len(test) == 12
    assert train.notes == ("2 rows with an empty place are left out", "1 rows with an infinite number are left out")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-16")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        load_targets(tmp_path / "t.csv")


def test_a_subset_and_one_item():
    train, _ = load_targets("diabetes")
    some = train.subset(torch.tensor([3, 1]), "two")
    assert some.notes[-1] == "two"
    assert torch.equal(some[0][0], train.inputs[3])
    assert some.__getitems__([1, 0])[1].tolist() == train.targets[[1, 3]].tolist()
    with pytest.raises(IndexError):
        some[2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("rotation", "data 'rotation' is not known; did you mean 'rotations'"),
        ("rotations:clas=3", "option of rotations 'clas' is not known; did you mean 'class'"),
        ("rotations:class=10", "rotations: class: expected a whole number from 0 to 9, got '10'"),
        ("rotations:set=mnis", "rotations: set 'mnis' is not known; did you mean 'mnist'"),
        ("diabetes:x=1", "option of diabetes 'x' is not known"),
        ("nowhere.csv", "data: no such file: nowhere.csv"),
        ("a\0.csv", "data: .* holds a NUL character"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        load_targets(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2", "expected a column 'target', got a, b"),
        ("a,target\nx,2\ny,3", "column 'a': expected numbers, got string"),
        ("target\n1\n2", "expected a column of numbers besides 'target'"),
        ("a,target\n1,2", "rows: expected a number of at least 10, got 1"),
        ("a,target\n1,2\n1", "t.csv: cannot be read: CSV parse error"),
        ("a,a,target\n1,2,3", "has more than one column 'a'; rename or remove all but one"),
        ("a,b,target\n1,true,3", "column 'b': expected numbers, got bool"),
        ("a,target\n1,inf\nnan,2", "rows: expected a number of at least 10, got 0"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_targets(str(tmp_path / "t.csv"))


@pytest.mark.usefixtures("plain_shapes")
def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"targets: expected one for each of 3, got \[2\]"):
        Targets(torch.zeros(3, 2), torch.zeros(2), "x")
    with pytest.raises(InputError, match="inputs: expected uint8 images"):
        Targets(torch.zeros(3, 1, 2, 2), torch.zeros(3), "x")
    with pytest.raises(InputError, match="targets: 1 of 3 numbers are NaN"):
        Targets(torch.zeros(3, 2), torch.tensor([0, 1, torch.nan]), "x")
