"""Where data comes from: `load` takes a name or a path and gives the images to learn from and those to judge by."""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from counterpoise.data.decoding import Item, decode_images, divide, file_stamp, first_line, to_splits
from counterpoise.data.factors import make_factors
from counterpoise.data.folders import (
    Listing,
    choose_splits,
    counted,
    image_item,
    is_image,
    label_text,
    list_folder,
    walk,
)
from counterpoise.data.glyphs import load_glyphs
from counterpoise.data.idx import PARTS, find_idx, has_idx, read_splits
from counterpoise.data.images import UNLABELLED, Images, Splits, cache_path, map_pixels
from counterpoise.data.reading import open_image
from counterpoise.data.tables import (
    COLUMNS,
    FACTORS,
    MISSING,
    TABLES,
    factor_notes,
    find_columns,
    index_factor,
    list_files,
    list_table,
    split_filters,
)
from counterpoise.errors import InputError, MissingExtra, unknown
from counterpoise.ops.checks import check_number, check_seed
from counterpoise.registry.kinds import ANNOTATED, NAMED, ROWS, module_of

EMBEDDED = Path(__file__).parent / "embedded"
SPLITS = (None, "train", "test")
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
NAMES = (
    *KNOWN,
    *(f"{name}:full" for name in KNOWN),
    *("digits", "glyphs", "factors", "icons", "emoji:FOLDER", "torchvision:NAME", "hf:NAME"),
)
FILES = {NAMED: "source_files", ROWS: "row_files", ANNOTATED: "annotated_files"}
"""Of each module of `registry.kinds` the function that lists the files of its data."""

OTHERWISE = {
    ROWS: "rows of numbers, which load_rows reads",
    ANNOTATED: "images with maps and objects, which load_annotated reads",
}


def load(
    data: str | Path,
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    hashes: bool = False,
) -> Splits:
    """Load images by name or path, split into train and test.

    - `fashion-mnist`, `mnist`: the subsets inside the package, the same everywhere (10,000 train, 2,000 test images);
      `fashion-mnist:full`, `mnist:full`: the full sets, from `data_dir`, the folder that `COUNTERPOISE_DATA` names,
      Debian's package, or torchvision's download.
    - `digits`: scikit-learn's, 8×8.
    - `glyphs`, `glyphs:classes=200:split=character`: drawn characters of 16 font faces (see `load_glyphs`).
    - `factors`, `factors:tint`, `factors:tint:bias=0.8`, `factors:channels`, `factors:objects`, `factors:scales`:
      garments and digits put together, with all that each image shows known (see `make_factors`).
    - `icons`, `icons:themes=tango,gnome:split=theme`: icons of the system's themes (see `data.named.load_icons`).
    - `emoji:FOLDER`, `emoji:FOLDER,FOLDER:split=vendor`: emoji of one vendor or several (see `data.named.load_emoji`).
    - `torchvision:NAME`: a classification set of torchvision, such as `torchvision:CIFAR10`, under `data_dir`.
    - `hf:NAME`, `hf:PATH`: a Hugging Face set of the Hub, or one saved to disk.
    - a folder of images (see `list_folder`), a `.csv` or `.parquet` table of paths and labels (see `list_table`), or
      the rows of it that have a value: `all.csv:domain=sketch` (see `split_filters`).

    Data without a test split is divided 80 to 20 within each class. Files that cannot be read are left out with a
    warning that counts and names them. Rows of numbers have a loader of their own, `data.rows.load_rows`, and so have
    images with maps and objects, `data.annotated_sources.load_annotated`.

    Args:
        data: a name or a path as above.
        size: side of the square images in pixels; None: as they come (icons and emoji: 32); of users' own files the
            median short side, at most 64.
        data_dir: folder of downloaded sets.
        download: whether to download what is not there.
        seed: of the division into train and test where the data has none.
        hashes: whether to take a perceptual hash of each whole image file (`Images.hashes`), by which `inspect_images`
            finds those that look alike: 0.4 ms an image.

    Returns:
        train and test: uint8 images of one size, 1 or 3 channels, with the same classes.

    Raises:
        InputError: for an unknown name, data of another kind, a missing or malformed file, or data without a readable
            image.

    Examples:
        >>> train, test = load("mnist")
        >>> train.pixels.shape, len(test), train.classes[7]
        (torch.Size([10000, 1, 28, 28]), 2000, '7')
    """
    check_seed(seed)
    folder = _checked(size, data_dir, download)
    if (listing := _listing(data, folder, download)) is not None:
        return _divided(listing, size, seed, hashes)
    return _known(data, size, folder, download, seed)


def load_all(
    data: str | Path,
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    value_range: tuple[int, int] | None = None,
    hashes: bool = False,
) -> Whole:
    """Every image of a source, in its own order: nothing is divided, and no split or row left out.

    Besides what `load` takes, a single image file, a folder of any layout, and a table without labels will do.

    Args:
        data: a name or a path, as for `load`; or an image file.
        size: as for `load`.
        data_dir: as for `load`.
        download: as for `load`.
        value_range: the numbers of images of more than 8 bits that become 0 and 255; None: the least and the largest
            of these images.
        hashes: as for `load`.

    Raises:
        InputError: as `load`; but no layout, split or number of images is refused.

    Examples:
        >>> whole = load_all("mnist")
        >>> len(whole.names), whole.splits[0], whole.splits[-1], whole.labels[0]
        (12000, 'train', 'test', '5')
    """
    folder = _checked(size, data_dir, download)
    listing = _listing(data, folder, download, whole=True)
    if listing is None and str(data) == "digits":
        return _whole({None: _resize(_digits(), size)})
    if listing is None:
        return _whole(_known(data, size, folder, download, 0)._asdict())
    _say(listing.notes)
    items, classes = listing.labelled()
    names = listing.factor_names
    images, kept = decode_images(items, classes, listing.name, size, listing.notes, value_range, names, hashes)
    return Whole(
        images,
        torch.tensor(kept),
        tuple(item.name for item in items),
        tuple(item.split for item in items),
        tuple(None if item.label == UNLABELLED else classes[item.label] for item in items),
    )


def source_files(data: str | Path, data_dir: str | Path | None = None) -> list[Path]:
    """Every file that the loader of this data reads, or that says what it reads, without decoding any image.

    Of a folder these are its images, also behind links, and not what this program wrote, and where it holds annotations
    these and the masks; of a table the table and each image that it lists, whether it is there or not; of `hf:PATH` all
    files below it; of `NAME:full` the IDX files; of `torchvision:NAME` the files of its folder, as far as its name
    says which that is; of icons, emoji, rows and COCO files what `named.source_files`, `rows.row_files` and
    `annotated_sources.annotated_files` list. Sets inside the package, drawn ones, those of the Hub, and what is not
    there, have none.

    Args:
        data: as for `load`, `load_rows` or `load_annotated`; whatever else is no path of a file or folder has no files.
        data_dir: as for `load`.

    Raises:
        InputError: for a folder, table or file that cannot be read, or an option that is not known.

    Examples:
        >>> source_files("mnist")
        []
    """
    folder = _checked(None, data_dir, download=True)
    if module := module_of(data):
        return _called(module, FILES[module], str(data)) if _may_have_files(data, module) else []
    kind, _, name = str(data).partition(":")
    if kind in KNOWN and name == "full":
        place = _find_full(kind, folder)
        found = [find_idx(place, part, what) for part in PARTS for what in ("images", "labels")] if place else []
        return [path for path in found if path]
    if kind == "torchvision" and name:
        return _below(_torchvision_places(name, _torchvision_root(folder)))
    if kind == "hf" and name:
        return _below([as_path("hf", name)])
    path = as_path("data", split_filters(data)[0])
    if _is_known(data) or not path.exists():
        return []
    if path.is_dir():
        return list(dict.fromkeys([*walk(path).images, *_annotations(path)]))
    return list_files(path) if path.suffix.lower() in TABLES else [path]


def loader_of(data: str | Path) -> str | None:
    """The module that reads this data, such as "data.named"; None where this one does.

    As `registry.kinds.module_of`, which goes by the name alone, and of a user's folder by what lies in it.

    Args:
        data: as for `source_files`.

    Raises:
        InputError: for a folder that cannot be read.

    Examples:
        >>> loader_of("scenes:count=10"), loader_of("fashion-mnist")
        ('data.annotated_sources', None)
    """
    if module := module_of(data):
        return module
    path = as_path("data", data)
    return ANNOTATED if not _is_known(data) and path.is_dir() and _called(ANNOTATED, "is_annotated", path) else None


def _called(module: str, function: str, *arguments: Any) -> Any:
    """What a function of a module returns that is imported here, and not seen as imported by the fingerprint."""
    return getattr(import_module(f"counterpoise.{module}"), function)(*arguments)


def _may_have_files(data: str | Path, module: str) -> bool:
    """False for a JSON file that is not there, which has no files as any other that is not there."""
    return module != ANNOTATED or str(data).partition(":")[0] == "scenes" or as_path("data", data).exists()


def _annotations(folder: Path) -> list[Path]:
    """The files of annotations in a folder, and those that they name; all files where the annotations are malformed."""
    try:
        return _called(ANNOTATED, "annotated_files", folder) if loader_of(folder) else []
    except InputError:
        return _below([folder])


class Whole(NamedTuple):
    """All images of a source in its own order, with what it says of each.

    `images` are those that can be read, and `kept` where they are among all; the other three are of all: `names`, the
    source's own word for the split, and the name of the class, None where there is none.
    """

    images: Images
    kept: Int64[Tensor, " readable"]
    names: tuple[str, ...]
    splits: tuple[str | None, ...]
    labels: tuple[str | None, ...]

    def unreadable(self) -> list[str]:
        """The names of the images that cannot be read."""
        kept = set(self.kept.tolist())
        return [name for row, name in enumerate(self.names) if row not in kept]


def _checked(size: int | None, data_dir: str | Path | None, download: bool) -> Path | None:
    """The folder of downloaded sets."""
    if size is not None:
        check_number("size", size, at_least=1, whole=True)
    folder = None if data_dir is None else as_path("data_dir", data_dir)
    if folder is not None and not folder.is_dir() and not download:
        raise InputError(f"data_dir: no such folder: {data_dir}")
    return folder


def _is_known(data: str | Path) -> bool:
    """Whether data is a set that this program makes, or knows with its splits."""
    kind, _, name = str(data).partition(":")
    made = kind in ("glyphs", "factors") or module_of(data) == NAMED
    return made or str(data) == "digits" or (kind in KNOWN and name in ("", "full"))


def _known(data: str | Path, size: int | None, folder: Path | None, download: bool, seed: int) -> Splits:
    kind, _, name = str(data).partition(":")
    if module_of(data) == NAMED:
        return _called(NAMED, f"load_{kind}", str(data), size, seed)
    if kind == "glyphs":
        return load_glyphs(str(data), size, seed)
    if kind == "factors":
        layout = name if ":" in str(data) else "tint"
        return resized(make_factors(layout, _embedded("fashion-mnist"), _embedded("mnist"), seed), size)
    if kind == "digits":
        return resized(divide(_digits(), seed), size)
    return resized(_full(kind, folder, download) if name else _embedded(kind), size)


def _listing(data: str | Path, folder: Path | None, download: bool, whole: bool = False) -> Listing | None:
    """What a source says of its images; None of a known set.

    Raises:
        InputError: for data that has another loader, naming it.
    """
    if _is_known(data):
        return None
    if module := module_of(data):
        table, option, _ = str(data).partition(":")
        chosen = (
            f"; rows of a table of images are chosen by {table}:COLUMN=VALUE, COLUMN being one of {', '.join(FACTORS)}"
        )
        hint = chosen if option and table.lower().endswith(TABLES) else ""
        raise InputError(f"data: expected images with labels; '{data}' means {OTHERWISE[module]}{hint}")
    kind, _, name = str(data).partition(":")
    if kind == "torchvision" and name:
        return _torchvision(name, folder, download)
    if kind == "hf" and name:
        return _huggingface(name, folder, download)
    return _at_path(data, whole)


def _divided(listing: Listing, size: int | None, seed: int, hashes: bool) -> Splits:
    """Images to learn from and to judge by."""
    chosen = choose_splits(listing)
    items, classes = chosen.labelled()
    notes = (*chosen.notes, *_class_notes(items, classes))
    _say(notes)
    names = chosen.factor_names
    return to_splits(items, classes, chosen.name, size, seed, notes, factor_names=names, hashes=hashes)


def _class_notes(items: Sequence[Item], classes: tuple[str, ...]) -> list[str]:
    """What is said of classes by which nothing can be scored."""
    used, learnt = ({item.label for item in items if item.split in splits} for splits in (SPLITS, SPLITS[:2]))
    if len(used) == 1 and used != {UNLABELLED}:
        return [f"all images are of one class, '{classes[used.pop()]}', by which nothing can be scored"]
    unseen = [classes[label] for label in sorted(used - learnt) if label != UNLABELLED]
    common = {item.label for item in items if item.split == "test"} & learnt - {UNLABELLED}
    return [counted("classes that train has no image of", unseen)] if unseen and common else []


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note)


def _whole(parts: Mapping[Any, Images]) -> Whole:
    """A known set, by its splits."""
    rows = [
        (split, images, i, label) for split, images in parts.items() for i, label in enumerate(images.labels.tolist())
    ]
    names = tuple(images.paths[i] if images.paths else f"{images.name}/{i}" for _, images, i, _ in rows)
    labels = tuple(images.classes[label] if label != UNLABELLED else None for _, images, _, label in rows)
    first, *others = parts.values()
    together = replace(
        first,
        pixels=torch.cat([images.pixels for images in parts.values()]) if others else first.pixels,
        labels=torch.cat([images.labels for images in parts.values()]),
        paths=names,
        original_sizes=None,
        factors={},
        factor_names={},
    )
    return Whole(together, torch.arange(len(names)), names, tuple(split for split, *_ in rows), labels)


def _embedded(name: str) -> Splits:
    note = "the subset inside the package: the first 10,000 train and 2,000 test images"
    return read_splits(EMBEDDED / name, name, KNOWN[name].classes, note)


def resized(splits: Splits, size: int | None) -> Splits:
    """Square images of `size` pixels, bilinear and antialiased; None: as they are."""
    return Splits(*(_resize(images, size) for images in splits))


def _resize(images: Images, size: int | None) -> Images:
    if size is None or images.pixels.shape[2:] == (size, size):
        return images
    from torchvision.transforms.v2.functional import resize

    return map_pixels(images, lambda pixels: resize(pixels, [size, size]))


def as_path(argument: str, text: str | Path) -> Path:
    """A path with the home folder filled in, which the system can look for.

    Raises:
        InputError: naming the argument.
    """
    if "\0" in str(text):
        raise InputError(f"{argument}: '{text}' holds a NUL character, which no path has")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{argument}: '{text}' cannot be looked for: {first_line(error)}") from error
    return path


def _at_path(data: str | Path, whole: bool = False) -> Listing:
    """What a folder, a table or, of all images, a single image file says."""
    as_path("data", data)  # refuses what is no path
    place, where = split_filters(data)
    path = as_path("data", place)
    if path.is_dir():
        return list_folder(path, whole)
    if path.suffix.lower() in TABLES and path.is_file():
        return list_table(path, whole, where)
    if whole and path.is_file() and is_image(path):
        return Listing(path.name, [image_item(path, path.name, None)], [None])
    if path.is_file():
        raise InputError(f"data: expected a folder or a file ending in {' or '.join(TABLES)}, got {path}")
    if len(path.parts) > 1 or path.suffix.lower() in TABLES:
        raise InputError(f"data: no such file or folder: {path}")
    raise unknown("data set, folder or table", str(path), NAMES)


def _below(places: Iterable[Path]) -> list[Path]:
    """All files in some folders, at any depth; and those of the places that are files."""
    walked = [Path(folder, file) for place in places for folder, _, files in os.walk(place) for file in files]
    return sorted([*walked, *(place for place in places if place.is_file())])


def _stamp(places: Iterable[Path]) -> str:
    """What changes with any of the files in some folders."""
    return hashlib.sha256("\n".join(map(file_stamp, _below(places))).encode(errors="surrogateescape")).hexdigest()


def _full(name: str, data_dir: Path | None, download: bool) -> Splits:
    known = KNOWN[name]
    found = _find_full(name, data_dir)
    if found is None and download:
        own = data_dir or cache_path() / "torchvision"
        _torchvision_part(known.torchvision, own, {"train": True}, download)
        found = own / known.torchvision / "raw"
    if found is None:
        packaged = f", install Debian's package {known.debian}" if known.debian else ""
        places = ", ".join(map(str, _full_places(name, data_dir)))
        raise InputError(
            f"{name}:full: its IDX files are in none of {places}; name their folder with data_dir "
            f"or COUNTERPOISE_DATA{packaged}, or allow the download (download=True, --download)"
        )
    return read_splits(found, f"{name}:full", known.classes, "the full set")


def _find_full(name: str, data_dir: Path | None) -> Path | None:
    """The folder with the IDX files of a full set."""
    return next(filter(has_idx, _full_places(name, data_dir)), None)


def _full_places(name: str, data_dir: Path | None) -> list[Path]:
    known = KNOWN[name]
    named = os.environ.get("COUNTERPOISE_DATA")
    roots = [root for root in (data_dir, as_path("COUNTERPOISE_DATA", named) if named else None) if root]
    own = data_dir or cache_path() / "torchvision"
    places = [place for root in roots for place in (root / name, root / known.torchvision / "raw", root)]
    places += [DEBIAN / name, own / known.torchvision / "raw"]
    # All these sets name their files alike, so a folder called after another one is not looked into.
    return [place for place in dict.fromkeys(places) if place.name not in KNOWN.keys() - {name}]


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return Images(pixels, torch.from_numpy(digits.target).long(), tuple("0123456789"), "digits")


def _torchvision_kind(name: str) -> Any:
    """The class of a torchvision set.

    Raises:
        InputError: for a name that torchvision does not have.
    """
    import torchvision.datasets

    if name not in torchvision.datasets.__all__:
        raise unknown("torchvision data set", name, torchvision.datasets.__all__)
    return getattr(torchvision.datasets, name)


def _torchvision_root(data_dir: Path | None) -> Path:
    named = os.environ.get("COUNTERPOISE_DATA") or cache_path() / "torchvision"
    return data_dir or as_path("COUNTERPOISE_DATA", named)


def _torchvision_places(name: str, root: Path) -> list[Path]:
    """The folders and files of a set, which begin with its name; where none does, all that is below `root`.

    Examples:
        >>> _torchvision_places("CIFAR10", Path("data"))
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


def _torchvision(name: str, data_dir: Path | None, download: bool) -> Listing:
    parameters = inspect.signature(_torchvision_kind(name)).parameters
    root = _torchvision_root(data_dir)
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
    stamp = _stamp(_torchvision_places(name, root))
    items = [
        Item(f"{part or 'all'}[{i}]", partial(_first, data, i), split=part, stamp=stamp)
        for part, data in opened.items()
        for i in range(len(labels[part]))
    ]
    return Listing(f"torchvision:{name}", items, [label for part in labels.values() for label in part], classes)


def _torchvision_part(name: str, root: Path, chosen: dict[str, Any], download: bool) -> Any:
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


def _huggingface(name: str, data_dir: Path | None, download: bool) -> Listing:
    if find_spec("datasets") is None:
        raise MissingExtra("datasets", "huggingface")
    from datasets import DatasetDict

    data = _huggingface_data(name, data_dir, download)
    whole = data if isinstance(data, DatasetDict) else {None: data}
    image, label, known, notes = _huggingface_columns(name, next(iter(whole.values())).features)
    labels, classes = _huggingface_labels(name, whole.values(), label)
    factors = {
        factor: index_factor(f"hf:{name}", factor, column, _huggingface_texts(name, whole.values(), column))
        for factor, column in known.items()
    }
    if bare := [part for part, rows in whole.items() if image not in rows.features]:
        raise InputError(f"hf:{name}: the split {bare[0]} has no column '{image}', which others have")
    columns = {part: _undecoded(rows, image) for part, rows in whole.items()}
    files = _stamp([as_path("hf", name)])
    items = [
        Item(f"{part or 'train'}[{i}]", partial(_open_stored, rows, i, image), split=part, stamp=stamp)
        for part, rows in columns.items()
        for stamp in [f"{rows._fingerprint} {files}"]
        for i in range(len(rows))
    ]
    return Listing(
        f"hf:{Path(name).name}",
        items,
        labels,
        classes,
        (*notes, *factor_notes(f"hf:{name}", factors)),
        {factor: values for factor, (values, _) in factors.items()},
        {factor: words for factor, (_, words) in factors.items()},
    )


def _huggingface_data(name: str, data_dir: Path | None, download: bool) -> Any:
    from datasets import load_dataset, load_from_disk

    path = as_path("hf", name)
    if not path.exists() and not download:
        raise InputError(f"hf:{name}: no such folder; download=True (--download) allows to get it from the Hub")
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return load_from_disk(str(path))
        return load_dataset(str(path) if path.exists() else name, cache_dir=None if data_dir is None else str(data_dir))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"hf:{name}: cannot be loaded: {first_line(error)}") from error


def _huggingface_columns(name: str, features: Any) -> tuple[str, str | None, dict[str, str], tuple[str, ...]]:
    """The first column of images, the first of classes (by its type, or else by its name), and the columns of factors.

    A column that is called as a factor is no label, unless no other is. Last comes what is said of other columns.

    Raises:
        InputError: where none holds images, or two may by their names be the label or the same factor.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    images = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    if not images:
        raise InputError(f"hf:{name}: expected a column of images, found: {', '.join(features)}")
    typed = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = [column for column in typed if column.lower() not in FACTORS]
    if not labels:
        labels = [column for column in features if column.lower() in COLUMNS["label"]]
        if len(labels) > 1:
            raise InputError(f"hf:{name}: columns {' and '.join(labels)} may each be the label; remove all but one")
    label = next(iter((*labels, *typed)), None)
    called = [column for column in features if column.lower() in FACTORS and column != label]
    factors, _ = find_columns(f"hf:{name}", called, tuple(COLUMNS))
    others = [column for column in features if column not in (images[0], label, *called)]
    notes = [f"hf:{name}: column '{label}' serves as label"] if label and label.lower() != "label" else []
    notes += [f"hf:{name}: {counted('columns not used', others)}"] if others else []
    return images[0], label, factors, tuple(notes)


def _huggingface_labels(
    name: str, parts: Collection[Any], column: str | None
) -> tuple[list[Any], tuple[str, ...] | None]:
    """The label of each image: an index where all splits have the same classes, else the class's name."""
    named = [getattr(part.features.get(column), "names", None) for part in parts]
    having = [names for part, names in zip(parts, named, strict=True) if column in part.features]
    if having and having[0] is not None and all(names == having[0] for names in having):
        values = [value for part in parts for value in _column(part, column)]
        return [UNLABELLED if value is None else value for value in values], tuple(having[0])
    values = _huggingface_texts(name, parts, column)
    return [None if label_text(value) in MISSING else value for value in values], None


def _huggingface_texts(name: str, parts: Collection[Any], column: str | None) -> list[Any]:
    """The texts or numbers of a column, classes by their names; None where there is none.

    Raises:
        InputError: for a column of anything else.
    """
    values: list[Any] = []
    for part in parts:
        names, found = getattr(part.features.get(column), "names", None), _column(part, column)
        values += found if names is None else [names[v] if v is not None and v >= 0 else None for v in found]
    if odd := next((value for value in values if isinstance(value, list | dict)), None):
        raise InputError(f"hf:{name}: column '{column}' holds {type(odd).__name__}s; expected one text or number a row")
    return values


def _column(part: Any, name: str | None) -> list[Any]:
    """The values of a column; None for each row of a split that lacks it, as one to be judged by may lack labels."""
    return list(part.with_format(None)[name]) if name in part.features else [None] * len(part)


def _undecoded(part: Any, column: str) -> Any:
    """The images as the bytes of their files, so that a damaged one is met where all damaged ones are."""
    from datasets import Image as ImageFeature

    return part.with_format(None).select_columns([column]).cast_column(column, ImageFeature(decode=False))


def _open_stored(part: Any, index: int, column: str) -> Image.Image:
    stored = part[index][column]
    return open_image(BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])
