"""Where data comes from: `load` takes a name or a path and gives the images to learn from and those to judge by."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from counterpoise.data.decoding import Item, decode_images, divide, to_splits
from counterpoise.data.factors import make_factors
from counterpoise.data.folders import (
    Listing,
    choose_splits,
    counted,
    image_item,
    is_image,
    list_folder,
    walk,
)
from counterpoise.data.glyphs import load_glyphs
from counterpoise.data.huggingface_sets import list_huggingface
from counterpoise.data.idx import PARTS, find_idx
from counterpoise.data.images import UNLABELLED, Images, Splits, map_pixels
from counterpoise.data.known_sets import KNOWN, find_full, read_digits, read_embedded, read_full
from counterpoise.data.paths import as_path, files_below
from counterpoise.data.tables import (
    FACTORS,
    TABLES,
    list_files,
    list_table,
    split_filters,
)
from counterpoise.data.torchvision_sets import list_torchvision, torchvision_places, torchvision_root
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number, check_seed
from counterpoise.registry.kinds import ANNOTATED, NAMED, ROWS, module_of

SPLITS = (None, "train", "test")
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
        return _whole({None: _resize(read_digits(), size)})
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
        place = find_full(kind, folder)
        found = [find_idx(place, part, what) for part in PARTS for what in ("images", "labels")] if place else []
        return [path for path in found if path]
    if kind == "torchvision" and name:
        return files_below(torchvision_places(name, torchvision_root(folder)))
    if kind == "hf" and name:
        return files_below([as_path("hf", name)])
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
        return files_below([folder])


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
        return resized(make_factors(layout, read_embedded("fashion-mnist"), read_embedded("mnist"), seed), size)
    if kind == "digits":
        return resized(divide(read_digits(), seed), size)
    return resized(read_full(kind, folder, download) if name else read_embedded(kind), size)


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
        return list_torchvision(name, folder, download)
    if kind == "hf" and name:
        return list_huggingface(name, folder, download)
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


def resized(splits: Splits, size: int | None) -> Splits:
    """Square images of `size` pixels, bilinear and antialiased; None: as they are."""
    return Splits(*(_resize(images, size) for images in splits))


def _resize(images: Images, size: int | None) -> Images:
    if size is None or images.pixels.shape[2:] == (size, size):
        return images
    from torchvision.transforms.v2.functional import resize

    return map_pixels(images, lambda pixels: resize(pixels, [size, size]))


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
