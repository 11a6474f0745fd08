"""Images as every part of the house takes them: one uint8 array, a label for each image, and what was done to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.errors import InputError
from counterpoise.files import make_folder
from counterpoise.ops.checks import check_integers

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of pixels above which an array lies in a memory-mapped file instead of memory."""

CHUNK = 1024  # images worked on at once

UNLABELLED = -1
"""The label of an image without one."""


@dataclass(frozen=True, eq=False)
class Images(Dataset):
    """Images of one size in one uint8 array, with their labels: a map-style torch `Dataset`.

    `images[i]` is `(pixels, label, i)`. A `DataLoader(images, batch_size=…, collate_fn=lambda batch: batch)` fetches
    whole batches `([B C H W], [B], [B])` at once.

    Args:
        pixels: uint8, in memory or memory-mapped.
        labels: int64, an index into `classes`; -1 for an image without a label.
        classes: the names of the classes, in the order of their labels; empty when nothing is labelled.
        name: what the data is called in tables and reports.
        notes: what was done to the data, in words; reports tell all of them.
        paths: the file of each image, relative to the folder or table that was loaded.
        unreadable: the files that were left out because they could not be decoded.
        original_sizes: height and width of each image before it was resized, where that is known.
        factors: what else is known of each image, by name: one value, 0 or more, for each image.

    Raises:
        InputError: where shapes, types or labels do not fit together.

    >>> images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, -1]), ("cat", "dog"), "pets")
    >>> len(images), images.counts().tolist(), images[1][1:]
    (3, [1, 1], (1, 1))
    >>> images.subset(torch.tensor([1]), note="dogs only").notes
    ('dogs only',)
    """

    pixels: UInt8[Tensor, "images channels height width"]
    labels: Int64[Tensor, " images"]
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] = ()
    original_sizes: Int64[Tensor, "images 2"] | None = None
    factors: Mapping[str, Int64[Tensor, " images"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            got = f"{self.pixels.dtype} of shape {list(self.pixels.shape)}"
            raise InputError(f"pixels: expected uint8 of shape [images, channels, height, width], got {got}")
        check_integers("labels", self.labels, rows=len(self.pixels), low=UNLABELLED, high=len(self.classes))
        if self.paths is not None and len(self.paths) != len(self.pixels):
            raise InputError(f"paths: expected one for each of the {len(self.pixels)} images, got {len(self.paths)}")
        for name, values in self.factors.items():
            check_integers(f"factors: {name}", values, rows=len(self.pixels))

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

    def subset(self, index: Int[Tensor, " kept"], note: str | None = None) -> Images:
        """The images at `index`, in that order, with `note` added to the notes."""
        return replace(
            self,
            pixels=gather(self.pixels, index),
            labels=self.labels[index],
            paths=None if self.paths is None else tuple(self.paths[i] for i in index.tolist()),
            original_sizes=None if self.original_sizes is None else self.original_sizes[index],
            factors={name: values[index] for name, values in self.factors.items()},
            notes=self.notes if note is None else (*self.notes, note),
        )

    def with_channels(self, channels: int) -> Images:
        """The same images with 1 or 3 channels: grey becomes three equal ones, RGB becomes its luma (ITU-R BT.601)."""
        if channels == self.pixels.shape[1]:
            return self
        if channels == 3:
            return map_pixels(self, lambda pixels: pixels.expand(-1, 3, -1, -1))
        if channels != 1:
            raise InputError(f"channels: expected 1 or 3, got {channels}")
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        return map_pixels(self, lambda pixels: (pixels * weights).sum(1, keepdim=True).round().to(torch.uint8))

    def counts(self) -> Int64[Tensor, " classes"]:
        """How many labelled images each class has."""
        return torch.bincount(self.labels[self.labels != UNLABELLED], minlength=len(self.classes))


class Splits(NamedTuple):
    """The images to learn from and those to judge by: one size, one number of channels, the same classes."""

    train: Images
    test: Images


def gather(
    pixels: UInt8[Tensor, "images channels height width"], index: Int[Tensor, " kept"]
) -> UInt8[Tensor, "kept channels height width"]:
    """`pixels[index]`, memory-mapped where that is above `MEMORY_LIMIT`."""
    gathered = allocate((len(index), *pixels.shape[1:]))
    for start in range(0, len(index), CHUNK):
        gathered[start : start + CHUNK] = pixels[index[start : start + CHUNK]]
    return gathered


def map_pixels(images: Images, function: Callable[[Tensor], Tensor], note: str | None = None) -> Images:
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
