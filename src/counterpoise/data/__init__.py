"""Data: the embedded sets, users' own images, imperfections, views, and a look at what is there."""

from counterpoise.data.glyphs import Attributes, Glyphs, attributes_of, draw_glyphs
from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.data.inspection import inspect_images
from counterpoise.data.sources import load

__all__ = [
    "Attributes",
    "Glyphs",
    "Images",
    "Splits",
    "attributes_of",
    "draw_glyphs",
    "inspect_images",
    "load",
    "make_imperfect",
]
