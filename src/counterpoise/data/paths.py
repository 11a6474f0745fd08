"""Paths that users give, and the files below them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from counterpoise.data.decoding import file_stamp, first_line
from counterpoise.errors import InputError


def as_path(argument: str, text: str | Path) -> Path:
    """A path with the home folder filled in, which the system can look for.

    Raises:
        InputError: naming the argument.
    """
    if "\0" in str(text):
        raise InputError(f"{argument}: '{text}' holds a NUL character, which no path has")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{argument}: '{text}' cannot be looked for: {first_line(error)}") from error
    return path


def files_below(places: Iterable[Path]) -> list[Path]:
    """All files in some folders, at any depth; and those of the places that are files."""
    walked = [Path(folder, file) for place in places for folder, _, files in os.walk(place) for file in files]
    return sorted([*walked, *(place for place in places if place.is_file())])


def stamp_of(places: Iterable[Path]) -> str:
    """What changes with any of the files in some folders."""
    return hashlib.sha256("\n".join(map(file_stamp, files_below(places))).encode(errors="surrogateescape")).hexdigest()
