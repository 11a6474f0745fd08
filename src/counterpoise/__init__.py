"""Counterpoise: learning from imperfect data, and knowing which method helps.

What the command line does is one Python call: `compare`, `train`, `predict`, `embed`, `export`, `claim`, `scenes`. To
write a method there are `Method`, `Learner` and `Alternating`; to train and score it `Task`, `Settings` and `Run`; for
data `load`, `Images` and `make_imperfect`. Everything else has a module, as in `counterpoise.contrast.dcl`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from counterpoise.registry.exports import EXPORTS
from counterpoise.version import __version__

if TYPE_CHECKING:
    from counterpoise.commands.claim import claim
    from counterpoise.commands.compare import compare
    from counterpoise.commands.embed import embed
    from counterpoise.commands.export import export
    from counterpoise.commands.predict import predict
    from counterpoise.commands.scenes import scenes
    from counterpoise.commands.train import train
    from counterpoise.data.images import Images
    from counterpoise.data.imperfect import make_imperfect
    from counterpoise.data.sources import load
    from counterpoise.errors import InputError
    from counterpoise.learners.alternating import Alternating
    from counterpoise.learners.learner import Learner
    from counterpoise.learners.method import Method
    from counterpoise.tasks.base import Task
    from counterpoise.training.run import ImageSettings, LearnerSettings, Run, Settings


__all__ = [
    "Alternating",
    "ImageSettings",
    "Images",
    "InputError",
    "Learner",
    "LearnerSettings",
    "Method",
    "Run",
    "Settings",
    "Task",
    "__version__",
    "claim",
    "compare",
    "embed",
    "export",
    "load",
    "make_imperfect",
    "predict",
    "scenes",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'counterpoise' has no attribute '{name}'")
    return getattr(importlib.import_module(f"counterpoise.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
