"""Features of new images: every row of the input has its row of the output."""

import os

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import nn

from counterpoise import commands
from counterpoise.commands.embed import embed
from counterpoise.errors import InputError

SIDE = 4


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    """An encoder whose features are the pixels themselves, so that a row shows which image it is of."""
    found = nn.Flatten(), {"shape": [1, SIDE, SIDE]}
    monkeypatch.setattr(commands.embed, "load_encoder", lambda folder: found)


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (SIDE, SIDE), value).save(path)
    return path


def rows(data, out):
    """What is written of each image: path, split, label, and the grey value that its features are of."""
    embed("run", str(data), str(out))
    if out.suffix == ".npy":
        table = pyarrow.csv.read_csv(
            out.with_suffix(".csv"), convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True)
        )
        matrix = np.load(out, allow_pickle=False)
        first = [None if np.isnan(row).all() else row[0] for row in matrix]
    else:
        table = pyarrow.parquet.read_table(out)
        first = [None if row is None else row[0] for row in table["embedding"].to_pylist()]
    values = [None if value is None else round((value + 1) * 127.5) for value in first]
    return list(zip(*(table[name].to_pylist() for name in ("path", "split", "label")), values, strict=True))


@pytest.fixture(params=[".parquet", ".npy"])
def out(request, tmp_path):
    return tmp_path / f"out{request.param}"


def test_one_image_file(tmp_path, out):
    assert rows(paint(tmp_path / "new.png", 7), out) == [("new.png", None, None, 7)]


def test_a_flat_folder_of_one_image(tmp_path, out):
    paint(tmp_path / "photos" / "a.png", 9)
    assert rows(tmp_path / "photos", out) == [("a.png", None, None, 9)]


def test_one_image_a_class(tmp_path, out):
    for i, name in enumerate(("ann", "ben", "cy")):
        paint(tmp_path / "photos" / name / "0.png", i)
    assert rows(tmp_path / "photos", out) == [(f"{n}/0.png", None, n, i) for i, n in enumerate(("ann", "ben", "cy"))]


def test_splits_as_they_are_called_with_all_that_lies_beside(tmp_path, out):
    for i, name in enumerate(
        ("loose.png", "more/x.png", "test/cat/a.png", "train/cat/b.png", "train/c.png", "val/d.png")
    ):
        paint(tmp_path / "photos" / name, i)
    assert rows(tmp_path / "photos", out) == [
        ("loose.png", None, None, 0),
        ("more/x.png", None, "more", 1),
        ("test/cat/a.png", "test", "cat", 2),
        ("train/c.png", "train", None, 4),
        ("train/cat/b.png", "train", "cat", 3),
        ("val/d.png", "val", None, 5),
    ]


def test_a_layout_that_training_refuses(tmp_path, out):
    for i, name in enumerate(("images/train/a.png", "images/val/b.png")):
        paint(tmp_path / "yolo" / name, i)
    (tmp_path / "yolo" / "labels").mkdir()
    assert [value for *_, value in rows(tmp_path / "yolo", out)] == [0, 1]


def test_a_table_keeps_its_rows_their_order_and_their_splits(tmp_path, out):
    for i in range(4):
        paint(tmp_path / f"{i}.png", i)
    lines = ["path,label,split", "3.png,b,test", "1.png,,fold-2", "gone.png,a,", ",a,test", "0.png,nan,val"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.warns(match=r"t\.csv: rows without features, their images being unreadable \(2\): gone\.png"):
        found = rows(tmp_path / "t.csv", out)
    assert found == [
        ("3.png", "test", "b", 3),
        ("1.png", "fold-2", None, 1),
        ("gone.png", None, "a", None),
        (None if out.suffix == ".npy" else "", "test", "a", None),
        ("0.png", "val", None, 0),
    ]


def test_a_table_of_paths_alone(tmp_path, out):
    paint(tmp_path / "a.png", 5)
    (tmp_path / "t.csv").write_text("path\na.png\n")
    assert rows(tmp_path / "t.csv", out) == [("a.png", None, None, 5)]


def test_images_stored_in_a_table(tmp_path, out):
    stored = [{"bytes": paint(tmp_path / f"{i}.png", i).read_bytes(), "path": f"x{i}.png"} for i in range(2)]
    pyarrow.parquet.write_table(pyarrow.table({"image": stored}), tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet", out) == [("x0.png", None, None, 0), ("x1.png", None, None, 1)]


def test_a_damaged_image_keeps_its_row(tmp_path, out):
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"\x89PNG")
    paint(tmp_path / "photos" / "c.png", 3)
    with pytest.warns(match=r"rows without features.*\(1\): b\.png"):
        assert [value for *_, value in rows(tmp_path / "photos", out)] == [1, None, 3]


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_known_sets(tmp_path, name):
    features = embed("run", name, str(tmp_path / "o.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet")
    count = {"mnist": 12000, "digits": 1797}[name]
    assert features.shape == (count, SIDE * SIDE)
    assert table["split"].to_pylist() == {"mnist": ["train"] * 10000 + ["test"] * 2000, "digits": [None] * 1797}[name]
    if name == "digits":  # in scikit-learn's order
        assert table["label"].to_pylist()[:11] == [*"0123456789", "0"]


def test_names_that_are_no_utf_8_can_be_distinguished(tmp_path, out):
    folder = os.fsencode(tmp_path / "photos")
    paint(tmp_path / "photos" / "ash" / "0.png")
    for i, name in enumerate((b"ash/caf\xe9.png", b"ash/caf\xe8.png", rb"ash/caf\xe9.png", b"\xfcbel/0.png")):
        os.makedirs(os.path.dirname(folder + b"/" + name), exist_ok=True)
        paint(tmp_path / "x.png", i + 1).rename(os.fsdecode(folder + b"/" + name))
    found = {(path, label, value) for path, _, label, value in rows(tmp_path / "photos", out)}
    assert found == {
        ("ash/0.png", "ash", 0),
        (r"ash/caf\xe9.png", "ash", 1),
        (r"ash/caf\xe8.png", "ash", 2),
        (r"ash/caf\\xe9.png", "ash", 3),
        (r"\xfcbel/0.png", r"\xfcbel", 4),
    }


def test_no_input_and_no_file_of_a_user_is_replaced(tmp_path, monkeypatch):
    paint(tmp_path / "a.png")
    monkeypatch.setattr(commands.embed, "load_all", lambda *given, **named: pytest.fail("decoded first"))
    table = tmp_path / "t.csv"
    table.write_text("path,label,remark\na.png,a,by hand\n")
    (tmp_path / "link.parquet").symlink_to(table)
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "own.csv").write_text("mine")
    for out, message in (
        ("t.npy", r"t\.csv: is what the command reads"),
        ("linked/t.npy", r"t\.csv: is what the command reads"),
        ("link.parquet", "is what the command reads"),
        ("own.npy", r"own\.csv: is there, and was not written by counterpoise"),
    ):
        with pytest.raises(InputError, match=message):
            embed("run", str(table), str(tmp_path / out))
    assert table.read_text() == "path,label,remark\na.png,a,by hand\n"
    assert (tmp_path / "own.csv").read_text() == "mine"


def test_what_it_wrote_it_replaces_and_one_file_is_not_left_without_the_other(tmp_path, monkeypatch, out):
    paint(tmp_path / "photos" / "a.png", 1)
    rows(tmp_path / "photos", out)
    paint(tmp_path / "photos" / "b.png", 2)
    assert len(rows(tmp_path / "photos", out)) == 2

    def fail(*given, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.csv, "write_csv", fail)
    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(InputError, match="No space left"):
        embed("run", str(tmp_path / "photos"), str(tmp_path / f"new{out.suffix}"))
    assert not [*tmp_path.glob("new*")]


def test_own_output_in_the_folder_is_no_image(tmp_path):
    paint(tmp_path / "a.png", 1)
    for _ in range(2):
        assert len(embed("run", str(tmp_path), str(tmp_path / "o.npy"))) == 1


@pytest.mark.usefixtures("plain_shapes")
def test_what_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    for data, out, message in (
        ("digits", "o.txt", r"ends in \.parquet or \.npy"),
        (tmp_path / "a.txt", "o.npy", "expected a folder or a file ending in"),
        (tmp_path / "none.png", "o.npy", "no such file or folder"),
        (tmp_path, "o.npy", "holds no images"),
    ):
        with pytest.raises(InputError, match=message):
            embed("run", str(data), str(tmp_path / out))
    assert torch.is_grad_enabled()
