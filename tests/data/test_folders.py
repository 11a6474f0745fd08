"""Users' folders and tables, tidy and untidy."""

import warnings

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from counterpoise.data import load
from counterpoise.data.folders import index_labels
from counterpoise.errors import InputError


def save(path, value=0, shape=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def fill(folder, **counts):
    for name, count in counts.items():
        for i in range(count):
            save(folder / name / f"{i}.png", value=i)


def test_class_folders_are_divided(tmp_path):
    fill(tmp_path, cat=10, dog=5)
    train, test = load(str(tmp_path), seed=3)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.counts().tolist() == [8, 4]
    assert test.counts().tolist() == [2, 1]
    assert train.name == tmp_path.name
    for images in (train, test):
        for i, path in enumerate(images.paths):
            assert path == f"{images.classes[images.labels[i]]}/{images.pixels[i, 0, 0, 0]}.png"
    assert load(str(tmp_path), seed=3).train.paths == train.paths


def test_train_and_test_folders(tmp_path):
    fill(tmp_path / "train", cat=3, dog=2)
    fill(tmp_path / "test", dog=1, fox=2)
    train, test = load(tmp_path)
    assert train.classes == test.classes == ("cat", "dog", "fox")
    assert train.counts().tolist() == [3, 2, 0]
    assert test.counts().tolist() == [0, 1, 2]
    assert test.paths == ("test/dog/0.png", "test/fox/0.png", "test/fox/1.png")
    assert test.pixels[:, 0, 0, 0].tolist() == [0, 0, 1]


def test_val_serves_where_there_is_no_test(tmp_path):
    fill(tmp_path / "Train", cat=2)
    fill(tmp_path / "val", cat=1)
    assert len(load(tmp_path).test) == 1
    fill(tmp_path / "test", cat=4)
    train, test = load(tmp_path)
    assert len(test) == 4
    assert train.notes == ("left out of the data: val",)


def test_train_folder_alone_is_divided(tmp_path):
    fill(tmp_path / "train", cat=5, dog=5)
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    assert train.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, bus=2, train=2)
    assert load(tmp_path).train.classes == ("bus", "train")


def test_unlabelled_train_beside_labelled_test(tmp_path):
    save(tmp_path / "train" / "a.png")
    fill(tmp_path / "test", cat=1, dog=1)
    train, test = load(tmp_path)
    assert train.labels.tolist() == [-1]
    assert test.labels.tolist() == [0, 1]


def test_flat_folder_is_unlabelled(tmp_path):
    for i in range(10):
        save(tmp_path / f"{i}.png", value=i)
    train, test = load(tmp_path)
    assert train.classes == ()
    assert (train.labels == -1).all()
    assert (len(train), len(test)) == (8, 2)


def test_names_beyond_ascii_depth_case_and_hidden_files(tmp_path):
    save(tmp_path / "猫" / "deep" / "α β.PNG", value=1)
    save(tmp_path / "猫" / "b.png", value=2)
    fill(tmp_path, **{"größe": 2})
    (tmp_path / "猫" / ".hidden.png").write_bytes(b"")
    (tmp_path / "猫" / "notes.txt").write_text("no image")
    fill(tmp_path / ".thumbnails", small=2)
    train, test = load(tmp_path)
    assert train.classes == ("größe", "猫")
    assert {*train.paths, *test.paths} == {"größe/0.png", "größe/1.png", "猫/b.png", "猫/deep/α β.PNG"}


def test_stray_images_and_empty_classes_are_told(tmp_path):
    fill(tmp_path, cat=2)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "stray.png")
    with (
        pytest.warns(match=r"images beside the class folders are left out \(1\): stray\.png"),
        pytest.warns(match=r"folders without images are left out \(1\): empty"),
    ):
        train, _ = load(tmp_path)
    assert train.classes == ("cat",)


def test_a_class_with_one_image_and_a_corrupt_one(tmp_path):
    fill(tmp_path, cat=5, dog=1)
    (tmp_path / "cat" / "bad.png").write_bytes(b"\x89PNG")
    with (
        pytest.warns(match=r"1 of 7 images cannot be read and are left out: cat/bad\.png"),
        pytest.warns(match=r"classes with a single image, which stays in train \(1\): dog"),
    ):
        train, test = load(tmp_path)
    assert train.unreadable == ("cat/bad.png",)
    assert "1 unreadable images left out" in train.notes
    assert train.counts().tolist() == [4, 1]
    assert test.counts().tolist() == [1, 0]


def test_mixed_sizes_and_modes(tmp_path):
    save(tmp_path / "a" / "0.png", shape=(10, 12))
    save(tmp_path / "a" / "1.jpg", shape=(30, 20, 3))
    save(tmp_path / "b" / "0.bmp", shape=(7, 9))
    save(tmp_path / "b" / "1.png", shape=(8, 8))
    train, test = load(tmp_path, size=16)
    assert train.pixels.shape == (2, 3, 16, 16)
    assert test.pixels.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: (folder / "a" / "b").mkdir(parents=True)])
def test_a_folder_without_images(tmp_path, make):
    make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"holds no images \(looked for \.png"):
            load(tmp_path)


def test_a_split_without_readable_images(tmp_path):
    fill(tmp_path / "train", cat=2)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "a.png").write_bytes(b"")
    with pytest.warns(match="1 of 3 images"), pytest.raises(InputError, match="no readable image in its test split"):
        load(tmp_path)


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
        ("name;label\n0.png;a\n", "expected a column named path, file, filename or image, found: name;label"),
        ("path,label\n0.png,a,b\n", "a.csv: cannot be read: CSV parse error"),
        ("path,label\n0.png,a\n,a\n", "a.csv: row 2 has no path"),
        ("path,label,split\n0.png,a,tset\n", "split 'tset' is not known; did you mean 'test'"),
        ("path,label,split\n0.png,a,test\n", "no readable image in its train split"),
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


def test_order_of_labels():
    assert index_labels(["b", "a", "", None, float("nan")]) == ([1, 0, -1, -1, -1], ("a", "b"))
    assert index_labels([10, 9, 9.0])[1] == ("9", "10")
    assert index_labels([True, False])[1] == ("False", "True")
    assert index_labels(["e\u0301", "\u00e9"]) == ([0, 0], ("é",))


def test_pixels_are_shared_between_given_splits(tmp_path):
    fill(tmp_path / "train", cat=2)
    fill(tmp_path / "test", cat=2)
    train, test = load(tmp_path)
    assert train.pixels.untyped_storage().data_ptr() == test.pixels.untyped_storage().data_ptr()
    assert torch.equal(train.labels, torch.tensor([0, 0]))
