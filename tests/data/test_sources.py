"""Every place that data comes from."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data import load, named, sources
from counterpoise.data.sources import load_all
from counterpoise.data.targets import load_targets
from counterpoise.errors import InputError
from counterpoise.files import output
from sets import idx_set

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


def test_size_resizes_with_antialiasing():
    from torchvision.transforms.v2.functional import resize

    plain, resized = load("mnist"), load("mnist", size=16)
    assert resized.train.pixels.shape == (10000, 1, 16, 16)
    assert torch.equal(resized.test.pixels[:5], resize(plain.test.pixels[:5], [16, 16], antialias=True))
    assert torch.equal(resized.test.labels, plain.test.labels)


def test_unknown_names_and_missing_paths(tmp_path):
    with pytest.raises(InputError, match="'fashion-mnits' is not known; did you mean 'fashion-mnist'"):
        load("fashion-mnits")
    with pytest.raises(InputError, match=r"data: no such file or folder: nowhere/at/all"):
        load("nowhere/at/all")
    with pytest.raises(InputError, match=r"data: no such file or folder: pets\.csv"):
        load("pets.csv")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"expected a folder or a file ending in \.csv or \.parquet, got .*a\.txt"):
        load(tmp_path / "a.txt")
    with pytest.raises(InputError, match="data_dir: no such folder: /nowhere"):
        load("mnist", data_dir="/nowhere")
    with pytest.raises(InputError, match="size: expected a whole number of at least 1, got 0"):
        load("mnist", size=0)
    with pytest.raises(InputError, match=r"data: .* holds a NUL character"):
        load("a\0b")
    with pytest.raises(InputError, match="'mnist:half' is not known; did you mean 'mnist"):
        load("mnist:half")


@pytest.mark.parametrize(
    ("data", "loader"),
    [
        ("sklearn:wine", "load_rows"),
        ("rows:t.csv", "load_rows"),
        ("x.npy", "load_rows"),
        ("scenes:count=3", "load_annotated"),
        ("photos/annotations.json", "load_annotated"),
    ],
)
@pytest.mark.parametrize("function", [load, load_all])
def test_data_of_another_kind_is_refused_with_the_loader_that_reads_it(function, data, loader):
    with pytest.raises(InputError, match=f"data: expected images with labels; '{data}' means .*, which {loader} reads"):
        function(data)


def test_a_table_of_rows_is_refused_with_what_chooses_rows_of_a_table_of_images():
    with pytest.raises(
        InputError, match=r"load_rows reads; .* by t\.csv:COLUMN=VALUE, COLUMN being one of step, client"
    ):
        load("t.csv:label=kind")


@pytest.fixture
def themes(tmp_path, monkeypatch):
    """Three themes that draw the same ten names, as the system's."""
    rng = np.random.default_rng(0)
    for theme in ("Tango", "gnome", "oxygen"):
        place = tmp_path / theme / "48x48" / "apps"
        place.mkdir(parents=True)
        listed = "[Icon Theme]\nName=x\nDirectories=48x48/apps\n\n[48x48/apps]\nSize=48\nContext=Applications\n"
        (tmp_path / theme / "index.theme").write_text(listed)
        for i in range(10):
            blocks = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            blocks.resize((48, 48), Image.Resampling.NEAREST).save(place / f"thing-{i}.png")
    monkeypatch.setattr(named, "load_icons", partial(named.load_icons, root=tmp_path))
    monkeypatch.setattr(named, "source_files", partial(named.source_files, root=tmp_path))
    return tmp_path


THREE = "icons:themes=tango,gnome,oxygen"


def test_icons_are_loaded_by_name_at_the_size_and_with_the_seed_asked_for(themes):
    train, test = load(THREE, size=16, seed=3)
    expected = named.load_icons(THREE, 16, 3)
    assert train.pixels.shape == (20, 3, 16, 16)
    assert train.factor_names["domain"] == ("tango", "gnome", "oxygen")
    assert all(torch.equal(ours.pixels, theirs.pixels) for ours, theirs in zip((train, test), expected, strict=True))
    assert not torch.equal(load(THREE, size=16, seed=4).test.pixels, test.pixels)
    whole = load_all(THREE)
    assert (len(whole.names), whole.images.pixels.shape[2:]) == (30, (32, 32))
    assert [whole.splits.count(part) for part in ("train", "test")] == [20, 10]
    assert "Tango/48x48/apps/thing-0.png" in whole.names
    assert len(sources.source_files(THREE)) == 33


def test_icons_that_are_not_there_are_refused_by_their_package(themes):
    with pytest.raises(InputError, match="install Debian's packages mate-icon-theme"):
        load("icons:themes=mate,tango")


def test_emoji_are_loaded_by_name(tmp_path):
    pictures = tmp_path / "img" / "twitter" / "64"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
    about = [{"name": f"N {i}", "short_name": f"n{i}", "image": f"{i}.png", "subcategory": "s"} for i in range(6)]
    (tmp_path / "emoji.json").write_text(json.dumps([{**one, "category": f"c{i % 2}"} for i, one in enumerate(about)]))
    train, test = load(f"emoji:{tmp_path}:label=category")
    assert (train.pixels.shape[1:], train.classes) == ((3, 32, 32), ("c0", "c1"))
    assert len(train) + len(test) == 6
    assert sources.source_files(f"emoji:{tmp_path}") == sorted([*pictures.iterdir(), tmp_path / "emoji.json"])


def test_a_folder_of_annotations_has_a_loader_of_its_own(tmp_path):
    paint(tmp_path / "pets" / "cat" / "0.png")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "annotations.json").write_text("{}")
    for name in ("images", "masks"):
        paint(tmp_path / "maps" / name / "0.png")
    found = [sources.loader_of(tmp_path / name) for name in ("pets", "boxes", "maps", "none", "boxes/annotations.json")]
    assert found == [None, "data.annotated_sources", "data.annotated_sources", None, "data.annotated_sources"]
    assert [sources.loader_of(name) for name in ("mnist", "icons", "x.npy")] == [None, "data.named", "data.rows"]


def paint(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 6), value).save(path)
    return path


def test_source_files_are_those_that_load_reads(tmp_path, monkeypatch):
    files = [paint(tmp_path / "pets" / name / f"{i}.png", i) for name in ("cat", "dog") for i in range(3)]
    (tmp_path / "far").mkdir()
    linked = paint(tmp_path / "far" / "0.png")
    (tmp_path / "pets" / "dog" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "pets" / "notes.txt").write_text("no image")
    with output(tmp_path / "pets" / "sheet.png") as aside:
        paint(aside)
    found = sources.source_files(tmp_path / "pets")
    assert found == [*files, tmp_path / "pets" / "dog" / "more" / "0.png"]
    assert found[-1].resolve() == linked
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.source_files("~/pets") == found
    with pytest.warns(match=r"written by counterpoise, and passed over \(1\): sheet\.png"):
        train, test = load("~/pets")
    assert len(train) + len(test) == len(found)


def test_source_files_of_a_table_are_it_and_all_that_it_lists(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,x\n gone.png,x\na.png,y\n")
    assert sources.source_files(tmp_path / "t.csv") == [tmp_path / name for name in ("t.csv", "a.png", "gone.png")]


def test_source_files_of_sets_elsewhere(tmp_path, pets):
    idx = idx_set(tmp_path / "mnist")
    assert sorted(sources.source_files("mnist:full", data_dir=tmp_path)) == sorted(idx.iterdir())
    assert sources.source_files("fashion-mnist:full") == []
    assert sources.source_files("glyphs:classes=20") == sources.source_files("digits") == []
    food, other = paint(tmp_path / "food-101" / "images" / "a.jpg"), paint(tmp_path / "dtd" / "b.jpg")
    assert sources.source_files("torchvision:Food101", data_dir=tmp_path) == [food]
    assert {food, other} < {*sources.source_files("torchvision:ImageNet", data_dir=tmp_path)}
    assert sources.source_files(f"hf:{pets}/single") == sorted((pets / "single").iterdir())
    assert sources.source_files("hf:some/where") == []


@pytest.mark.parametrize("data", ["nowhere/at/all", "rotations:class=3", "diabetes", "planted:nodes=60", "pyg:DBLP"])
def test_what_is_no_file_has_no_source_files(data):
    assert sources.source_files(data) == []


def test_source_files_of_a_table_of_numbers_are_the_table(tmp_path):
    (tmp_path / "t.CSV").write_text("size,class,target\n1,2,3\n")
    assert sources.source_files(tmp_path / "t.CSV") == [tmp_path / "t.CSV"]


def test_source_files_of_what_load_refuses(tmp_path):
    files = [paint(tmp_path / "images" / part / "a.png") for part in ("train", "val")]
    (tmp_path / "labels").mkdir()
    assert sources.source_files(tmp_path) == [*files, tmp_path / "classes.txt"]  # where boxes or masks may have names
    assert sources.source_files(files[0]) == [files[0]]


def test_all_images_of_a_known_set():
    whole = load_all("mnist", size=8)
    assert whole.images.pixels.shape == (12000, 1, 8, 8)
    assert (len(whole.names), whole.kept.tolist()) == (12000, list(range(12000)))
    assert whole.unreadable() == []
    torch.testing.assert_close(whole.images.pixels[10000:], load("mnist", size=8).test.pixels)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("seed", [1.5, -1, "1"])
def test_what_is_no_seed_is_refused_whether_it_divides_or_not(seed):
    for call in (lambda: load("mnist", seed=seed), lambda: load_targets("diabetes", seed=seed)):
        with pytest.raises(InputError, match="seed: expected a whole number of at least 0"):
            call()
