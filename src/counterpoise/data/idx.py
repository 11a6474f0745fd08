"""IDX files, the format of MNIST and Fashion-MNIST: http://yann.lecun.com/exdb/mnist/ describes it."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from counterpoise.data.images import Images, Splits
from counterpoise.errors import InputError

UNSIGNED_BYTES = 0x08  # the format's type code; MNIST-like sets use no other
PARTS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """The array of unsigned bytes in an IDX file, gzipped (`.gz`) or not.

    Raises:
        InputError: when the file cannot be read, is not such a file, or is shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTES or len(data) < 4 + 4 * data[3]:
        raise InputError(f"{path}: expected an IDX file of unsigned bytes, got one that starts with {data[:4]!r}")
    dimensions = data[3]
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    body = data[4 + 4 * dimensions :]
    if len(body) != math.prod(shape):
        raise InputError(f"{path}: the header says {math.prod(shape):,} bytes of data, the file holds {len(body):,}")
    return torch.from_numpy(np.frombuffer(body, np.uint8).copy()).view(shape)


def find_idx(folder: Path, part: str, kind: str) -> Path | None:
    """The file of one part ("train", "test") and kind ("images", "labels") in `folder`, gzipped or not."""
    stem = f"{PARTS[part]}-{'images-idx3' if kind == 'images' else 'labels-idx1'}-ubyte"
    return next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)


def has_idx(folder: Path) -> bool:
    """Whether `folder` holds all four files of a set."""
    return all(find_idx(folder, part, kind) for part in PARTS for kind in ("images", "labels"))


def read_splits(folder: Path, name: str, classes: tuple[str, ...], note: str) -> Splits:
    """The set whose four IDX files lie in `folder`.

    Raises:
        InputError: for a missing or damaged file, or images and labels that do not fit together.
    """
    return Splits(*(read_part(folder, part, name, classes, note) for part in PARTS))


def read_part(folder: Path, part: str, name: str, classes: tuple[str, ...], note: str) -> Images:
    """One part of the set, "train" or "test"."""
    found = {kind: find_idx(folder, part, kind) for kind in ("images", "labels")}
    for kind, path in found.items():
        if path is None:
            raise InputError(f"{folder}: has no IDX file with the {kind} of {part}")
    pixels, labels = (read_idx(path) for path in found.values() if path)
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels):
        raise InputError(
            f"{folder}: expected as many labels as images in {part}, got shapes {list(labels.shape)} and "
            f"{list(pixels.shape)}"
        )
    return Images(pixels[:, None], labels.long(), classes, name, notes=(note,))
