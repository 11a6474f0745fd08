"""Networks: backbones by name, heads, and feature extraction."""

from counterpoise.nets import heads
from counterpoise.nets.backbones import Backbone, backbone
from counterpoise.nets.features import embed

__all__ = ["Backbone", "backbone", "embed", "heads"]
