"""Nets: backbones by name, heads, and the one way to get features."""

from counterpoise.nets import heads
from counterpoise.nets.backbones import Backbone, backbone
from counterpoise.nets.features import embed

__all__ = ["Backbone", "backbone", "embed", "heads"]
