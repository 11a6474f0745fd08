"""Sets of torchvision by name."""

import gzip
import json

import pytest
from PIL import Image

from counterpoise.data import load
from counterpoise.errors import InputError
from sets import idx_set

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


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
