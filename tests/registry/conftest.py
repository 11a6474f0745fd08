"""The source of a small package, whose arguments the tests here read."""

from pathlib import Path

import pytest

BASE = '''
"""A base."""
from typing import Literal

from torch import nn

Precision = Literal["32", "16-mixed"]


class Base(nn.Module):
    """What all share.

    Args:
        encoder: what is trained.
        lr: step size, above 0.
        rule: which rule.
        precision: of the numbers.
        augment: views.
    """

    def __init__(self, encoder: nn.Module, *, lr: float = 2e-3, rule: Literal["sgd", "adamw"] | None = None,
                 precision: Precision = "32", augment: nn.Module | None = None):
        super().__init__()

    def loss(self, images: list[float], labels: int):
        """The loss."""
'''
PART = '''
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from counterpoise.base import Base, Precision

SHARE = 1 / 4


class Part(Base):
    """Does its part
    in two lines.

    More words.

    Args:
        encoder: images to features; the one
            that is kept.
        queue: how many keys, 100 % of them kept.
        scale: the range.
        **recipe: arguments of `Base`.
    """

    def __init__(self, encoder, queue: int = -2**4, scale: tuple[float, float] = (0.2, 1.0), fast: bool = True,
                 share: int | float = SHARE / 2, names: Sequence[str] = (), seeds: int | Sequence[int] = 3,
                 out: str | Path | None = None, mixed: int | str = 1, call: Any = max(1, 2), lr: float = 0.5,
                 *, folder: Path, **recipe: Any):
        super().__init__(encoder, rule="sgd", lr=lr, **recipe)


class Closed(Base):
    """Passes nothing on."""

    def __init__(self, encoder, lr: "float" = 1e-3):
        super().__init__(encoder, lr=lr)


class Inherits(Part):
    """Has no `__init__`."""


@dataclass(frozen=True)
class Settings:
    """All settings.

    Args:
        size: in pixels.
    """

    size: int | None = None
    precision: Precision = "32"
    level: Literal[1, 2] = 1
    name: str = "a"


def run(data: str, *, verbose: bool = False, **options: Any) -> None:
    """Run it.

    Args:
        data: a folder: images, or a file.
    """
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("from counterpoise.room.part import run as go\n")
    (tmp_path / "room" / "part.py").write_text(PART)
    return tmp_path
