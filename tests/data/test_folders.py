"""Users' folders, tidy and untidy."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data import load
from counterpoise.data.folders import index_labels, list_folder
from counterpoise.data.reading import readable_suffixes
from counterpoise.data.sources import load_all
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder, output


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
    with pytest.warns(match=r"classes that train has no image of \(1\): fox"):
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
    with pytest.warns(match="left out of the data: val"):
        train, test = load(tmp_path)
    assert len(test) == 4
    assert "left out of the data: val" in train.notes


def test_train_folder_alone_is_divided(tmp_path):
    fill(tmp_path / "train", cat=5, dog=5)
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    assert train.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, bus=2, train=2)
    with pytest.warns(match=r"folders named as splits are taken as classes \(1\): train"):
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


def test_stray_images_and_empty_classes_are_named(tmp_path):
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
        with pytest.raises(InputError, match=r"holds no images \(looked for \.png[^;]*$"):
            load(tmp_path)


def test_a_split_without_readable_images(tmp_path):
    fill(tmp_path / "train", cat=2)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "a.png").write_bytes(b"")
    with pytest.warns(match="1 of 3 images"), pytest.raises(InputError, match="no readable image in its test split"):
        load(tmp_path)


def test_order_of_labels():
    assert index_labels(["b", "a", "", None, float("nan")]) == ([1, 0, -1, -1, -1], ("a", "b"))
    assert index_labels([10, 9, 9.0])[1] == ("9", "10")
    assert index_labels([True, False])[1] == ("False", "True")
    assert index_labels(["e\u0301", "\u00e9"]) == ([0, 0], ("é",))
    # Neither is in any order among numbers.
    assert index_labels(["nan", "10", "9", "inf"])[1] == ("10", "9", "inf", "nan")


def test_pixels_are_shared_between_given_splits(tmp_path):
    fill(tmp_path / "train", cat=2)
    fill(tmp_path / "test", cat=2)
    train, test = load(tmp_path)
    assert train.pixels.untyped_storage().data_ptr() == test.pixels.untyped_storage().data_ptr()
    assert torch.equal(train.labels, torch.tensor([0, 0]))


def paths(folder):
    return [item.name for item in list_folder(folder).items]


def test_linked_folders_and_files_are_images_like_others(tmp_path):
    fill(tmp_path / "store", cat=2, dog=2)
    (tmp_path / "classes").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).symlink_to(tmp_path / "store" / name)
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "x.png").symlink_to(tmp_path / "store" / name / "0.png")
        save(tmp_path / "nested" / name / "own.png")
        (tmp_path / "nested" / name / "more").symlink_to(tmp_path / "store" / name)
    (tmp_path / "whole").symlink_to(tmp_path / "store")
    assert (
        paths(tmp_path / "classes") == paths(tmp_path / "whole") == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    )
    assert paths(tmp_path / "files") == ["cat/x.png", "dog/x.png"]
    assert paths(tmp_path / "nested")[:3] == ["cat/more/0.png", "cat/more/1.png", "cat/own.png"]


@pytest.mark.filterwarnings("error")
def test_links_that_go_round_or_nowhere_are_named(tmp_path):
    fill(tmp_path / "store", cat=1, dog=1)
    for link, target in (("cat/up", "store"), ("cat/self", "store/cat"), ("cat/to-dog", "store/dog")):
        (tmp_path / "store" / link).symlink_to(tmp_path / target)
    (tmp_path / "store" / "dog" / "to-cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "store" / "dog" / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "store" / "dog" / "itself").symlink_to(tmp_path / "store" / "dog" / "itself")
    (tmp_path / "classes").symlink_to(tmp_path / "store")
    found = list_folder(tmp_path / "classes")
    assert [item.name for item in found.items] == ["cat/0.png", "cat/to-dog/0.png", "dog/0.png", "dog/to-cat/0.png"]
    round_about, nowhere = found.notes
    assert "links to a folder that they lie in are not followed (6): cat/self, cat/to-dog/to-cat, cat/up" in round_about
    assert nowhere.endswith(
        "links that lead nowhere are passed over (4): cat/to-dog/itself, cat/to-dog/lost, dog/itself and 1 more"
    )


def test_a_link_to_no_image_is_named_with_those_that_cannot_be_read(tmp_path):
    fill(tmp_path, cat=3)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(match=r"1 of 4 images cannot be read.*cat/gone\.png"):
        load(tmp_path)


def test_every_ending_that_pillow_reads_and_images_without_any(tmp_path):
    fill(tmp_path, cat=1, dog=2)
    image = Image.effect_noise((8, 8), 60).convert("RGB")
    names = ["a.jfif", "b.jpe", "c.gif", "d.JPG_large", "e", "f.heic"]
    for name in names:
        image.save(tmp_path / "cat" / name, "GIF" if name.endswith("gif") else "JPEG")
    for name in {"g.avif", "h.jp2"}:
        if name[1:] in readable_suffixes():
            image.save(tmp_path / "cat" / name)
            names.append(name)
    (tmp_path / "cat" / "Thumbs.db").write_bytes(bytes(100))
    (tmp_path / "cat" / "notes.txt").write_text("BMW: starts as a bitmap does")
    (tmp_path / "cat" / "LICENSE").write_text("none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = load(tmp_path)
    assert {*train.paths, *test.paths} == {
        *(f"cat/{name}" for name in ["0.png", *names]),
        "dog/0.png",
        "dog/1.png",
    }


def test_images_that_nothing_here_reads_are_named(tmp_path):
    fill(tmp_path, cat=3)
    (tmp_path / "cat" / "a.svg").write_text("<svg/>")
    Image.new("L", (8, 8)).save(tmp_path / "cat" / "b.nef", "TIFF")  # what a camera's thumbnail looks like
    with pytest.warns(match=r"2 of 5 images cannot be read.*cat/a\.svg.*cat/b\.nef"):
        assert load(tmp_path).train.unreadable == ("cat/a.svg", "cat/b.nef")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("pets/cat/0 pets/dog/0", r"holds one folder, 'pets', .* of its own \(cat, dog\); .* give \S+/pets as data"),
        ("pets/train/cat/0 pets/test/cat/0", r"holds one folder, 'pets', .* \(test, train\); if .* or splits, give"),
        ("train/pets/cat/0 test/pets/cat/0", r"holds one folder, 'pets', .*; .* move them up, into \S+/t"),
        ("test/cat/0 test/dog/0", r"expected a split named train to learn from, found: test"),
        ("val/0", r"expected a split named train to learn from, found: val"),
        ("val/cat/0 test/cat/0", r"expected a split named train to learn from, found: test, val"),
        ("images/train/0 images/val/0 labels/train/", r"images/ beside labels/ is a layout of boxes or masks \(YOLO"),
        ("images/0 masks/0", r"images/ beside masks/ is a layout of boxes or masks"),
        ("train/images/0 train/masks/0 test/images/0", r"images/ beside masks/ is a layout of boxes or masks"),
        ("JPEGImages/0 Annotations/ ImageSets/", r"JPEGImages/ beside Annotations/ is a layout of boxes or masks"),
        ("images/0 labels/", r"images/ beside labels/ .* give \S+/images to learn without labels"),
        ("train/images/0 train/labels/ valid/images/0 valid/labels/", r"images/ beside labels/ is a layout of boxes"),
        ("cat/train/0 cat/test/0 dog/train/0 dog/test/0", r"its folders hold splits \(cat/test, cat/train\); expected"),
        ("train2017/0 val2017/0 annotations/", r"its folders look like splits \(train2017, val2017\); rename them"),
        ("training_set/cat/0 test_set/cat/0", r"its folders look like splits \(test_set, training_set\)"),
        ("images_train/0 images_test/0", r"its folders look like splits"),
        ("cat/0 dog/0 test/cat/0 test/dog/0", r"'test' holds the folders cat, dog, as a split does"),
        ("train/cat/0 test/", r"test: holds no images; remove it, or fill it"),
        ("train/ test/cat/0", r"train: holds no images; remove it, or fill it"),
    ],
)
def test_layouts_that_are_something_else_are_refused(tmp_path, files, message):
    for name in files.split():
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "0.txt").write_text("0 0.5 0.5 0.2 0.2")
        else:
            save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_one_class_is_said(tmp_path):
    fill(tmp_path, pictures=5)
    with pytest.warns(match="all images are of one class, 'pictures', by which nothing can be scored"):
        load(tmp_path)


def test_what_lies_beside_splits_is_named(tmp_path):
    fill(tmp_path / "train", cat=2)
    fill(tmp_path / "test", cat=2)
    fill(tmp_path, extra=2)
    save(tmp_path / "loose.png")
    (tmp_path / "annotations").mkdir()
    with (
        pytest.warns(match=r"images beside the folders of splits are left out \(1\): loose\.png"),
        pytest.warns(match="left out of the data: extra"),
    ):
        train, test = load(tmp_path)
    assert (len(train), len(test), train.classes) == (2, 2, ("cat",))


def test_a_folder_of_splits_without_classes(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / "images" / part / "0.png")
    train, test = load(tmp_path / "images")
    assert (train.labels.tolist(), test.labels.tolist()) == ([-1], [-1])


def test_classes_called_as_missing_values_are_classes(tmp_path):
    fill(tmp_path, nan=2, None_=2, NA=2)
    assert load(tmp_path).train.classes == ("NA", "None_", "nan")


def test_what_this_program_wrote_is_no_data(tmp_path):
    fill(tmp_path, cat=2, dog=2)
    with output(tmp_path / "cat" / "sheet.png") as aside:
        save(aside)
    save(make_output_folder(tmp_path / "out", "run") / "picture.png")
    save(make_output_folder(tmp_path / "all" / "first", "comparison") / "picture.png")
    save(make_output_folder(tmp_path / "elsewhere" / "runs", "run").parent / "runs" / "picture.png")
    (tmp_path / "dog" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "dog" / "linked.png").symlink_to(tmp_path / "cat" / "sheet.png")
    with pytest.warns(
        match=r"written by counterpoise, and passed over \(6\): all, cat/sheet\.png, dog/linked and 3 more"
    ):
        train, test = load(tmp_path)
    assert {*train.paths, *test.paths} == {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(2)}
    assert train.classes == ("cat", "dog")
    assert any("written by counterpoise" in note for note in train.notes)
    save(tmp_path / "cat" / "sheet.png", value=9)  # a user's own from here on
    assert "cat/sheet.png" in paths(tmp_path)


def test_a_folder_that_is_named_is_read_whoever_wrote_it(tmp_path):
    for i in range(2):
        save(make_output_folder(tmp_path / "scenes", "scenes") / f"{i}.png")
    assert paths(tmp_path / "scenes") == ["0.png", "1.png"]
    (tmp_path / "linked").symlink_to(tmp_path / "scenes")
    assert paths(tmp_path / "linked") == ["0.png", "1.png"]
    with pytest.raises(InputError, match=r"holds no images .*; .*written by counterpoise, and passed over \(2\)"):
        load(tmp_path)


def test_what_is_no_file_and_what_cannot_be_read(tmp_path, monkeypatch):
    fill(tmp_path, cat=2)
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # whoever opens it waits for ever
    os.mkfifo(tmp_path / "cat" / "pipe")
    assert paths(tmp_path) == ["cat/0.png", "cat/1.png"]

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
def test_a_folder_of_unlabelled_images_beside_those_of_classes(tmp_path, name):
    fill(tmp_path, cat=5, dog=5, **{name: 10})
    save(tmp_path / name / "deep" / "er.png")
    with pytest.warns(match=rf"11 images in folders named '{name}' have no label"):
        train, test = load(tmp_path)
    assert train.classes == ("cat", "dog")
    for images in (train, test):
        assert [path.startswith(name) for path in images.paths] == (images.labels == -1).tolist()
    assert (train.labels == -1).sum() + (test.labels == -1).sum() == 11


@pytest.mark.filterwarnings("ignore")
def test_unlabelled_images_of_a_split_and_alone(tmp_path):
    fill(tmp_path / "train", cat=2, unlabelled=3)
    fill(tmp_path / "test", cat=2)
    train, test = load(tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, -1, -1, -1], [0, 0])
    fill(tmp_path / "bare", unlabelled=5)
    assert load(tmp_path / "bare").train.classes == ()
    assert load_all(tmp_path / "train").labels == ("cat", "cat", None, None, None)


def test_classes_a_level_too_deep_are_seen_beside_unlabelled_images(tmp_path):
    fill(tmp_path / "photos", cat=2, dog=2)
    fill(tmp_path, unlabelled=2)
    with pytest.raises(InputError, match=r"holds one folder, 'photos', which has folders of its own \(cat, dog\)"):
        load(tmp_path)


def test_unlabelled_images_beside_splits_are_left_out_by_name(tmp_path):
    fill(tmp_path / "train", cat=2)
    fill(tmp_path / "test", cat=2)
    fill(tmp_path, unlabelled=2)
    with pytest.warns(match="left out of the data: unlabelled"):
        load(tmp_path)
