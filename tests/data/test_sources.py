"""Every place that data comes from."""

import gzip
import json
import os
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise.data import load, named, sources
from counterpoise.data.sources import load_all
from counterpoise.data.targets import load_targets
from counterpoise.errors import InputError, MissingExtra
from counterpoise.files import output


def idx_set(folder: Path, train: int = 6, test: int = 4, value: int = 0) -> Path:
    """A tiny set in the originals' file names; image i has the value `value` + i and the label i mod 10."""
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = b"".join(bytes([value + i]) * 784 for i in range(count))
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels))
        labels = bytes([0, 0, 8, 1]) + struct.pack(">I", count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


@pytest.fixture(autouse=True)
def nothing_of_this_machine(request, tmp_path, monkeypatch):
    if "full" not in request.node.name:
        monkeypatch.delenv("COUNTERPOISE_DATA", raising=False)
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")


@pytest.mark.parametrize(
    ("name", "class_7", "ink", "counts"),
    [
        ("fashion-mnist", "Sneaker", 73.0, [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]),
        ("mnist", "7", 33.4, [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]),
    ],
)
def test_embedded_sets(name, class_7, ink, counts):
    """The counts of the originals' first 10,000 train labels; `ink` is the mean grey value."""
    train, test = load(name)
    assert train.pixels.shape == (10000, 1, 28, 28)
    assert test.pixels.shape == (2000, 1, 28, 28)
    assert train.classes[7] == class_7
    assert train.counts().tolist() == counts
    assert train.pixels.float().mean().item() == pytest.approx(ink, abs=0.1)
    assert "the subset inside the package" in train.notes[0]


def test_embedded_sets_stay_the_same_wherever_the_full_ones_lie(tmp_path, monkeypatch):
    idx_set(tmp_path / "mnist")
    monkeypatch.setenv("COUNTERPOISE_DATA", str(tmp_path))
    assert len(load("mnist", data_dir=tmp_path).train) == 10000


def test_embedded_sets_are_small_enough():
    assert sum(path.stat().st_size for path in sources.EMBEDDED.rglob("*")) <= 15 * 1024**2
    assert "CC BY-SA 3.0" in (sources.EMBEDDED / "LICENCES.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_full_sets_begin_with_the_embedded_ones(name):
    if not os.environ.get("COUNTERPOISE_DATA"):
        pytest.skip("COUNTERPOISE_DATA does not name a folder with the full sets")
    full, subset = load(f"{name}:full"), load(name)
    assert (len(full.train), len(full.test)) == (60000, 10000)
    for whole, part in zip(full, subset, strict=True):
        assert torch.equal(whole.pixels[: len(part)], part.pixels)
        assert torch.equal(whole.labels[: len(part)], part.labels)


@pytest.mark.parametrize("place", ["data/mnist", "data/MNIST/raw", "data"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_places_of_whole_sets(tmp_path, monkeypatch, place, by_environment):
    idx_set(tmp_path / place)
    if by_environment:
        monkeypatch.setenv("COUNTERPOISE_DATA", str(tmp_path / "data"))
        splits = load("mnist:full")
    else:
        splits = load("mnist:full", data_dir=tmp_path / "data")
    assert (len(splits.train), len(splits.test)) == (6, 4)
    assert splits.train.pixels[3].unique().tolist() == [3]
    assert splits.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert splits.train.name == "mnist:full"


def test_data_dir_goes_before_the_environment_and_that_before_debian(tmp_path, monkeypatch):
    idx_set(tmp_path / "debian" / "fashion-mnist", value=10)
    assert load("fashion-mnist:full").train.pixels[0, 0, 0, 0] == 10
    idx_set(tmp_path / "named" / "fashion-mnist", value=20)
    monkeypatch.setenv("COUNTERPOISE_DATA", str(tmp_path / "named"))
    assert load("fashion-mnist:full").train.pixels[0, 0, 0, 0] == 20
    idx_set(tmp_path / "given" / "fashion-mnist", value=30)
    assert load("fashion-mnist:full", data_dir=tmp_path / "given").train.pixels[0, 0, 0, 0] == 30


def test_a_folder_called_after_another_set_is_not_taken(tmp_path):
    idx_set(tmp_path / "mnist")
    with pytest.raises(InputError, match="fashion-mnist:full: its IDX files are in none of"):
        load("fashion-mnist:full", data_dir=tmp_path / "mnist")


def test_a_whole_set_that_is_nowhere_tells_all_places_and_ways(tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("COUNTERPOISE_DATA", str(tmp_path / "named"))
    with pytest.raises(InputError) as caught:
        load("fashion-mnist:full", data_dir=tmp_path / "given")
    message = str(caught.value)
    for part in ("given/fashion-mnist", "given/FashionMNIST/raw", "named/fashion-mnist", "debian/fashion-mnist"):
        assert str(tmp_path / part) in message
    for way in ("data_dir", "COUNTERPOISE_DATA", "dataset-fashion-mnist", "--download"):
        assert way in message
    assert "\n" not in message


def test_download_goes_through_torchvision(tmp_path, monkeypatch):
    def fake(root, train, download):
        assert download
        idx_set(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    assert len(load("mnist:full", data_dir=tmp_path / "new", download=True).train) == 6
    assert len(load("mnist:full", data_dir=tmp_path / "new").train) == 6


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def fake(root, train, download):
        raise RuntimeError("Error downloading train-images\nand more")

    monkeypatch.setattr("torchvision.datasets.MNIST", fake)
    with pytest.raises(InputError, match=r"torchvision:MNIST: .*: Error downloading train-images$"):
        load("mnist:full", download=True)


def test_digits():
    from sklearn.datasets import load_digits

    train, test = load("digits")
    assert train.pixels.shape[1:] == (1, 8, 8)
    assert len(train) + len(test) == 1797
    assert test.counts().tolist() == [round(0.2 * count) for count in np.bincount(load_digits().target)]
    both = torch.cat([train.pixels, test.pixels]).double()
    assert both.max() == 255
    assert both.mean().item() == pytest.approx(load_digits().images.mean() * 255 / 16, abs=0.3)
    assert torch.equal(load("digits").test.labels, test.labels)
    assert not torch.equal(load("digits", seed=1).test.labels, test.labels)


def test_size_resizes_with_antialiasing():
    from torchvision.transforms.v2.functional import resize

    plain, resized = load("mnist"), load("mnist", size=16)
    assert resized.train.pixels.shape == (10000, 1, 16, 16)
    assert torch.equal(resized.test.pixels[:5], resize(plain.test.pixels[:5], [16, 16], antialias=True))
    assert torch.equal(resized.test.labels, plain.test.labels)


def test_torchvision_by_name_with_train(tmp_path):
    idx_set(tmp_path / "MNIST" / "raw")
    for packed in (tmp_path / "MNIST" / "raw").iterdir():
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    train, test = load("torchvision:MNIST", data_dir=tmp_path)
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert train.classes[3] == "3 - three"
    assert len(test) == 4


def test_torchvision_by_name_with_split(tmp_path):
    root = tmp_path / "food-101"
    images = {"train": ["pie/0", "pie/1", "soup/2"], "test": ["soup/3"]}
    for path in images["train"] + images["test"]:
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (int(path[-1]), 0, 0)).save(root / "images" / f"{path}.jpg")
    (root / "images" / "pie" / "1.jpg").write_bytes(b"")
    (root / "meta").mkdir()
    for split, paths in images.items():
        by_class = {name: [path for path in paths if path.startswith(name)] for name in ("pie", "soup")}
        (root / "meta" / f"{split}.json").write_text(json.dumps(by_class))
    with pytest.warns(UserWarning, match=r"torchvision:Food101: 1 of 4 images .*: train\[1\]"):
        train, test = load("torchvision:Food101", data_dir=tmp_path)
    assert train.classes == ("pie", "soup")
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [1]
    assert train.pixels.shape == (2, 3, 20, 20)


def test_torchvision_without_splits_is_divided(tmp_path):
    for name, count in (("Forest", 5), ("River", 10)):
        for i in range(count):
            path = tmp_path / "eurosat" / "2750" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    train, test = load("torchvision:EuroSAT", data_dir=tmp_path)
    assert train.counts().tolist() == [4, 8]
    assert test.counts().tolist() == [1, 2]


def test_torchvision_names_and_missing_files(tmp_path):
    with pytest.raises(InputError, match="torchvision data set 'CIFAR11' is not known; did you mean 'CIFAR10'"):
        load("torchvision:CIFAR11")
    with pytest.raises(InputError, match=r"torchvision:CIFAR10: not under .*download=True \(--download\)"):
        load("torchvision:CIFAR10", data_dir=tmp_path)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A Hugging Face set on disk: 10 train and 4 test images, one of them damaged, one without a label."""
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    def stored(value):
        file = BytesIO()
        Image.new("L", (5, 5), value).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    def part(values):
        features = datasets.Features(
            {
                "id": datasets.Value("int64"),
                "photo": datasets.Image(),
                "kind": datasets.ClassLabel(names=["cat", "dog"]),
            }
        )
        photos = [stored(value) for value in values]
        kinds = [value % 2 for value in values]
        if 0 in values:
            photos[3]["bytes"], kinds[5] = b"damaged", -1
        columns = {"id": list(values), "photo": photos, "kind": kinds}
        return datasets.Dataset.from_dict(columns, features=features)

    folder = tmp_path_factory.mktemp("hf")
    whole = datasets.DatasetDict(train=part(range(10)), validation=part([1, 2]), test=part(range(10, 14)))
    whole.save_to_disk(str(folder / "pets"))
    whole["test"].save_to_disk(str(folder / "single"))
    whole["test"].remove_columns("photo").save_to_disk(str(folder / "no-images"))
    renamed = whole["test"].cast_column("kind", datasets.Value("int64")).rename_column("kind", "Label")
    renamed.save_to_disk(str(folder / "by-name"))
    return folder


def test_huggingface_from_disk(pets):
    with pytest.warns(UserWarning, match=r"hf:pets: 1 of 14 images cannot be read and are left out: train\[3\]"):
        train, test = load(f"hf:{pets}/pets")
    assert train.classes == ("cat", "dog")
    assert train.pixels[:, 0, 2, 2].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert train.labels.tolist() == [0, 1, 0, 0, -1, 0, 1, 0, 1]
    assert test.pixels[:, 0, 2, 2].tolist() == [10, 11, 12, 13]
    assert "left out of the data: validation" in train.notes


def test_huggingface_without_splits_or_class_type(pets):
    train, test = load(f"hf:{pets}/single")
    assert (train.counts() + test.counts()).tolist() == [2, 2]
    assert load(f"hf:{pets}/by-name").train.classes == ("0", "1")


def test_huggingface_errors(pets, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a column of images, found: id, kind"):
        load(f"hf:{pets}/no-images")
    with pytest.raises(InputError, match=r"hf:some/where: no such folder; download=True \(--download\)"):
        load("hf:some/where")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(f"hf:{tmp_path}")
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"counterpoise\[huggingface\]"):
        load("hf:some/where")


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


@pytest.fixture(scope="module")
def make_set(tmp_path_factory):
    """Writes a Hugging Face set, whose splits are given by their columns; image i of a split is of the value i."""
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    def stored(value):
        file = BytesIO()
        Image.new("L", (5, 5), value).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    def part(columns):
        count = len(next(iter(columns.values())))
        given = {"image": [stored(i) for i in range(count)], **{name: list(values) for name, values in columns.items()}}
        whole = datasets.Dataset.from_dict(given).cast_column("image", datasets.Image())
        for name, values in columns.items():
            if hasattr(values, "names"):
                whole = whole.cast_column(name, datasets.ClassLabel(names=values.names))
        return whole

    def make(**parts):
        folder = tmp_path_factory.mktemp("hf")
        datasets.DatasetDict({name: part(columns) for name, columns in parts.items()}).save_to_disk(str(folder))
        return f"hf:{folder}"

    return make


class Classes(list):
    """Values of a column that knows its classes."""

    def __init__(self, values, names):
        super().__init__(values)
        self.names = names


def test_huggingface_validation_and_labels_as_those_of_folders(make_set):
    name = make_set(train={"label": ["b", "a", "nan", None]}, validation={"label": ["a", "c"]})
    train, test = load(name)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("a", "b", "c"), [1, 0, -1, -1], [0, 2])
    whole = load_all(name)
    assert whole.splits == ("train",) * 4 + ("validation",) * 2
    assert whole.labels == ("b", "a", None, None, "a", "c")
    assert whole.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(InputError, match="expected a split named train to learn from, found: test"):
        load(make_set(test={"label": ["a"]}))


def test_huggingface_classes_that_differ_between_splits(make_set):
    name = make_set(
        train={"label": Classes([0, 1, -1], ["cat", "dog"])}, test={"label": Classes([0, 1], ["dog", "cat"])}
    )
    train, test = load(name)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("cat", "dog"), [0, 1, -1], [1, 0])
    unlabelled = make_set(train={"label": Classes([1, 0], ["dog", "cat"])}, test={"number": [1, 2]})
    train, test = load(unlabelled)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("dog", "cat"), [1, 0], [-1, -1])


@pytest.mark.filterwarnings("ignore:.*nearly constant")
def test_huggingface_columns_of_factors_are_those_of_tables(make_set):
    name = make_set(
        train={
            "domain": Classes([0, 1, -1, 1], ["sketch", "photo"]),
            "label": Classes([0, 1, 0, 1], ["cat", "dog"]),
            "Client": ["10", "9", "nan", "9"],
            "forget": ["yes", "no", "1", ""],
        },
        test={"domain": Classes([1, 0], ["sketch", "photo"]), "label": Classes([1, 0], ["cat", "dog"])},
    )
    with pytest.warns(match="column 'client': values in this order .*: 9, 10; 3 rows have none"):
        train, test = load(name)
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert train.factor_names["domain"] == test.factor_names["domain"] == ("photo", "sketch")
    assert (train.factors["domain"].tolist(), test.factors["domain"].tolist()) == ([1, 0, -1, 0], [0, 1])
    assert (train.factors["client"].tolist(), test.factors["client"].tolist()) == ([1, 0, -1, 0], [-1, -1])
    assert (train.factors["forget"].tolist(), train.factor_names["forget"]) == ([1, 0, 1, 0], ("kept", "forgotten"))
    with pytest.raises(InputError, match="columns 'Step' and 'step' may each be the step"):
        load(make_set(train={"label": ["a"], "Step": ["1"], "step": ["2"]}))


@pytest.mark.filterwarnings("ignore:.*nearly constant")
def test_the_only_huggingface_column_of_classes_is_the_label_whatever_it_is_called(make_set):
    train, _ = load(
        make_set(train={"group": Classes([0, 1, 0, 1], ["cat", "dog"])}, test={"group": Classes([0], ["cat", "dog"])})
    )
    assert (train.classes, train.factors) == (("cat", "dog"), {})


def test_huggingface_columns_that_are_refused(make_set):
    with pytest.raises(InputError, match="columns class and target may each be the label"):
        load(make_set(train={"class": ["a"], "target": ["b"]}))
    with pytest.raises(InputError, match="column 'label' holds lists; expected one text or number"):
        load(make_set(train={"label": [["a"]]}))
    with pytest.warns(match=r"column 'fine' serves as label"), pytest.warns(match=r"not used \(1\): coarse"):
        load(make_set(train={"fine": Classes([0, 0], ["a"]), "coarse": Classes([0, 0], ["b"])}))


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
