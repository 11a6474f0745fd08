"""Images as every part of the house takes them: one uint8 array, a label for each image, and what was done to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Int, Int64, Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.data.parts import (
    NO_VALUE,
    AnyPictures,
    checked_index,
    checked_values,
    joined_factors,
    with_factor,
    without_factor,
)
from counterpoise.errors import InputError
from counterpoise.files import make_folder
from counterpoise.ops.checks import check_integers, check_number, check_seed

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of pixels above which an array lies in a memory-mapped file instead of memory."""

CHUNK = 1024  # images worked on at once
NEARLY_CONSTANT = 2.0  # standard deviation of every channel, of 255: no one sees anything in such an image

EACH = 5  # rows of a class that `fair_sample` keeps at the least, so that there are pairs of one class to see
SPREAD = 2654435761  # 2³² by the golden ratio (Knuth): its multiples lie evenly over the range

UNLABELLED = -1
"""The label of an image without one."""

FORGET_NAMES = ("kept", "forgotten")
"""The values of the factor "forget"."""


@dataclass(frozen=True, eq=False)
class Images(Dataset):
    """Images of one size in one uint8 array, with their labels: a map-style torch `Dataset`.

    `images[i]` is `(pixels, label, i)`. A `DataLoader(images, batch_size=…, collate_fn=lambda batch: batch)` fetches
    whole batches `([B C H W], [B], [B])` at once.

    Args:
        pixels: uint8, in memory or memory-mapped.
        labels: an index into `classes`, of any type of integer (kept as int64); -1 for an image without a label.
        classes: the names of the classes, in the order of their labels; empty when nothing is labelled.
        name: what the data is called in tables and reports.
        notes: what was done to the data, in words; reports show all of them.
        paths: the file of each image, relative to the folder or table that was loaded.
        unreadable: the files that were left out because they could not be decoded.
        reasons: why each of them could not be, by its name.
        original_sizes: height and width of each image before it was resized, where that is known.
        factors: what else is known of each image, by name: one value, 0 or more, for each image.
        value_range: the numbers that became 0 and 255 in files of more than 8 bits; None without such files.
        digests: equal for two images exactly when the whole of them is, before its middle was cut out and resized.
        hashes: the 64 bits of a perceptual hash of each whole image, of which those that look alike share most; None
            where `load` was not asked for them.
        factor_names: of a factor the names of its values 0, 1, …, where they have names; -1 is an image without one.

    Raises:
        InputError: where shapes, types, labels or names do not fit together.

    Examples:
        >>> pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> images = Images(pixels, torch.tensor([0, 1, -1]), ("cat", "dog"), "pets")
        >>> len(images), images.counts().tolist(), images[1][1:]
        (3, [1, 1], (1, 1))
        >>> images.subset(torch.tensor([1]), note="dogs only").notes
        ('dogs only',)
    """

    items: ClassVar[str] = "images"

    pixels: UInt8[Tensor, "images channels height width"]
    labels: Integer[Tensor, " images"]
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] = ()
    original_sizes: Int64[Tensor, "images 2"] | None = None
    factors: Mapping[str, Integer[Tensor, " images"]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    value_range: tuple[int, int] | None = None
    digests: UInt8[Tensor, "images 16"] | None = None
    hashes: UInt8[Tensor, "images 8"] | None = None
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            got = f"{self.pixels.dtype} of shape {list(self.pixels.shape)}"
            raise InputError(f"pixels: expected uint8 of shape [images, channels, height, width], got {got}")
        rows = len(self.pixels)
        labels = check_integers("labels", self.labels, rows, low=UNLABELLED, high=len(self.classes))
        factors = checked_values("factor", self.factors, self.factor_names, rows, least=NO_VALUE)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "factors", factors)
        for name in ("paths", "original_sizes", "digests", "hashes"):
            values = getattr(self, name)
            if values is not None and len(values) != rows:
                raise InputError(f"{name}: expected one for each of the {rows} images, got {len(values)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "channels height width"], int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index = index % len(self)
        return self.pixels[index], int(self.labels[index]), index

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[UInt8[Tensor, "batch channels height width"], Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """A whole batch: pixels, labels and indices."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.pixels[index], self.labels[index], index

    def subset(self, index: Integer[Tensor, " kept"], note: str | None = None) -> Images:
        """The images at `index`, in that order, with `note` added to the notes.

        Raises:
            InputError: for what is no index of an image.
        """
        notes = self.notes if note is None else (*self.notes, note)
        index = checked_index(index, len(self))
        return self._pick(lambda x: x[index], gather(self.pixels, index), notes)

    def rows(self, start: int, stop: int) -> Images:
        """Some images in a row, without a copy of their pixels."""
        return self._pick(lambda x: x[start:stop], self.pixels[start:stop], self.notes)

    def _pick(self, pick: Callable[[Tensor], Tensor], pixels: Tensor, notes: tuple[str, ...]) -> Images:
        """The images with these pixels: `pick` takes their entries from a tensor that has one for each image."""
        chosen = pick(torch.arange(len(self))).tolist()
        return replace(
            self,
            pixels=pixels,
            labels=pick(self.labels),
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
            original_sizes=None if self.original_sizes is None else pick(self.original_sizes),
            factors={name: pick(values) for name, values in self.factors.items()},
            digests=None if self.digests is None else pick(self.digests),
            hashes=None if self.hashes is None else pick(self.hashes),
            notes=notes,
        )

    def with_channels(self, channels: int) -> Images:
        """The same images with 1 or 3 channels: grey becomes three equal ones, RGB becomes its luma (ITU-R BT.601)."""
        return to_channels(self, channels)

    def with_factor(self, name: str, values: Integer[Tensor, " images"], names: Sequence[str] = ()) -> Images:
        """The same images with one more factor, or with another in the place of the one of that name.

        Args:
            name: of the factor.
            values: one for each image, from 0; -1 for an image without one.
            names: of the values 0, 1, …; empty where they have none.

        Examples:
            >>> images = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0]), ("cat",), "pets")
            >>> images.with_factor("client", torch.tensor([1, 0]), ("north", "south")).factor_names
            {'client': ('north', 'south')}
        """
        return with_factor(self, name, values, names)

    def without_factor(self, name: str) -> Images:
        """The same images without a factor, or as they are where they have none of that name."""
        return without_factor(self, name)

    def counts(self) -> Int64[Tensor, " classes"]:
        """How many labelled images each class has."""
        return torch.bincount(self.labels[self.labels != UNLABELLED], minlength=len(self.classes))


class Splits(NamedTuple):
    """The images to learn from and those to judge by: one size, one number of channels, the same classes."""

    train: Images
    test: Images


def shape_of(part: Dataset) -> tuple[int, ...]:
    """The shape of one item, by which an encoder is chosen: (channels, height, width), or (columns,) of rows.

    Args:
        part: a data set that keeps its items in one tensor, `pixels` or `inputs`.

    Raises:
        InputError: for any other data set.

    Examples:
        >>> pixels = torch.zeros(2, 1, 8, 6, dtype=torch.uint8)
        >>> shape_of(Images(pixels, torch.tensor([0, 1]), ("cat", "dog"), "pets"))
        (1, 8, 6)
    """
    for name in ("pixels", "inputs"):
        if isinstance(values := getattr(part, name, None), Tensor):
            return tuple(values.shape[1:])
    raise InputError(f"part: expected a data set with pixels or inputs in one tensor, got {type(part).__name__}")


def nearly_constant(pixels: Tensor) -> Bool[Tensor, " batch"]:
    """Whether every channel of an image [B C H W] varies by less than anyone can see."""
    return (pixels.float().std((2, 3), correction=0) < NEARLY_CONSTANT).all(1)


def joined(parts: Sequence[Images]) -> Images:
    """The images of several parts of one data set, one part after the other; of the same size and classes.

    Where a part lacks a factor that others have, its images have the value -1 of it.

    Raises:
        InputError: for a factor whose values have other names in one part than in another.

    Examples:
        >>> some = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"), "pets")
        >>> joined([some, some.subset(torch.tensor([1]))]).labels.tolist()
        [0, 1, 1]
    """
    first, start = parts[0], 0
    pixels = allocate((sum(map(len, parts)), *first.pixels.shape[1:]))
    for part in parts:
        for at in range(0, len(part), CHUNK):
            chunk = part.pixels[at : at + CHUNK]
            pixels[start + at : start + at + len(chunk)] = chunk
        start += len(part)
    others = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Images) if f.name != "pixels"}
    paths = others.pop("paths")
    del others["factors"], others["factor_names"]
    factors, names = joined_factors(parts)
    return replace(
        first,
        pixels=pixels,
        paths=None if None in paths else tuple(path for some in paths for path in some),
        factors=factors,
        factor_names=names,
        **{name: _joined(values) for name, values in others.items()},
    )


def _joined(values: Sequence[Any]) -> Any:
    """One field of several parts: tensors and mappings one after the other, of tuples what differs."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {name: _joined([some[name] for some in values if name in some]) for value in values for name in value}
    if not isinstance(first, tuple) or all(value == first for value in values):
        return first
    return tuple(dict.fromkeys(one for value in values for one in value))


def fair_sample(labels: Int[Tensor, " images"], most: int, seed: int = 0) -> Int64[Tensor, " kept"]:
    """Rows for a picture or a quick measure of data that may be sorted by class: drawn from all classes alike.

    Of more classes than give 5 rows each, some are drawn: the same for two parts of one data set.

    Args:
        labels: class of each row; -1, no label, counts as one more class.
        most: how many rows; all where there are no more.
        seed: of the draw of rows.

    Returns:
        Indices in ascending order. Classes differ by one row at most, but for those that have too few to give.

    Raises:
        InputError: for numbers out of range, and for labels that are not integers or below -1.

    Examples:
        >>> labels = torch.tensor([0] * 500 + [1] * 500 + [2])
        >>> labels[fair_sample(labels, most=11)].bincount()
        tensor([5, 5, 1])
    """
    check_number("most", most, at_least=1, whole=True)
    check_seed(seed)
    labels = check_integers("labels", labels, rows=len(labels), low=-1)
    if len(labels) <= most:
        return torch.arange(len(labels))
    classes, counts = labels.unique(return_counts=True)
    spread = ((classes + 1) * SPREAD).remainder(1 << 32).argsort()  # an order that does not depend on which there are
    enough = int((counts[spread].clamp(max=EACH).cumsum(0) < most).sum()) + 1
    rows = torch.isin(labels, classes[spread[:enough]]).nonzero().flatten()
    shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    _, counts = labels[rows].unique(return_counts=True)
    turn = torch.empty_like(labels, dtype=torch.int64)  # of each row: how many of its class come before it
    turn[by_class] = torch.arange(len(rows)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return shuffled[turn[shuffled].argsort(stable=True)[:most]].sort().values


def gather(
    pixels: UInt8[Tensor, "images channels height width"], index: Int[Tensor, " kept"]
) -> UInt8[Tensor, "kept channels height width"]:
    """`pixels[index]`, memory-mapped where that is above `MEMORY_LIMIT`."""
    gathered = allocate((len(index), *pixels.shape[1:]))
    for start in range(0, len(index), CHUNK):
        gathered[start : start + CHUNK] = pixels[index[start : start + CHUNK]]
    return gathered


def to_channels(images: AnyPictures, channels: int) -> AnyPictures:
    """The same images with 1 or 3 channels: grey becomes three equal ones, RGB becomes its luma (ITU-R BT.601)."""
    if channels == images.pixels.shape[1]:
        return images
    if channels == 3:
        return map_pixels(images, lambda pixels: pixels.expand(-1, 3, -1, -1))
    if channels != 1:
        raise InputError(f"channels: expected 1 or 3, got {channels}")
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return map_pixels(images, lambda pixels: (pixels * weights).sum(1, keepdim=True).round().to(torch.uint8))


def map_pixels(images: AnyPictures, function: Callable[[Tensor], Tensor], note: str | None = None) -> AnyPictures:
    """The images with `function` applied to their pixels, uint8 [B C H W] to uint8, `CHUNK` images at a time."""
    mapped = None
    for start in range(0, len(images), CHUNK):
        chunk = function(images.pixels[start : start + CHUNK])
        if mapped is None:
            mapped = allocate((len(images), *chunk.shape[1:]))
        mapped[start : start + CHUNK] = chunk
    notes = images.notes if note is None else (*images.notes, note)
    return replace(images, pixels=function(images.pixels) if mapped is None else mapped, notes=notes)


def allocate(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Room for uint8 pixels: in memory, or above `MEMORY_LIMIT` in a file of the cache folder.

    The file has no name once it is mapped, so the system frees it with the tensor, however the process ends.
    """
    count = torch.Size(shape).numel()
    if fits_in_memory(count):
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(dir=cache_folder(count), prefix="pixels-") as file:
        file.truncate(count)
        return torch.from_file(file.name, shared=True, size=count, dtype=torch.uint8).view(shape)


def fits_in_memory(count: int) -> bool:
    """Whether so many bytes of pixels are kept in memory."""
    return count <= MEMORY_LIMIT


def cache_path() -> Path:
    """The folder for downloads and large intermediate files: `COUNTERPOISE_CACHE`, else `~/.cache/counterpoise`."""
    return Path(os.environ.get("COUNTERPOISE_CACHE") or "~/.cache/counterpoise").expanduser()


def cache_folder(room: int = 0) -> Path:
    """The folder of `cache_path`, made where it is missing.

    Args:
        room: bytes that are about to be written.

    Raises:
        InputError: when it cannot be made or written to, or its disk has too little room.
    """
    folder = make_folder(cache_path())
    free = shutil.disk_usage(folder).free
    if room > free:
        missing = f"{room / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise InputError(f"cache folder {folder}: {missing}; set COUNTERPOISE_CACHE to a folder on another disk")
    return folder
