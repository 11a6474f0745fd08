"""Users' image files become one uint8 array: decoded once, to one size and mode, without what cannot be read."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from counterpoise.data.images import UNLABELLED, Images, Splits, allocate, cache_folder, fits_in_memory
from counterpoise.errors import InputError
from counterpoise.files import read_json, write_json, written
from counterpoise.ops.checks import check_number

LARGEST_DEFAULT_SIZE = 64
TEST_SHARE = 0.2
MAX_PIXELS = 89_478_485  # 256 MB of RGB: Pillow's own limit against files that unpack to fill the memory
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
EXIF_ORIENTATION = 0x0112
SIDEWAYS = {5, 6, 7, 8}  # the orientations that swap height and width
NAMED = 3  # how many files a warning names

Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Item:
    """One image before it is decoded.

    Args:
        name: the file, or another name that tells a user which image it is.
        open: gives the image, not yet decoded where the format allows it.
        label: an index into the classes, or -1.
        split: "train" or "test"; None where the data does not say.
        stamp: changes when the image changes; part of the key under which decoded pixels are kept.
    """

    name: str
    open: Callable[[], Image.Image]
    label: int = UNLABELLED
    split: str | None = None
    stamp: str = ""


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    height: int
    width: int
    grey: bool


class Decoded(NamedTuple):
    """Items in one array; `kept` are the indices of those that could be read, `unreadable` the names of the others."""

    pixels: UInt8[Tensor, "kept channels size size"]
    kept: list[int]
    sizes: Int64[Tensor, "kept 2"]
    unreadable: tuple[str, ...]


def file_item(path: Path, name: str, label: int, split: str | None) -> Item:
    """The item for an image file, which may be missing."""
    try:
        status = path.stat()
        stamp = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    except OSError:
        stamp = "missing"
    return Item(name, lambda: Image.open(path), label, split, stamp)


def to_splits(
    items: Sequence[Item], classes: tuple[str, ...], name: str, size: int | None, seed: int, notes: tuple[str, ...] = ()
) -> Splits:
    """Decode items; those without a split are divided 80 to 20 within each class.

    Args:
        items: in a fixed order; either all of them have a split or none.
        classes: the names of the labels.
        name: what the data is called.
        size: side of the square images in pixels; None: their median short side, at most 64.
        seed: of the division.
        notes: what was done to the data so far.

    Raises:
        InputError: when a split is left without a readable image.
    """
    # Sorted by split, so that each split is a slice of the array and no second copy is made.
    items = sorted(items, key=lambda item: item.split != "train")
    decoded = decode(items, name, size)
    kept = [items[i] for i in decoded.kept]
    images = Images(
        decoded.pixels,
        torch.tensor([item.label for item in kept]),
        classes,
        name,
        notes=(*notes, *_told(decoded)),
        paths=tuple(item.name for item in kept),
        unreadable=decoded.unreadable,
        original_sizes=decoded.sizes,
    )
    if kept[0].split is None:
        return divide(images, seed)
    of_train = sum(item.split == "train" for item in kept)
    for split, count in (("train", of_train), ("test", len(kept) - of_train)):
        if count == 0:
            raise InputError(f"{name}: no readable image in its {split} split")
    return Splits(_slice(images, 0, of_train), _slice(images, of_train, len(kept)))


def divide(images: Images, seed: int) -> Splits:
    """80 % to learn from and 20 % to judge by, drawn within each class; unlabelled images count as one class.

    A class with two images or more has some on both sides; one with a single image stays in train, with a warning.

    Raises:
        InputError: when no class has two images.
    """
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(images), dtype=torch.bool)
    single = []
    for label in images.labels.unique().tolist():
        members = (images.labels == label).nonzero().flatten()
        if len(members) == 1:
            single.append(images.classes[label] if label != UNLABELLED else "unlabelled")
            continue
        for_test = min(max(round(TEST_SHARE * len(members)), 1), len(members) - 1)
        in_test[members[torch.randperm(len(members), generator=generator)[:for_test]]] = True
    if not in_test.any():
        raise InputError(f"{images.name}: no class has two images, so none can be kept apart for a test split")
    if single:
        warn(f"{images.name}: classes with a single image, which stays in train ({len(single):,})", single)
    parts = [part.nonzero().flatten() for part in (~in_test, in_test)]
    note = f"divided at random within each class: {len(parts[0]):,} images for train, {len(parts[1]):,} for test"
    return Splits(*(images.subset(part, note) for part in parts))


def decode(items: Sequence[Item], name: str, size: int | None = None) -> Decoded:
    """Decode items to one size and mode: grey where all are grey, else RGB.

    The short side is resized and the middle cut out. 16-bit images keep their upper 8 bits, transparent ones are laid
    on white, EXIF orientation is honoured. Above the memory limit the array is kept in a file of the cache folder,
    which the next call finds.

    Args:
        items: what to decode.
        name: what errors and warnings call the data.
        size: as for `to_splits`.

    Raises:
        InputError: when nothing can be read.
    """
    if size is not None:
        check_number("size", size, at_least=1)
    if not items:
        raise InputError(f"{name}: holds no images")
    with warnings.catch_warnings():
        # Pillow warns of such files; here they count as unreadable and are told about with the others.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        headers = list(_in_threads(_read_header, items))
        known = [i for i, header in enumerate(headers) if header]
        sound = [header for header in headers if header]
        if not sound:
            raise _nothing_readable(name, [item.name for item in items])
        if size is None:
            size = _common_size(sound)
        channels = 1 if all(header.grey for header in sound) else 3
        pixels, good = _decode_all([items[i] for i in known], (channels, size, size))
    kept = [known[i] for i in good]
    unreadable = tuple(items[i].name for i in sorted(set(range(len(items))) - set(kept)))
    if not kept:
        raise _nothing_readable(name, unreadable)
    if unreadable:
        warn(f"{name}: {len(unreadable):,} of {len(items):,} images cannot be read and are left out", unreadable)
    sizes = torch.tensor([header[:2] for header in map(headers.__getitem__, kept) if header])
    return Decoded(pixels, kept, sizes, unreadable)


def warn(message: str, names: Sequence[str]) -> None:
    """A warning that names the first few of what it is about."""
    warnings.warn(f"{message}: {_some(names)}", stacklevel=3)


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _nothing_readable(name: str, unreadable: Sequence[str]) -> InputError:
    return InputError(f"{name}: none of the {len(unreadable):,} images can be read: {_some(unreadable)}")


def _told(decoded: Decoded) -> tuple[str, ...]:
    if not decoded.unreadable:
        return ()
    return (f"{len(decoded.unreadable):,} unreadable images left out",)


def _slice(images: Images, start: int, stop: int) -> Images:
    """Some images in a row, without a copy of their pixels."""
    assert images.paths is not None
    assert images.original_sizes is not None
    return replace(
        images,
        pixels=images.pixels[start:stop],
        labels=images.labels[start:stop],
        paths=images.paths[start:stop],
        original_sizes=images.original_sizes[start:stop],
    )


def _common_size(headers: Sequence[Header]) -> int:
    short_sides = [min(header.height, header.width) for header in headers]
    return min(LARGEST_DEFAULT_SIZE, int(statistics.median(short_sides)))


def _read_header(item: Item) -> Header | None:
    """Size and kind of an image, without decoding it; None when it cannot be read."""
    try:
        with item.open() as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return None
            if image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS:
                width, height = height, width
            return Header(height, width, image.mode in GREY_MODES)
    except Exception:  # Pillow's plugins raise all sorts of errors on damaged files
        return None


def _decode_all(items: Sequence[Item], shape: tuple[int, int, int]) -> tuple[Tensor, list[int]]:
    """The pixels of the items that can be read, and their indices."""
    count = len(items) * math.prod(shape)
    if fits_in_memory(count):
        pixels = allocate((len(items), *shape))
        good = _fill(pixels.numpy(), items)
        return pixels[: len(good)], good
    key = hashlib.sha256("\n".join([str(shape), *(f"{item.name} {item.stamp}" for item in items)]).encode()).hexdigest()
    path = cache_folder() / f"{key[:32]}.npy"
    if not path.exists():
        cache_folder(room=count)
        with written(path) as aside:
            array = np.lib.format.open_memmap(aside, "w+", np.uint8, (len(items), *shape))
            good = _fill(array, items)
            array.flush()
            write_json(path.with_suffix(".json"), good)
    good = read_json(path.with_suffix(".json"))
    # Copy-on-write: torch refuses to promise that it leaves a read-only array alone.
    return torch.from_numpy(np.load(path, mmap_mode="c"))[: len(good)], good


def _fill(array: np.ndarray, items: Sequence[Item]) -> list[int]:
    """Decode items into the first rows of `array`, without gaps; the indices of those that could be read."""
    good: list[int] = []
    for i, pixels in enumerate(_in_threads(lambda item: _decode_one(item, array.shape[1:]), items)):
        if pixels is not None:
            array[len(good)] = pixels
            good.append(i)
    return good


def _decode_one(item: Item, shape: Sequence[int]) -> np.ndarray | None:
    """One image as uint8 [C H W]; None when it cannot be read."""
    channels, size, _ = shape
    try:
        with item.open() as image:
            image.draft(None, (2 * size, 2 * size))  # JPEG: decode at a fraction of the size where that is enough
            image = to_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    except Exception:  # as above
        return None


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image as 8-bit "L" or "RGB".

    Raises:
        ValueError: for floating-point images, and integers beyond 16 bits: nothing says what their white is.
    """
    if image.mode == "F":
        raise ValueError("floating-point image")
    if image.mode.startswith("I"):
        values = np.asarray(image, np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("integers beyond 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _in_threads(function: Callable[[Source], Result], items: Iterable[Source]) -> Iterator[Result]:
    """`map` over threads, in order, with a bounded number of results ahead."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(remaining, 256)):
            yield from pool.map(function, chunk)
