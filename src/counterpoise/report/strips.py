"""The strips of pictures that runs keep, as images inside the page: one table for each method."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from counterpoise.data.strips import Strips, read_strips
from counterpoise.errors import InputError
from counterpoise.report import formatting

FILE = "strips.npz"
LONGEST_SIDE = 160  # pixels of a picture on the page; larger ones are reduced
BUDGET = 2_000_000  # bytes of pixels for each method, before compression: pages stay readable by mail and phone
FEWEST_ROWS = 1

Json = dict[str, Any]


def strips(methods: Sequence[Json], folder: Path, expected: bool) -> Json:
    """The pictures of each method's first finished seed.

    Args:
        methods: of results.json.
        folder: the comparison's folder; `FILE` is looked up in each run's own folder.
        expected: whether every run should have a file. A missing one is reported then, and where any method has one.

    Returns:
        `tables`, one for each method with pictures, `caption`, where all have the same, and `left_out`, the methods
        without pictures and why.
    """
    first = [(method["label"], formatting.finished(method)) for method in methods]
    if not expected and not any((folder / done[0]["folder"] / FILE).exists() for _, done in first if done):
        return {"tables": [], "caption": "", "left_out": []}
    tables: list[Json] = []
    left_out: list[str] = []
    for label, done in first:
        if not done:
            left_out.append(f"{label}: no seed finished")
            continue
        try:
            found = read_strips(folder / done[0]["folder"] / FILE)
        except InputError as error:
            left_out.append(f"{label}, seed {done[0]['seed']}: {error}")
            continue
        tables.append(_table(label, done[0], found))
    captions = {table["caption"] for table in tables}
    shared = captions.pop() if len(captions) == 1 else ""
    tables = [{**table, "caption": "" if shared else table["caption"]} for table in tables]
    return {"tables": tables, "caption": shared, "left_out": left_out}


def _table(label: str, run: Json, found: Strips) -> Json:
    shown = _rows_within_budget(found.pixels)
    rows, (height, width) = len(found.pixels), found.pixels.shape[3:]
    names = found.rows or [""] * rows
    titles = [name or f"row {i + 1}" for i, name in enumerate(names)]
    return {
        "label": label,
        "seed": run["seed"],
        "caption": found.caption,
        "columns": found.columns,
        "named": bool(found.rows),
        "left_out": f"{rows - shown} more rows are in {run['folder']}/{FILE}" if shown < rows else "",
        "reduced": max(height, width) > LONGEST_SIDE,
        "rows": [
            {
                "name": names[i],
                "pictures": [
                    {"uri": data_uri(picture), "says": f"{label}, {titles[i]}: {column}"}
                    for picture, column in zip(found.pixels[i], found.columns, strict=True)
                ],
            }
            for i in range(shown)
        ],
        "size": _size(height, width),
    }


def data_uri(picture: UInt8[ndarray, "3 height width"]) -> str:
    """An RGB picture as a PNG in a data URI, reduced to at most 160 pixels a side.

    Pictures without more than 256 colours, such as masks, are reduced without mixing neighbouring pixels.

    Examples:
        >>> data_uri(np.zeros((3, 2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    height, width = picture.shape[1:]
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    if (size := _size(height, width)) != (width, height):
        few = image.getcolors(256) is not None
        image = image.resize(size, Image.Resampling.NEAREST if few else Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _size(height: int, width: int) -> tuple[int, int]:
    """Width and height on the page."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _rows_within_budget(pixels: UInt8[ndarray, "rows columns 3 height width"]) -> int:
    """How many rows the page shows."""
    _, columns, channels, height, width = pixels.shape
    across, down = _size(height, width)
    return min(len(pixels), max(FEWEST_ROWS, BUDGET // (columns * channels * down * across)))
