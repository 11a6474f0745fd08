"""Sets of torchvision by name: their files, splits, classes and labels."""

from __future__ import annotations

import inspect
import os
from functools import partial
from pathlib import Path
from typing import Any

from counterpoise.data.decoding import Item, first_line
from counterpoise.data.folders import (
    Listing,
)
from counterpoise.data.images import cache_path
from counterpoise.data.paths import as_path, stamp_of
from counterpoise.errors import InputError, unknown


def _torchvision_kind(name: str) -> Any:
    """The class of a torchvision set.

    Raises:
        InputError: for a name that torchvision does not have.
    """
    import torchvision.datasets

    if name not in torchvision.datasets.__all__:
        raise unknown("torchvision data set", name, torchvision.datasets.__all__)
    return getattr(torchvision.datasets, name)


def torchvision_root(data_dir: Path | None) -> Path:
    """The folder of downloaded sets: the one given, that of COUNTERPOISE_DATA, or one in the cache."""
    named = os.environ.get("COUNTERPOISE_DATA") or cache_path() / "torchvision"
    return data_dir or as_path("COUNTERPOISE_DATA", named)


def torchvision_places(name: str, root: Path) -> list[Path]:
    """The folders and files of a set, which begin with its name; where none does, all that is below `root`.

    Examples:
        >>> torchvision_places("CIFAR10", Path("data"))
        [PosixPath('data/cifar-10-batches-py')]
    """
    own = getattr(_torchvision_kind(name), "base_folder", None)
    if isinstance(own, str):
        return [root / own]
    places = [path for path in root.iterdir() if _plain(path.name).startswith(_plain(name))] if root.is_dir() else []
    return places or [root]


def _plain(name: str) -> str:
    """A name's letters and digits: "food-101" is Food101's folder."""
    return "".join(character for character in name.lower() if character.isalnum())


def list_torchvision(name: str, data_dir: Path | None, download: bool) -> Listing:
    """What a set says of its images.

    Args:
        name: of its class in `torchvision.datasets`.
        data_dir: the folder of downloaded sets, see `torchvision_root`.
        download: whether torchvision may download it.

    Raises:
        InputError: for an unknown name, a set that is not there, or one without a class for each image.
    """
    parameters = inspect.signature(_torchvision_kind(name)).parameters
    root = torchvision_root(data_dir)
    parts: dict[str | None, dict[str, Any]]
    if "train" in parameters:
        parts = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        parts = {"train": {"split": "train"}, "test": {"split": "test"}}
    else:
        parts = {None: {}}
    opened = {part: torchvision_part(name, root, chosen, download) for part, chosen in parts.items()}
    classes = next((_class_names(data.classes) for data in opened.values() if hasattr(data, "classes")), None)
    labels = {part: _torchvision_labels(name, data) for part, data in opened.items()}
    if classes is None:
        classes = tuple(map(str, range(1 + max(max(part, default=-1) for part in labels.values()))))
    stamp = stamp_of(torchvision_places(name, root))
    items = [
        Item(f"{part or 'all'}[{i}]", partial(_first, data, i), split=part, stamp=stamp)
        for part, data in opened.items()
        for i in range(len(labels[part]))
    ]
    return Listing(f"torchvision:{name}", items, [label for part in labels.values() for label in part], classes)


def torchvision_part(name: str, root: Path, chosen: dict[str, Any], download: bool) -> Any:
    """One split of a torchvision set."""
    make = _torchvision_kind(name)
    parameters = inspect.signature(make).parameters.values()
    takes_download = any(p.name == "download" or p.kind is p.VAR_KEYWORD for p in parameters)
    try:
        return make(root, **chosen, **({"download": download} if takes_download else {}))
    except (RuntimeError, ValueError, TypeError, OSError, ImportError) as error:
        hint = "" if download else "; download=True (--download) allows the download"
        raise InputError(f"torchvision:{name}: not under {root}: {first_line(error)}{hint}") from error


def _torchvision_labels(name: str, data: Any) -> list[int]:
    known = (getattr(data, attribute, None) for attribute in ("targets", "labels", "_labels", "y"))
    found = next((labels for labels in known if labels is not None), None)
    labels = [data[i][1] for i in range(len(data))] if found is None else found
    try:
        return [int(label) for label in labels]
    except (TypeError, ValueError) as error:
        raise InputError(f"torchvision:{name}: expected one class for each image, got {labels[0]!r}") from error


def _first(data: Any, index: int) -> Any:
    return data[index][0]


def _class_names(classes: Any) -> tuple[str, ...]:
    """ImageNet has several words for each class."""
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in classes)
