"""Strips of pictures that a run keeps for its report: masks, samples, renders, rollouts.

A `strips.npz` holds a table of pictures of one size. A task writes it into a run's folder, the report shows it. Titles
are stored as arrays of text, so that no file needs pickled objects, and every size is checked before it is read.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.files import written

MOST_ROWS = 256
MOST_COLUMNS = 64
LONGEST_SIDE = 1024  # pixels
MOST_BYTES = 1 << 26  # of all pixels together: 64 MiB
LONGEST_TITLE = 200  # characters
LONGEST_CAPTION = 1000
HEADER_BYTES = 1 << 14  # NumPy refuses longer ones
TEXT_BYTES = 4 * MOST_ROWS * LONGEST_TITLE  # NumPy stores four bytes a character


class Strips(NamedTuple):
    """Pictures in rows and columns.

    Attributes:
        pixels: RGB, from 0 to 255.
        columns: one title for each column, such as "image", "truth", "prediction".
        rows: one title for each row, or none at all.
        caption: one or two sentences about all of them; may be empty.
    """

    pixels: UInt8[ndarray, "rows columns 3 height width"]
    columns: tuple[str, ...]
    rows: tuple[str, ...] = ()
    caption: str = ""


def write_strips(
    path: Path,
    pixels: UInt8[Tensor, "rows columns channels height width"] | UInt8[ndarray, "rows columns channels height width"],
    columns: Sequence[str],
    rows: Sequence[str] = (),
    caption: str = "",
) -> None:
    """Write pictures as a `strips.npz`.

    The file is complete or absent: it is written aside and then renamed.

    Args:
        path: of the file, in a folder that this program fills, such as a run's; `strips.npz` is what the report reads.
        pixels: uint8 on any device, with 3 channels, or with 1, which is repeated to 3. From 1 to 256 rows and from 1
            to 64 columns; pictures of at most 1024 pixels a side; at most 64 MiB in all, with 3 channels.
        columns: one title for each column, of 1 to 200 characters.
        rows: one title for each row, of at most 200 characters; none at all by default.
        caption: one or two sentences about all pictures, at most 1000 characters.

    Raises:
        InputError: for another type, another shape, more pictures or titles than allowed, or a text that is too long.
        Unwritable: if the folder is gone, or the disk is full or takes no files.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "strips.npz"
        >>> write_strips(path, np.zeros((2, 3, 1, 8, 8), np.uint8), ["image", "truth", "prediction"])
        >>> read_strips(path).pixels.shape
        (2, 3, 3, 8, 8)
    """
    array = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else np.asarray(pixels)
    if array.ndim == 5 and array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3, *array.shape[3:]))
    strips = _checked(array, columns, rows, caption)
    with written(path) as aside, aside.open("wb") as file:  # an open file, since NumPy appends .npz to other names
        np.savez_compressed(
            file,
            pixels=strips.pixels,
            columns=np.array(strips.columns, dtype=np.str_),
            rows=np.array(strips.rows, dtype=np.str_),
            caption=np.array([strips.caption], dtype=np.str_),
        )


def read_strips(path: Path) -> Strips:
    """Read the pictures and titles of a `strips.npz`.

    No pickled object is loaded, and no more is read than the limits of `write_strips` allow, whatever the file claims
    to hold.

    Args:
        path: of the file.

    Returns:
        What `write_strips` was given, with 3 channels.

    Raises:
        InputError: if the file is missing, damaged or incomplete, holds other types or shapes than `write_strips`
            writes, or exceeds its limits.

    Examples:
        >>> read_strips(Path("nowhere/strips.npz"))
        Traceback (most recent call last):
        counterpoise.errors.InputError: there is no strips.npz
    """
    if not path.is_file():
        raise InputError(f"there is no {path.name}")
    try:
        with zipfile.ZipFile(path) as archive:
            pixels = _read_array(archive, "pixels", MOST_BYTES)
            columns, rows = (_read_texts(archive, name) for name in ("columns", "rows"))
            caption = _read_texts(archive, "caption")
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except Exception as error:  # a damaged archive raises errors of many kinds: of zip, zlib, struct, NumPy
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path.name} cannot be read ({reason})") from error
    try:
        if len(caption) != 1:
            raise InputError(f"caption: expected one text, got {len(caption)}")
        return _checked(pixels, columns, rows, caption[0])
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def _checked(pixels: ndarray, columns: Sequence[str], rows: Sequence[str], caption: str) -> Strips:
    """The strips, or an error that names the part at fault."""
    if pixels.dtype != np.uint8 or pixels.ndim != 5 or pixels.shape[2] != 3 or 0 in pixels.shape:
        expected = "uint8 [rows columns 3 height width], none of them 0"
        raise InputError(f"pixels: expected {expected}, got {pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[3:]
    if len(pixels) > MOST_ROWS or pixels.shape[1] > MOST_COLUMNS:
        got = f"{len(pixels)} and {pixels.shape[1]}"
        raise InputError(f"pixels: expected at most {MOST_ROWS} rows and {MOST_COLUMNS} columns, got {got}")
    if max(height, width) > LONGEST_SIDE:
        raise InputError(f"pixels: expected at most {LONGEST_SIDE} pixels a side, got {height} × {width}")
    if pixels.size > MOST_BYTES:
        raise InputError(f"pixels: expected at most {MOST_BYTES >> 20} MiB, got {pixels.size / 2**20:.1f} MiB")
    columns, rows = _titles("columns", columns), _titles("rows", rows)
    if len(columns) != pixels.shape[1]:
        raise InputError(f"columns: expected {pixels.shape[1]} titles, one a column, got {len(columns)}")
    if not all(title.strip() for title in columns):
        raise InputError("columns: expected a title for every column, got an empty one")
    if rows and len(rows) != len(pixels):
        raise InputError(f"rows: expected {len(pixels)} titles, one a row, or none, got {len(rows)}")
    if not isinstance(caption, str) or len(caption) > LONGEST_CAPTION:
        got = f"{len(caption)} characters" if isinstance(caption, str) else type(caption).__name__
        raise InputError(f"caption: expected a text of at most {LONGEST_CAPTION} characters, got {got}")
    return Strips(pixels, columns, rows, caption)


def _titles(name: str, titles: Sequence[str]) -> tuple[str, ...]:
    if isinstance(titles, str) or not all(isinstance(title, str) for title in titles):
        raise InputError(f"{name}: expected a sequence of texts, got {titles!r:.80}")
    longest = max(map(len, titles), default=0)
    if longest > LONGEST_TITLE:
        raise InputError(f"{name}: expected titles of at most {LONGEST_TITLE} characters, got one of {longest}")
    return tuple(map(str, titles))


def _read_texts(archive: zipfile.ZipFile, name: str) -> list[str]:
    texts = _read_array(archive, name, TEXT_BYTES)
    if texts.dtype.kind != "U" or texts.ndim != 1:
        raise InputError(f"{name}: expected a vector of texts, got {texts.dtype} {list(texts.shape)}")
    return texts.tolist()


def _read_array(archive: zipfile.ZipFile, name: str, most: int) -> ndarray:
    """One array of an archive, whose sizes are checked before memory is taken for them."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise InputError(f"{name}: expected an array of this name, got none") from error
    if member.file_size > most + HEADER_BYTES:
        raise InputError(f"{name}: expected at most {most:,} bytes, got {member.file_size:,}")
    content = archive.read(member)  # zipfile reads no more than `file_size`
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise InputError(f"{name}: expected version 1.0 or 2.0 of NumPy's format, got {version}")
    shape, fortran, dtype = read_header[version](file)
    held, claimed = len(content) - file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or held != claimed:
        raise InputError(f"{name}: expected {held} bytes of plain values, the header claims {claimed} of {dtype}")
    flat = np.frombuffer(content, dtype, offset=file.tell()) if claimed else np.zeros(math.prod(shape), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
