"""Counterpoise: learning from imperfect data, and knowing which method helps."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

# Loaded on first use: importing torch takes seconds, which `counterpoise list` must not.
_LAZY = ("compare", "train", "embed", "export")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'counterpoise' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"counterpoise.commands.{name}"), name)
