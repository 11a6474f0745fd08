"""Where data comes from: `load` takes a name or a path and gives the images to learn from and those to judge by."""

from __future__ import annotations

import inspect
import os
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from counterpoise.data.decoding import Item, divide, first_line, to_splits
from counterpoise.data.factors import make_factors
from counterpoise.data.folders import TABLES, index_labels, left_out, pick_splits, read_folder, read_table
from counterpoise.data.glyphs import load_glyphs
from counterpoise.data.idx import has_idx, read_splits
from counterpoise.data.images import UNLABELLED, Images, Splits, cache_path, map_pixels
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.ops.checks import check_number

EMBEDDED = Path(__file__).parent / "embedded"
DEBIAN = Path("/usr/share/datasets")


class Known(NamedTuple):
    """What the package knows of an embedded set."""

    torchvision: str
    classes: tuple[str, ...]
    debian: str | None


KNOWN = {
    "fashion-mnist": Known(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        debian="dataset-fashion-mnist",
    ),
    "mnist": Known("MNIST", tuple("0123456789"), debian=None),
}
NAMES = (*KNOWN, *(f"{name}:full" for name in KNOWN), "digits", "glyphs", "factors", "torchvision:NAME", "hf:NAME")


def load(
    data: str | Path,
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> Splits:
    """Load images by name or path, split into train and test.

    - `fashion-mnist`, `mnist`: the subsets inside the package, the same everywhere (10,000 train, 2,000 test images);
      `fashion-mnist:full`, `mnist:full`: the full sets, from `data_dir`, the folder that `COUNTERPOISE_DATA` names,
      Debian's package, or torchvision's download.
    - `digits`: scikit-learn's, 8×8.
    - `glyphs`, `glyphs:classes=200:split=character`: drawn characters of 16 font faces (see `load_glyphs`).
    - `factors`, `factors:tint`, `factors:channels`, `factors:objects`, `factors:scales`: garments and digits put
      together, with all that each image shows known (see `make_factors`).
    - `torchvision:NAME`: a classification set of torchvision, such as `torchvision:CIFAR10`, under `data_dir`.
    - `hf:NAME`, `hf:PATH`: a Hugging Face set of the Hub, or one saved to disk.
    - a folder of images (see `read_folder`), a `.csv` or `.parquet` table of paths and labels (see `read_table`).

    Data without a test split is divided 80 to 20 within each class. Files that cannot be read are left out with a
    warning that counts and names them.

    Args:
        data: a name or a path as above.
        size: side of the square images in pixels; None: as they come; of users' own files the
            median short side, at most 64.
        data_dir: folder of downloaded sets.
        download: whether to download what is not there.
        seed: of the division into train and test where the data has none.

    Returns:
        train and test: uint8 images of one size, 1 or 3 channels, with the same classes.

    Raises:
        InputError: for an unknown name, a missing or malformed file, or data without a readable image.

    >>> train, test = load("mnist")
    >>> train.pixels.shape, len(test), train.classes[7]
    (torch.Size([10000, 1, 28, 28]), 2000, '7')
    """
    if size is not None:
        check_number("size", size, at_least=1)
    folder = None if data_dir is None else _as_path("data_dir", data_dir)
    if folder is not None and not folder.is_dir() and not download:
        raise InputError(f"data_dir: no such folder: {data_dir}")
    kind, _, name = str(data).partition(":")
    if kind in KNOWN and name == "full":
        return resized(_full(kind, folder, download), size)
    if kind in KNOWN and not name:
        return resized(_embedded(kind), size)
    if str(data) == "digits":
        return resized(_digits(seed), size)
    if kind == "glyphs":
        return load_glyphs(str(data), size, seed)
    if kind == "factors":
        layout = name if data != "factors" else "tint"
        return resized(make_factors(layout, _embedded("fashion-mnist"), _embedded("mnist"), seed), size)
    if kind == "torchvision" and name:
        return _torchvision(name, size, folder, download, seed)
    if kind == "hf" and name:
        return _huggingface(name, size, folder, download, seed)
    return _path(_as_path("data", data), size, seed)


def _embedded(name: str) -> Splits:
    note = "the subset inside the package: the first 10,000 train and 2,000 test images"
    return read_splits(EMBEDDED / name, name, KNOWN[name].classes, note)


def resized(splits: Splits, size: int | None) -> Splits:
    """Square images of `size` pixels, bilinear and antialiased; None: as they are."""
    if size is None or splits.train.pixels.shape[2:] == (size, size):
        return splits
    from torchvision.transforms.v2.functional import resize

    return Splits(*(map_pixels(images, lambda pixels: resize(pixels, [size, size])) for images in splits))


def _as_path(argument: str, text: str | Path) -> Path:
    """A path with the home folder filled in, which the system can look for."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{argument}: '{text}' cannot be looked for: {first_line(error)}") from error
    return path


def _path(path: Path, size: int | None, seed: int) -> Splits:
    if path.is_dir():
        return read_folder(path, size, seed)
    if path.suffix.lower() in TABLES and path.is_file():
        return read_table(path, size, seed)
    if path.is_file():
        raise InputError(f"data: expected a folder or a file ending in {' or '.join(TABLES)}, got {path}")
    if len(path.parts) > 1 or path.suffix.lower() in TABLES:
        raise InputError(f"data: no such file or folder: {path}")
    raise unknown("data set, folder or table", str(path), NAMES)


def _full(name: str, data_dir: Path | None, download: bool) -> Splits:
    known = KNOWN[name]
    named = os.environ.get("COUNTERPOISE_DATA")
    roots = [root for root in (data_dir, _as_path("COUNTERPOISE_DATA", named) if named else None) if root]
    own = data_dir or cache_path() / "torchvision"
    places = [place for root in roots for place in (root / name, root / known.torchvision / "raw", root)]
    places += [DEBIAN / name, own / known.torchvision / "raw"]
    # All these sets name their files alike, so a folder called after another one is not looked into.
    places = [place for place in dict.fromkeys(places) if place.name not in KNOWN.keys() - {name}]
    found = next(filter(has_idx, places), None)
    if found is None and download:
        _torchvision_part(known.torchvision, own, {"train": True}, download)
        found = own / known.torchvision / "raw"
    if found is None:
        packaged = f", install Debian's package {known.debian}" if known.debian else ""
        raise InputError(
            f"{name}:full: its IDX files are in none of {', '.join(map(str, places))}; name their folder with data_dir "
            f"or COUNTERPOISE_DATA{packaged}, or allow the download (download=True, --download)"
        )
    return read_splits(found, f"{name}:full", known.classes, "the full set")


def _digits(seed: int) -> Splits:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return divide(Images(pixels, torch.from_numpy(digits.target).long(), tuple("0123456789"), "digits"), seed)


def _torchvision(name: str, size: int | None, data_dir: Path | None, download: bool, seed: int) -> Splits:
    import torchvision.datasets

    if name not in torchvision.datasets.__all__:
        raise unknown("torchvision data set", name, torchvision.datasets.__all__)
    parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
    root = data_dir or _as_path(
        "COUNTERPOISE_DATA", os.environ.get("COUNTERPOISE_DATA") or cache_path() / "torchvision"
    )
    parts: dict[str | None, dict[str, Any]]
    if "train" in parameters:
        parts = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        parts = {"train": {"split": "train"}, "test": {"split": "test"}}
    else:
        parts = {None: {}}
    opened = {part: _torchvision_part(name, root, chosen, download) for part, chosen in parts.items()}
    classes = next((_class_names(data.classes) for data in opened.values() if hasattr(data, "classes")), None)
    labels = {part: _torchvision_labels(name, data) for part, data in opened.items()}
    if classes is None:
        classes = tuple(map(str, range(1 + max(max(part, default=-1) for part in labels.values()))))
    items = [
        Item(f"{part or 'all'}[{i}]", partial(_first, data, i), label, part, f"{root} {len(data)}")
        for part, data in opened.items()
        for i, label in enumerate(labels[part])
    ]
    return to_splits(items, classes, f"torchvision:{name}", size, seed)


def _torchvision_part(name: str, root: Path, chosen: dict[str, Any], download: bool) -> Any:
    """One split of a torchvision set."""
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
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


def _huggingface(name: str, size: int | None, data_dir: Path | None, download: bool, seed: int) -> Splits:
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "huggingface")
    from datasets import DatasetDict

    data = _huggingface_data(name, data_dir, download)
    whole = data if isinstance(data, DatasetDict) else DatasetDict(train=data)
    parts = pick_splits(whole)
    if not parts:
        raise InputError(f"hf:{name}: expected a split named train or test, found: {', '.join(whole)}")
    image, label = _huggingface_columns(name, whole[next(iter(parts))].features)
    labels, classes = _huggingface_labels([whole[part] for part in parts], label)
    divided = "test" in parts.values()
    rows = [(part, i) for part in parts for i in range(len(whole[part]))]
    columns = {part: _undecoded(whole[part], image) for part in parts}
    items = [
        Item(
            f"{part}[{i}]",
            partial(_open_stored, columns[part], i, image),
            label,
            parts[part] if divided else None,
            columns[part]._fingerprint,
        )
        for (part, i), label in zip(rows, labels, strict=True)
    ]
    return to_splits(items, classes, f"hf:{Path(name).name}", size, seed, left_out(whole, parts))


def _huggingface_data(name: str, data_dir: Path | None, download: bool) -> Any:
    from datasets import load_dataset, load_from_disk

    path = _as_path("hf", name)
    if not path.exists() and not download:
        raise InputError(f"hf:{name}: no such folder; download=True (--download) allows to get it from the Hub")
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return load_from_disk(str(path))
        return load_dataset(str(path) if path.exists() else name, cache_dir=None if data_dir is None else str(data_dir))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"hf:{name}: cannot be loaded: {first_line(error)}") from error


def _huggingface_columns(name: str, features: Any) -> tuple[str, str | None]:
    """The first column of images, and the first of classes: by its type, else by its name."""
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    images = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    if not images:
        raise InputError(f"hf:{name}: expected a column of images, found: {', '.join(features)}")
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    labels += [column for column in features if column.lower() in ("label", "class", "target", "category")]
    return images[0], labels[0] if labels else None


def _huggingface_labels(parts: list[Any], column: str | None) -> tuple[list[int], tuple[str, ...]]:
    if column is None:
        return [UNLABELLED] * sum(map(len, parts)), ()
    values = [value for part in parts for value in part.with_format(None)[column]]
    names = getattr(parts[0].features[column], "names", None)
    if names is None:
        return index_labels(values)
    return [UNLABELLED if value is None else value for value in values], tuple(names)


def _undecoded(part: Any, column: str) -> Any:
    """The images as the bytes of their files, so that a damaged one is met where all damaged ones are."""
    from datasets import Image as ImageFeature

    return part.with_format(None).select_columns([column]).cast_column(column, ImageFeature(decode=False))


def _open_stored(part: Any, index: int, column: str) -> Image.Image:
    stored = part[index][column]
    return Image.open(BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
