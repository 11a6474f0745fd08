"""Users' tables of images, tidy and untidy."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from counterpoise.data import load
from counterpoise.data.tables import list_table
from counterpoise.errors import InputError


def save(path, value=0, shape=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path


def write(folder, columns):
    """A Parquet table."""
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def test_csv_of_paths_and_labels(tmp_path):
    for i in range(4):
        save(tmp_path / "images" / f"{i}.png", value=i)
    rows = ["images/0.png,train,10", "images/1.png,train,9", "images/2.png,test,10", "images/3.png,TRAIN,"]
    (tmp_path / "pets.csv").write_text("\n".join(["File,split,Class", *rows]), encoding="utf-8-sig")
    train, test = load(tmp_path / "pets.csv")
    assert train.classes == ("9", "10")
    assert train.labels.tolist() == [1, 0, -1]
    assert train.paths == ("images/0.png", "images/1.png", "images/3.png")
    assert test.labels.tolist() == [1]
    assert test.pixels.unique().tolist() == [2]
    assert train.name == "pets.csv"


def test_csv_keeps_names_as_they_are_written(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,label\n0.png,007\n1.png,007\n2.png,NA\n3.png,NA\n")
    with pytest.warns(match=r"taken as classes: 'NA' \(2\); leave the cell empty where there is no label"):
        assert load(tmp_path / "a.csv").train.classes == ("007", "NA")


def test_csv_without_split_is_divided_and_absolute_paths_work(tmp_path):
    for i in range(10):
        save(tmp_path / "far" / f"{i}.png")
    (tmp_path / "near").mkdir()
    lines = [f"{tmp_path}/far/{i}.png,{'ab'[i % 2]}" for i in range(10)]
    (tmp_path / "near" / "a.csv").write_text("\n".join(["image,target", *lines]))
    train, test = load(tmp_path / "near" / "a.csv")
    assert train.counts().tolist() == [4, 4]
    assert test.counts().tolist() == [1, 1]


def test_parquet_with_numbers_and_gaps(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png")
    table = pyarrow.table(
        {
            "filename": [f"{i}.png" for i in range(5)],
            "category": pyarrow.array([2.0, 10.0, None, 2.0, 10.0]),
            "split": ["train", "train", "train", "valid", "valid"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    train, test = load(str(tmp_path / "a.parquet"))
    assert train.classes == ("2", "10")
    assert train.labels.tolist() == [0, 1, -1]
    assert test.labels.tolist() == [0, 1]


def test_missing_files_in_a_table_are_left_out(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,label\n0.png,a\n1.png,a\ngone.png,b\n")
    with pytest.warns(UserWarning, match=r"a\.csv: 1 of 3 images cannot be read and are left out: gone\.png"):
        train, test = load(tmp_path / "a.csv")
    assert len(train) + len(test) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv: cannot be read: Empty CSV file"),
        ("path,label\n", "a.csv: has no rows"),
        ("path,lable\n0.png,a\n", "expected a column named label, class, target or category, found: path, lable"),
        ("name;label\n0.png;a\n", "expected a column named path, file, filename or image, found: name, label"),
        ("path,label\n0.png,a,b\n", "a.csv: cannot be read: CSV parse error"),
        ("path,label\n0.png,a\n,a\n", "a.csv: row 2 has no path"),
        ("path,label,split\n0.png,a,tset\n", "split 'tset' is not known; did you mean 'test'"),
        ("path,label,split\n0.png,a,test\n", r"a\.csv: expected a split named train to learn from, found: test"),
    ],
)
def test_malformed_tables(tmp_path, content, message):
    save(tmp_path / "0.png")
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.csv")


def test_a_damaged_parquet_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        load(tmp_path / "a.parquet")


def test_words_for_no_value_are_no_class(tmp_path):
    words = ["nan", "NaN", "", "None", "null", "<NA>", "NaT", " ", "cat", "none"]
    for i in range(len(words)):
        save(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{i}.png,{word}\n" for i, word in enumerate(words)))
    found = list_table(tmp_path / "a.csv")
    assert found.labels == [None] * 8 + ["cat", "none"]
    said, doubtful = found.notes
    assert said.endswith(
        "by the words that say so: 'nan' (1), 'NaN' (1), 'None' (1), 'null' (1), '<NA>' (1), 'NaT' (1)"
    )
    assert "taken as classes: 'none' (1)" in doubtful
    values = pyarrow.array(["nan", None, "cat"]), pyarrow.array([float("nan"), None, 2.0])
    for labels, last in zip(values, ("cat", "2"), strict=True):
        table = write(tmp_path, {"path": ["0.png", "1.png", "2.png"], "label": labels})
        assert list_table(table).labels == [None, None, last]


def test_columns_that_serve_and_columns_that_do_not_are_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("file,category,theme,domain,group\na.png,x,1,2,3\n")
    with (
        pytest.warns(match=r"column 'file' serves as path, 'category' serves as label"),
        pytest.warns(match=r"columns not used \(3\): theme, domain, group"),
        pytest.raises(InputError, match="no class has two images"),
    ):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label,class", "columns 'label' and 'class' may each be the label; rename or remove all but one"),
        ("image,filename,label", "columns 'image' and 'filename' may each be the path"),
        ("path,label,Label", "columns 'label' and 'Label' may each be the label"),
        ("path,label,label", "columns 'label' and 'label' may each be the label"),
    ],
)
def test_columns_that_may_be_either_are_refused(tmp_path, header, message):
    (tmp_path / "a.csv").write_text(f"{header}\na.png,b,c\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.csv")


def test_images_stored_in_a_table(tmp_path):
    stored = [save(tmp_path / f"{i}.png", i).read_bytes() for i in range(4)]
    labels, split = ["a", "b", "a", "b"], ["train", "train", "test", "test"]
    structs = [{"bytes": data, "path": None if i else "x.png"} for i, data in enumerate(stored)]
    structs[3] = {"bytes": None, "path": "3.png"}  # the Hub has either
    for name, column in (
        ("image", structs),
        ("path", stored),
        ("image", pyarrow.array(stored, pyarrow.large_binary())),
    ):
        train, test = load(write(tmp_path, {name: column, "label": labels, "split": split}))
        assert [*train.pixels[:, 0, 0, 0], *test.pixels[:, 0, 0, 0]] == [0, 1, 2, 3]
        assert (train.labels.tolist(), train.classes) == ([0, 1], ("a", "b"))
    assert [item.name for item in list_table(write(tmp_path, {"image": structs, "label": labels})).items] == [
        "x.png",
        "image[1]",
        "image[2]",
        "3.png",
    ]


def test_bytes_are_text_and_paths_of_any_encoding(tmp_path):
    name = b"caf\xe9.png"
    save(tmp_path / "x.png", 5).rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    found = list_table(write(tmp_path, {"path": [name], "label": [b"ash"], "split": [b"train"]}))
    assert (found.labels, found.items[0].split) == (["ash"], "train")
    with found.items[0].open() as image:
        assert image.getpixel((0, 0)) == 5


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"path": ["a.png"], "label": [["x"]]},
            "column 'label' holds lists or maps; expected one text or number a row",
        ),
        ({"path": ["a.png"], "label": [{"x": 1}]}, "column 'label' holds structs; expected one text"),
        ({"path": ["a.png"], "label": ["x"], "split": [["train"]]}, "column 'split' holds lists"),
        ({"path": ["a.png"], "label": [b"\xff"]}, "column 'label' holds bytes that are no UTF-8 text"),
        ({"path": [["a.png"]], "label": ["x"]}, "column 'path' holds lists or maps; .* hf:PATH"),
        ({"image": [{"x": 1}], "label": ["x"]}, "column 'image' holds structs; .* hf:PATH"),
        ({"image": [{"bytes": None, "path": None}], "label": ["x"]}, "row 1 has no path"),
        ({"path": ["a\0.png"], "label": ["x"]}, "row 1: its path holds a NUL character"),
        ({"path": ["a.png"], "label": ["x"], "split": [None]}, "none of its 1 files exists"),
    ],
)
def test_columns_of_another_kind_are_refused_in_a_line(tmp_path, columns, message):
    with pytest.raises(InputError, match=message) as caught:
        load(write(tmp_path, columns))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\n0.png,a\n".encode("utf-16"), "a.csv: is no UTF-8 text .UTF-16"),
        ("path,label\n0.png,a\n".encode("utf-16-le"), "a.csv: is no UTF-8 text .UTF-16"),
        ("path,label\n0.png,größe\n".encode("latin-1"), "invalid UTF8 data; expected UTF-8"),
        (b"path,label\na\0b.png,a\n", "row 1: its path holds a NUL character"),
        (b"path,label,split\n0.png,a,train\n0.png,a,\n", "row 2 has no split, which others have"),
        (b"path,label,split\n0.png,a,val\n", "expected a split named train to learn from, found: val"),
    ],
)
def test_texts_that_are_refused(tmp_path, content, message):
    save(tmp_path / "0.png")
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_other_separators_and_a_mark_of_utf_8(tmp_path, mark, encoding):
    (tmp_path / "a.csv").write_text(f"path{mark}label\n0,5.png{mark}a\n", encoding=encoding)
    save(tmp_path / "0,5.png")
    found = list_table(tmp_path / "a.csv")
    assert ([item.name for item in found.items], found.labels, found.notes) == (["0,5.png"], ["a"], ())


def test_paths_as_other_systems_and_people_write_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "photos" / "a.png", 1)
    save(tmp_path / "photos" / "line\nbreak.png", 1)
    (tmp_path / "lists").mkdir()
    written = [" ../photos/a.png ", "..\\photos\\a.png", "~/photos/a.png", '"../photos/line\nbreak.png"']
    (tmp_path / "lists" / "l.csv").write_text("path,label\n" + "".join(f"{path},x\n" for path in written))
    found = list_table(tmp_path / "lists" / "l.csv")
    assert [item.name for item in found.items] == [path.strip('"') for path in written]
    for item in found.items:
        with item.open() as image:
            assert image.getpixel((0, 0)) == 1
    save(tmp_path / "lists" / " b.png", 2)  # blanks may be part of a name
    (tmp_path / "lists" / "l.csv").write_text("path,label\n b.png,x\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "lists" / "l.csv")
    assert list_table(tmp_path / "link.csv").notes == ()
    with list_table(tmp_path / "lists" / "l.csv").items[0].open() as image:
        assert image.getpixel((0, 0)) == 2


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "l.csv"
    for path, where in (
        ("photos/a.png", "lists/photos/a.png"),
        ("https://example.org/a.png", "lists/https:/example.org"),
    ):
        table.write_text(f"path,label\n{path},x\n{path},y\n")
        with pytest.raises(
            InputError, match=rf"none of its 2 files exists; looked for {tmp_path}/{where}.*not fetched"
        ):
            load(table)
    save(tmp_path / "lists" / "b.png")
    table.write_text("path,label\na.png,x\nb.png,x\n")
    assert "1 of its 2 files do not exist; looked for" in list_table(table).notes[0]
