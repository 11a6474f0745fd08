"""Data: the embedded sets, users' own images, imperfections, views, and a look at what is there."""

from counterpoise.data.glyphs import Glyphs, load_glyphs
from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.data.inspection import inspect_images
from counterpoise.data.sources import load

__all__ = ["Glyphs", "Images", "Splits", "inspect_images", "load", "load_glyphs", "make_imperfect"]
