"""Data: the embedded sets, users' own images, rows and annotated images, imperfections, views, and a look at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from counterpoise.data.glyphs import Attributes, Glyphs, attributes_of, draw_glyphs
from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.data.inspection import inspect_images
from counterpoise.data.sources import load

if TYPE_CHECKING:
    from counterpoise.data.annotated import Annotated, AnnotatedSplits
    from counterpoise.data.annotated_sources import load_annotated
    from counterpoise.data.rows import Rows, RowSplits, load_rows

__all__ = [
    "Annotated",
    "AnnotatedSplits",
    "Attributes",
    "Glyphs",
    "Images",
    "RowSplits",
    "Rows",
    "Splits",
    "attributes_of",
    "draw_glyphs",
    "inspect_images",
    "load",
    "load_annotated",
    "load_rows",
    "make_imperfect",
]

# Imported on first use: most methods learn from images alone.
_LATER = {
    **dict.fromkeys(("Annotated", "AnnotatedSplits"), "annotated"),
    "load_annotated": "annotated_sources",
    **dict.fromkeys(("RowSplits", "Rows", "load_rows"), "rows"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
