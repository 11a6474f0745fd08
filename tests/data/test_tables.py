"""Users' tables of images, tidy and untidy."""

import datetime
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from counterpoise.data import load, make_imperfect
from counterpoise.data.images import joined
from counterpoise.data.sources import load_all, source_files
from counterpoise.data.tables import list_table, split_filters
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
        pytest.warns(match=r"columns not used \(1\): theme"),
        pytest.warns(match=r"column 'domain': values in this order \(1\): 2"),
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


def of_hospitals(folder, name="all.csv"):
    """Twelve images of two classes, three hospitals, three styles and four months; one lies with no hospital."""
    rows = ["path,label,Client,domain,step,forget,group"]
    for i in range(12):
        save(folder / f"{i}.png", value=20 * i)
        client = ["north", "south", "east"][i % 3] if i else ""
        rows.append(
            f"{i}.png,{'ab'[i % 2]},{client},{['photo', 'sketch'][i // 6]},{(10, 9, 11)[i % 3]},{'yn'[i % 2]},7"
        )
    (folder / name).write_text("\n".join(rows))
    return folder / name


@pytest.mark.filterwarnings("ignore")
def test_columns_of_hospitals_dates_and_requests_become_factors(tmp_path):
    parts = load(of_hospitals(tmp_path))
    rows = {path: (images, i) for images in parts for i, path in enumerate(images.paths)}
    assert len(rows) == 12
    for number in range(12):
        images, i = rows[f"{number}.png"]
        said = {name: (*images.factor_names[name], None)[int(values[i])] for name, values in images.factors.items()}
        assert said == {
            "client": ["north", "south", "east"][number % 3] if number else None,
            "domain": ["photo", "sketch"][number // 6],
            "step": ("10", "9", "11")[number % 3],
            "forget": ("forgotten", "kept")[number % 2],
            "group": "7",
        }
    assert parts.train.factor_names == parts.test.factor_names
    assert parts.train.factor_names["step"] == ("9", "10", "11")
    joined(parts)


def test_what_columns_are_taken_for_is_said(tmp_path):
    listing = list_table(of_hospitals(tmp_path))
    assert f"{tmp_path}/all.csv: column 'client': values in this order (3): east, north, south; 1 rows have none" in (
        listing.notes
    )
    assert f"{tmp_path}/all.csv: column 'step': values in this order (3): 9, 10, 11" in listing.notes
    whole = list_table(tmp_path / "all.csv", whole=True)
    assert whole.factors == {}
    assert any("columns not used (5): Client, domain, step and 2 more" in note for note in whole.notes)


def test_a_request_to_forget_is_yes_or_no(tmp_path):
    for i in range(7):
        save(tmp_path / f"{i}.png")
    words = ["yes", "0", "", "TRUE", "n", "1", "nan"]
    lines = [f"{i}.png,a,{word}" for i, word in enumerate(words)]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,forget", *lines]))
    assert list_table(tmp_path / "a.csv").factors["forget"] == [1, 0, 0, 1, 0, 1, 0]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,forget", *lines, "0.png,a,maybe"]))
    with pytest.raises(InputError, match=r"a\.csv: row 8: column 'forget': expected yes or no \(1 or 0\), got 'maybe'"):
        list_table(tmp_path / "a.csv")


def test_two_columns_of_one_factor_are_refused(tmp_path):
    save(tmp_path / "0.png")
    (tmp_path / "a.csv").write_text("path,label,client,Client\n0.png,a,b,c\n")
    with pytest.raises(InputError, match="columns 'client' and 'Client' may each be the client"):
        list_table(tmp_path / "a.csv")


def test_columns_of_numbers_dates_and_truths_in_parquet(tmp_path):
    save(tmp_path / "0.png")
    days = [datetime.date(2020, 2, 1), datetime.date(2020, 1, 31), None]
    table = write(
        tmp_path,
        {
            "path": ["0.png"] * 3,
            "label": ["a"] * 3,
            "step": days,
            "forget": [True, False, None],
            "group": [2.0, 10.0, None],
        },
    )
    found = list_table(table)
    assert found.factors == {"step": [1, 0, -1], "forget": [1, 0, 0], "group": [0, 1, -1]}
    assert found.factor_names["step"] == ("2020-01-31", "2020-02-01")
    assert found.factor_names["group"] == ("2", "10")


@pytest.mark.filterwarnings("ignore")
def test_a_column_and_the_imperfection_that_would_write_it_are_refused(tmp_path):
    parts = load(of_hospitals(tmp_path))
    for spec, factor in (
        ("clients=2", "client"),
        ("steps=2", "step"),
        ("domain-steps=2", "step"),
        ("forget=.5", "forget"),
    ):
        with pytest.raises(InputError, match=f"the data has a factor or column '{factor}' of its own"):
            make_imperfect(parts, [spec], 0)
    assert make_imperfect(parts, ["client-tint=1"], 0).train.pixels.shape[1] == 3


@pytest.mark.filterwarnings("ignore")
def test_rows_of_one_value_are_a_data_set(tmp_path):
    table = of_hospitals(tmp_path)
    train, test = load(f"{table}:domain=sketch")
    assert {*train.paths, *test.paths} == {f"{i}.png" for i in range(6, 12)}
    assert train.name == "all.csv:domain=sketch"
    assert train.factor_names["domain"] == ("photo", "sketch")
    assert train.factors["domain"].unique().tolist() == [1]
    whole = load_all(f"{table}:client=north:domain=photo")
    assert whole.names == ("3.png",)
    assert source_files(f"{table}:domain=sketch") == source_files(table)
    joined([train, load(f"{table}:domain=photo").train])
    assert {*load(f"{table}:forget=yes").train.paths} <= {f"{i}.png" for i in range(0, 12, 2)}


def test_a_value_may_hold_a_colon(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png")
    (tmp_path / "a.csv").write_text("path,label,step\n0.png,a,10:30\n1.png,a,11:00\n")
    assert [item.name for item in list_table(tmp_path / "a.csv", where=[("step", "11:00")]).items] == ["1.png"]
    assert split_filters("a.csv:step=11:00:client=b") == ("a.csv", (("step", "11:00"), ("client", "b")))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("domain=scetch", r"all\.csv: domain 'scetch' is not known; did you mean 'sketch'\? Known: photo, sketch"),
        (
            "client=",
            r"expected \S+all\.csv:COLUMN=VALUE, COLUMN being one of step, .*, sensitive, got",
        ),
        ("label=a", "COLUMN being one of step"),
        ("", "COLUMN being one of step"),
        ("domain", "COLUMN being one of step"),
        ("domain=photo:domain=sketch", "a column is given twice"),
        ("step=10:client=south", "no row has step=10 and client=south"),
    ],
)
def test_choices_that_choose_nothing_are_refused(tmp_path, filters, message):
    with pytest.raises(InputError, match=message):
        load(f"{of_hospitals(tmp_path)}:{filters}")


def test_a_choice_by_a_column_that_is_not_there(tmp_path):
    save(tmp_path / "0.png")
    (tmp_path / "a.csv").write_text("path,label\n0.png,a\n")
    with pytest.raises(InputError, match=r"a\.csv: expected a column 'domain' to choose rows by; the table has none"):
        load(tmp_path / "a.csv:domain=photo")
    with pytest.raises(InputError, match=r"data: no such file or folder: .*gone\.csv$"):
        load(tmp_path / "gone.csv:domain=photo")
