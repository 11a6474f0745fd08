"""Embedded sets, the full ones they are of wherever these lie, and scikit-learn's digits."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoise.data import known_sets, load
from counterpoise.errors import InputError
from sets import idx_set

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


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
    assert sum(path.stat().st_size for path in known_sets.EMBEDDED.rglob("*")) <= 15 * 1024**2
    assert "CC BY-SA 3.0" in (known_sets.EMBEDDED / "LICENCES.md").read_text(encoding="utf-8")


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


def test_a_refusal_of_a_whole_set_that_is_nowhere_names_all_places_and_ways(tmp_path, monkeypatch):
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
