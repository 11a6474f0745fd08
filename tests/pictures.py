"""Small images, folders of smooth ones, and what is printed of them, for the tests of a look at data."""

import io

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from counterpoise.commands.data import print_inspection
from counterpoise.data import load
from counterpoise.data.images import Images


def part(rng, labels, classes=("cat", "dog"), **others) -> Images:
    pixels = torch.randint(0, 256, (len(labels), 3, 6, 6), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), classes, "pets", **others)


def photo(seed, size=(96, 72)):
    """Something smooth, as photos are."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def folder_of(root, pictures):
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
    return load(root, hashes=True)


def shown(inspection) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_inspection(inspection, console)
    return console.file.getvalue()
