"""Users' folders of images: which files lie in them, and which class and split their layout says."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from counterpoise.data.decoding import Item, file_item
from counterpoise.data.images import UNLABELLED
from counterpoise.data.reading import Unreadable, looks_like_image, readable_suffixes
from counterpoise.errors import InputError, first_few
from counterpoise.files import is_output, outputs_in

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
SPLIT_LIKE = re.compile(
    rf"(images?|imgs?|data)?[ _.-]?({'|'.join(ROLES)})[ _.-]?(\d+|sets?|data|images?|imgs?|splits?)?", re.IGNORECASE
)
# A camera's raw file opens as TIFF, but what it opens with is a thumbnail.
RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}
# Images all the same, where nothing here reads them: they are counted and named, not passed over.
OTHER_IMAGES = {
    *RAW, ".dcm", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".svgz", ".wdp",
    ".wmf", ".xcf",
}  # fmt: skip
# Texts are not opened to see what they are: one may start with a format's two letters.
TEXTS = {
    ".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".py", ".rst", ".toml", ".tsv", ".txt",
    ".xml", ".yaml", ".yml",
}  # fmt: skip
PICTURES = {"image", "images", "img", "imgs", "jpegimages"}  # folders of all images, whatever they show
MARKINGS = {
    "annotation", "annotations", "label", "labels", "mask", "masks", "segmentationclass", "segmentationobject",
}  # fmt: skip
NO_CLASS = {"unlabelled", "unlabeled"}  # a folder of images without a label beside those of classes
NAMED = 3  # how many files a note names


@dataclass(frozen=True)
class Listing:
    """What a source says of its images, before any of them is decoded.

    Args:
        name: what the data is called.
        items: one for each image, in the source's own order; their `split` is the source's own word.
        labels: for each image the name of its class, None without one; or indices into `classes`, -1 without one.
        classes: where the source has them in an order of its own; None: those that occur, sorted.
        notes: what was passed over, or taken for what, in words.
        factors: what else is known: by name a value for each image, from 0, or -1.
        factor_names: of a factor the names of its values.
    """

    name: str
    items: Sequence[Item]
    labels: Sequence[Any]
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    factors: Mapping[str, Sequence[int]] = field(default_factory=dict)
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def labelled(self) -> tuple[list[Item], tuple[str, ...]]:
        """The items with their labels as indices and their factors, and the names of the classes."""
        labels, classes = index_labels(self.labels) if self.classes is None else (self.labels, self.classes)
        known = [{name: values[row] for name, values in self.factors.items()} for row in range(len(self.items))]
        return [
            replace(item, label=label, factors=factors)
            for item, label, factors in zip(self.items, labels, known, strict=True)
        ], classes

    def rows(self, kept: Sequence[int]) -> Listing:
        """Some of the images, in the order given."""
        return replace(
            self,
            items=[self.items[row] for row in kept],
            labels=[self.labels[row] for row in kept],
            factors={name: [values[row] for row in kept] for name, values in self.factors.items()},
        )


@dataclass(frozen=True)
class Found:
    """What lies below a folder, hidden files apart; each in the order of paths."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    circles: list[Path] = field(default_factory=list)
    dead: list[Path] = field(default_factory=list)

    def notes(self, root: Path) -> tuple[str, ...]:
        """What was passed over."""
        said = {
            "written by counterpoise, and passed over": self.outputs,
            "links to a folder that they lie in are not followed": self.circles,
            "links that lead nowhere are passed over": self.dead,
        }
        return tuple(
            f"{root}: {counted(what, [path.relative_to(root).as_posix() for path in paths])}"
            for what, paths in said.items()
            if paths
        )


@dataclass(frozen=True)
class Part:
    """A folder whose sub-folders are classes: a split, or all that there is.

    `images` are its images, each with the names of folders below this one, and its own.
    """

    folder: Path
    split: str | None
    images: list[tuple[Path, tuple[str, ...]]]

    @cached_property
    def inside(self) -> dict[str, tuple[str, ...]]:
        """The sub-folders that hold images, with the folders that hold images in each."""
        found: dict[str, dict[str, None]] = {}
        for _, below in self.images:
            if len(below) > 1:
                found.setdefault(below[0], {}).update({below[1]: None} if len(below) > 2 else {})
        return {name: tuple(folders) for name, folders in found.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        """The sub-folders that hold images of one class each."""
        return tuple(name for name in self.inside if name.lower() not in NO_CLASS)

    def beside(self) -> list[str]:
        """The images that lie beside class folders, in none of them."""
        return [path.name for path, below in self.images if len(below) == 1] if self.inside else []


def list_folder(root: Path, whole: bool = False) -> Listing:
    """The images in a folder, by class and split as its layout says.

    Sub-folders are classes, with images at any depth below; or they are `train` and `test` (or `val`) with the classes
    inside. Images in a folder `unlabelled` beside class folders have no label, nor have those in a folder without
    sub-folders. Linked folders are followed; hidden files, and what this program wrote, are passed over.

    Args:
        root: the folder.
        whole: take every image, whatever its place; else a layout that shows no classes and splits is refused.

    Raises:
        InputError: when there is no image, or a layout is not one of these.
    """
    found = walk(root)
    notes = found.notes(root)
    if not found.images:
        looked = "looked for .png, .jpg, .tif and all else that Pillow reads"
        raise InputError("; ".join([f"{root}: holds no images ({looked})", *notes]))
    parts, outside = _parts(root, found)
    if whole:
        parts = [*parts, outside]
    else:
        _check_layout(root, parts, found)
        notes += _left_out(root, parts, outside, found)
    rows = sorted(
        (path, part.split, _class_of(below))
        for part in parts
        for path, below in part.images
        if whole or len(below) > 1 or not part.inside
    )
    items = [image_item(path, path.relative_to(root).as_posix(), split) for path, split, _ in rows]
    labels = [class_name for _, _, class_name in rows]
    notes += _unlabelled_note(root, parts)
    return Listing(root.resolve().name, items, labels, None, notes)


def walk(root: Path) -> Found:
    """All that lies below a folder, through links, each of which is followed unless it leads back to where it lies.

    Raises:
        InputError: for a folder that cannot be read.
    """
    found = Found()
    # Folders, each with the real folders that lead to it.
    pending: list[tuple[Path, tuple[Path, ...]]] = [(root, (root.resolve(),))]
    while pending:
        folder, above = pending.pop()
        ours = outputs_in(folder)
        for entry in _entries(folder):
            path = folder / entry.name
            linked = entry.is_symlink()
            real = Path(os.path.realpath(path)) if linked else above[-1] / entry.name
            if os.path.isdir(path) if linked else entry.is_dir():
                if _goes_round(real, above):
                    found.circles.append(path)
                elif is_output(real):
                    found.outputs.append(path)
                else:
                    found.folders.append(path)
                    pending.append((path, (*above, real)))
            elif entry.name in ours or (linked and is_output(real)):
                found.outputs.append(path)
            elif linked and not os.path.exists(path):
                (found.images if is_image(path) else found.dead).append(path)
            elif os.path.isfile(path) and is_image(path):  # a pipe would make whoever opens it wait
                found.images.append(path)
    for paths in vars(found).values():
        paths.sort()
    return found


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its ending; by its first bytes where the ending says nothing."""
    suffix = path.suffix.lower()
    known = suffix in readable_suffixes() or suffix in OTHER_IMAGES
    return known or (suffix not in TEXTS and looks_like_image(path))


def image_item(path: Path, name: str, split: str | None) -> Item:
    """The item for an image file, which may be missing."""
    item = file_item(path, name, UNLABELLED, split)
    return replace(item, open=partial(_refuse_raw, path)) if path.suffix.lower() in RAW else item


def choose_splits(listing: Listing) -> Listing:
    """What is learnt from and judged by: items whose split is "train" or "test", or None where all are to be divided.

    Raises:
        InputError: where there are splits, but none to learn from.
    """
    words = list(dict.fromkeys(item.split for item in listing.items))
    if words == [None]:
        return listing
    parts = pick_splits(word for word in words if word is not None)
    if "train" not in parts.values():
        named = ", ".join(map(str, words))
        raise InputError(f"{listing.name}: expected a split named train to learn from, found: {named}")
    divided = "test" in parts.values()
    chosen = listing.rows([i for i, item in enumerate(listing.items) if item.split in parts])
    items = [replace(item, split=parts[str(item.split)] if divided else None) for item in chosen.items]
    others = [str(word) for word in words if word not in parts]
    notes = (*listing.notes, f"left out of the data: {', '.join(others)}") if others else listing.notes
    return replace(chosen, items=items, notes=notes)


def pick_splits(names: Iterable[str]) -> dict[str, str]:
    """Which of the data's own splits are "train" and "test"; validation serves where there is no test.

    Examples:
        >>> pick_splits(["train", "val"]), pick_splits(["Train", "val", "test"])
        ({'train': 'train', 'val': 'test'}, {'Train': 'train', 'test': 'test'})
    """
    roles = {name: ROLES[name.lower()] for name in names if name.lower() in ROLES}
    judge = "test" if "test" in roles.values() else "validation"
    return {name: "test" if role == judge else role for name, role in roles.items() if role in ("train", judge)}


def index_labels(values: Iterable[Any]) -> tuple[list[int], tuple[str, ...]]:
    """Labels as indices into the sorted class names; numbers are sorted as numbers. No value is no label: -1.

    Examples:
        >>> index_labels(["10", "9", None, "10"])
        ([1, 0, -1, 1], ('9', '10'))
    """
    texts = [label_text(value) for value in values]
    names = dict.fromkeys(text for text in texts if text)
    classes = tuple(sorted(names, key=(lambda name: (float(name), name)) if all(map(_is_number, names)) else None))
    index = {name: i for i, name in enumerate(classes)}
    return [index.get(text, UNLABELLED) for text in texts], classes


def label_text(value: Any) -> str:
    """A label as text, empty without one: Parquet has 3.0 where pandas had a gap in a column of integers."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def counted(what: str, names: Sequence[str]) -> str:
    """How many there are, with the first few of them.

    Examples:
        >>> counted("links are passed over", ["a", "b", "c", "d"])
        'links are passed over (4): a, b, c and 1 more'
    """
    return f"{what} ({len(names):,}): {first_few(names)}"


def _is_number(text: str) -> bool:
    """Whether a text is a number that can be put in order: "nan" is before and after none."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def _goes_round(real: Path, above: Sequence[Path]) -> bool:
    """Whether a folder is, or holds, one of those that lead to it."""
    return any(real == folder or real in folder.parents for folder in above)


def _refuse_raw(path: Path) -> Image.Image:
    raise Unreadable(f"a camera's raw file: {path.suffix.lower()}")


def _parts(root: Path, found: Found) -> tuple[list[Part], Part]:
    """The folders of classes, and what lies outside of them: the splits and what is beside, or all in one."""
    below = [(path, path.relative_to(root).parts) for path in found.images]
    holding = dict.fromkeys(parts[0] for _, parts in below if len(parts) > 1)
    top = [path.name for path in found.folders if path.parent == root]
    splits = _split_folders([name for name in top if name in holding or name.lower() in ROLES])
    if not splits:
        return [Part(root, None, below)], Part(root, None, [])
    inside: dict[str, list[tuple[Path, tuple[str, ...]]]] = {split: [] for split in splits}
    outside = []
    for path, parts in below:
        if len(parts) > 1 and parts[0] in inside:
            inside[parts[0]].append((path, parts[1:]))
        else:
            outside.append((path, parts))
    return [Part(root / split, split, images) for split, images in inside.items()], Part(root, None, outside)


def _class_of(below: tuple[str, ...]) -> str | None:
    """The class of an image, by the names of the folders that it lies in, and its own."""
    return below[0] if len(below) > 1 and below[0].lower() not in NO_CLASS else None


def _unlabelled_note(root: Path, parts: Sequence[Part]) -> tuple[str, ...]:
    bare = [below[0] for part in parts for _, below in part.images if len(below) > 1 and below[0].lower() in NO_CLASS]
    return (f"{root}: {len(bare):,} images in folders named '{bare[0]}' have no label",) if bare else ()


def _split_folders(names: Collection[str]) -> list[str]:
    """Those of some folders that are splits, and not classes of which one happens to be called train."""
    named = [name for name in names if name.lower() in ROLES]
    roles = {ROLES[name.lower()] for name in named}
    return named if len(named) == len(names) or ("train" in roles and len(roles) > 1) else []


def _check_layout(root: Path, parts: Sequence[Part], found: Found) -> None:
    """Refuse a layout whose folders are something else than classes and splits.

    Raises:
        InputError: naming what is there.
    """
    for part in parts:
        if not part.images and ROLES[str(part.split).lower()] != "validation":
            raise InputError(f"{part.folder}: holds no images; remove it, or fill it")
        _check_boxes(part, found)
        _check_splits_inside(part)
    names = dict.fromkeys(name for part in parts for name in part.classes)
    if len(names) == 1:
        _check_level(root, parts, next(iter(names)))
    elif parts[0].split is None and names and all(map(SPLIT_LIKE.fullmatch, names)):
        raise InputError(
            f"{root}: its folders look like splits ({_several(names)}); rename them to train and test (or val)"
        )


def _check_boxes(part: Part, found: Found) -> None:
    names = {folder.name.lower(): folder.name for folder in found.folders if folder.parent == part.folder}
    pictures = [name for name in part.classes if name.lower() in PICTURES]
    markings = [name for lower, name in names.items() if lower in MARKINGS]
    if pictures and markings and {name.lower() for name in part.classes} <= PICTURES | MARKINGS:
        raise InputError(
            f"{part.folder}: {pictures[0]}/ beside {markings[0]}/ is a layout of boxes or masks (YOLO, COCO), which "
            f"gives no class for each image; give {part.folder / pictures[0]} to learn without labels, or a table of "
            "paths and labels"
        )


def _check_splits_inside(part: Part) -> None:
    held = part.inside
    splits = {name: inside for name, inside in held.items() if len(_split_folders(inside)) > 1}
    if splits and len(held) > 1:
        name, inside = next(iter(splits.items()))
        raise InputError(
            f"{part.folder}: its folders hold splits ({_several(f'{name}/{split}' for split in inside)}); expected "
            f"the splits above the classes ({inside[0]}/{name}), or one of the folders alone as data"
        )
    for name in held if part.split is None else ():
        if name.lower() in ROLES and set(held[name]) & set(held):
            raise InputError(
                f"{part.folder}: '{name}' holds the folders {_several(held[name])}, as a split does, and lies beside "
                "class folders; move these into a folder named train"
            )


def _check_level(root: Path, parts: Sequence[Part], name: str) -> None:
    """Refuse a single folder that holds others: these are the classes, or splits."""
    part = next(part for part in parts if name in part.classes)
    inside = part.inside[name]
    if inside:
        more = f"give {root / name} as data" if part.split is None else f"move them up, into {part.folder}"
        raise InputError(
            f"{part.folder}: holds one folder, '{name}', which has folders of its own ({_several(inside)}); if these "
            f"are the classes or splits, {more}"
        )


def _left_out(root: Path, parts: Sequence[Part], outside: Part, found: Found) -> tuple[str, ...]:
    """What is said of images and folders that are not learnt from, and of a class that is named as a split."""
    notes = []
    if stray := [path.name for path, below in outside.images if len(below) == 1]:
        notes.append(f"{root}: {counted('images beside the folders of splits are left out', stray)}")
    if others := tuple(outside.inside):
        notes.append(f"left out of the data: {', '.join(others)}")
    for part in parts:
        if stray := part.beside():
            notes.append(f"{part.folder}: {counted('images beside the class folders are left out', stray)}")
        folders = [folder.name for folder in found.folders if folder.parent == part.folder]
        if part.inside and (empty := [name for name in folders if name not in part.inside]):
            notes.append(f"{part.folder}: {counted('folders without images are left out', empty)}")
        if part.split is None and (odd := [name for name in part.classes if name.lower() in ROLES]):
            notes.append(f"{part.folder}: {counted('folders named as splits are taken as classes', odd)}")
    return tuple(notes)


def _several(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
