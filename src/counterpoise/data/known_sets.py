"""The sets that this program knows: embedded ones, the full ones they are of, and scikit-learn's digits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from counterpoise.data.idx import has_idx, read_splits
from counterpoise.data.images import Images, Splits, cache_path
from counterpoise.data.paths import as_path
from counterpoise.data.torchvision_sets import torchvision_part
from counterpoise.errors import InputError

EMBEDDED = Path(__file__).parent / "embedded"
DEBIAN = Path("/usr/share/datasets")


class Known(NamedTuple):
    """What the package knows of an embedded set."""

    torchvision: str
    classes: tuple[str, ...]
    debian: str | None


KNOWN = {
    "fashion-mnist": Known(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        debian="dataset-fashion-mnist",
    ),
    "mnist": Known("MNIST", tuple("0123456789"), debian=None),
}


def read_embedded(name: str) -> Splits:
    """The part of a set that lies inside the package."""
    note = "the subset inside the package: the first 10,000 train and 2,000 test images"
    return read_splits(EMBEDDED / name, name, KNOWN[name].classes, note)


def read_full(name: str, data_dir: Path | None, download: bool) -> Splits:
    """A full set, from its IDX files.

    Args:
        name: one of `KNOWN`.
        data_dir: the first folder that is looked into.
        download: whether torchvision may download it where no folder has it.

    Raises:
        InputError: where it is in none of the folders, naming them.
    """
    known = KNOWN[name]
    found = find_full(name, data_dir)
    if found is None and download:
        own = data_dir or cache_path() / "torchvision"
        torchvision_part(known.torchvision, own, {"train": True}, download)
        found = own / known.torchvision / "raw"
    if found is None:
        packaged = f", install Debian's package {known.debian}" if known.debian else ""
        places = ", ".join(map(str, _full_places(name, data_dir)))
        raise InputError(
            f"{name}:full: its IDX files are in none of {places}; name their folder with data_dir "
            f"or COUNTERPOISE_DATA{packaged}, or allow the download (download=True, --download)"
        )
    return read_splits(found, f"{name}:full", known.classes, "the full set")


def find_full(name: str, data_dir: Path | None) -> Path | None:
    """The folder with the IDX files of a full set."""
    return next(filter(has_idx, _full_places(name, data_dir)), None)


def _full_places(name: str, data_dir: Path | None) -> list[Path]:
    known = KNOWN[name]
    named = os.environ.get("COUNTERPOISE_DATA")
    roots = [root for root in (data_dir, as_path("COUNTERPOISE_DATA", named) if named else None) if root]
    own = data_dir or cache_path() / "torchvision"
    places = [place for root in roots for place in (root / name, root / known.torchvision / "raw", root)]
    places += [DEBIAN / name, own / known.torchvision / "raw"]
    # All these sets name their files alike, so a folder called after another one is not looked into.
    return [place for place in dict.fromkeys(places) if place.name not in KNOWN.keys() - {name}]


def read_digits() -> Images:
    """Scikit-learn's digits, not divided."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return Images(pixels, torch.from_numpy(digits.target).long(), tuple("0123456789"), "digits")
