"""The class of every pixel of new images, as one PNG for each of them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from counterpoise.data.images import Images
from counterpoise.data.views import to_input
from counterpoise.errors import InputError
from counterpoise.files import make_folder, make_output_folder, written
from counterpoise.nets.features import device_of, evaluation

KIND = "maps"  # of the folder, in its mark
CLASSES = "classes.csv"
MOST_CLASSES = 255  # that a byte can hold beside 255, which is a pixel without a class in maps
PARTS_OF_256 = (151, 89, 197)  # steps between colours, coprime with 256, so that near classes look different


def gives_maps(net: nn.Module, images: Images) -> bool:
    """Whether a network answers with [images, classes, height, width]; asked of the first image."""
    with evaluation(net), torch.no_grad():
        return net(to_input(images.pixels[:1].to(device_of(net)))).ndim == 4


def write_maps(
    net: nn.Module, images: Images, names: Sequence[str], classes: Sequence[str], folder: Path, batch_size: int = 64
) -> list[Path]:
    """Write the likeliest class of every pixel as PNG files of indices with a palette, and `classes.csv`.

    Args:
        net: images to logits [images, classes, height, width].
        images: of the size that it takes.
        names: of the images; the part before the ending names a map's file.
        classes: in the order of the logits, at most 255.
        folder: new, empty, or of an earlier call; `classes.csv` in it has each index, name and colour.
        batch_size: images at a time; matters for memory and speed only.

    Returns:
        The files, in the order of the images.

    Raises:
        InputError: for logits of another number of classes, or NaN; for more classes than a PNG can hold; for a folder
            that holds anything else.
    """
    if len(classes) > MOST_CLASSES:
        raise InputError(f"run: expected at most {MOST_CLASSES} classes, which a PNG can hold, got {len(classes)}")
    make_output_folder(folder, KIND)
    paths = [folder / name for name in file_names(names)]
    for path in paths:
        make_folder(path.parent)
    device, start = device_of(net), 0
    with evaluation(net), torch.no_grad():
        for pixels in images.pixels.split(batch_size):
            found = net(to_input(pixels.to(device)))
            _check_logits(found, len(classes))
            for one in found.argmax(1).to(torch.uint8).cpu():
                _write_map(paths[start], one, len(classes))
                start += 1
    rows = [(index, name, "#{:02x}{:02x}{:02x}".format(*colour(index))) for index, name in enumerate(classes)]
    with written(folder / CLASSES) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("value", "name", "colour"), *rows])
    return paths


def file_names(names: Sequence[str]) -> list[str]:
    """A PNG's name for each image, below one folder: without its own ending, unless two would then be the same.

    Examples:
        >>> file_names(["a/x.jpg", "a/y.jpg", "a/y.png"])
        ['a/x.png', 'a/y.jpg.png', 'a/y.png.png']
        >>> file_names(["/tmp/x.jpg", "../x.jpg", "x.jpg"])
        ['tmp/x.png', 'x.jpg.2.png', 'x.jpg.3.png']
    """
    inside = [PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".."))) for name in names]
    bare, whole = [str(path.with_suffix("")) for path in inside], [str(path) for path in inside]
    alike, same = Counter(bare), Counter(whole)
    found = zip(bare, whole, strict=True)
    chosen = [short if alike[short] == 1 else long if same[long] == 1 else "" for short, long in found]
    return [f"{name or f'{whole[i]}.{i + 1}'}.png" for i, name in enumerate(chosen)]


def colour(index: int) -> tuple[int, int, int]:
    """Of a class's index, its red, green and blue from 0 to 255; black is the first.

    Examples:
        >>> colour(0), colour(1)
        ((0, 0, 0), (151, 89, 197))
    """
    red, green, blue = (index * step % 256 for step in PARTS_OF_256)
    return red, green, blue


def _check_logits(found: Tensor, classes: int) -> None:
    if found.ndim != 4 or found.shape[1] != classes:
        raise InputError(f"run: expected logits [images, {classes}, height, width], got shape {list(found.shape)}")
    if not found.isfinite().all():
        raise InputError("run: its network gives logits that are NaN or infinite")


def _write_map(path: Path, indices: UInt8[Tensor, "height width"], classes: int) -> None:
    image = Image.fromarray(indices.numpy(), mode="P")
    image.putpalette([part for index in range(classes) for part in colour(index)])
    with written(path) as aside:
        image.save(aside, format="PNG")
