"""Annotations and results in the format of COCO and LVIS, read as columns; what is at fault is named by its entry."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from counterpoise.errors import InputError, MissingExtra
from counterpoise.files import read_json

FARTHEST = 1e150  # of a box's numbers, so that areas and their sums are finite
OUTSIDE = 1 << 20  # pixels: pycocotools walks along all of an edge, also outside of the image
WANTED = {int: "an integer of at most 64 bits", float: "a number", list: "a list", str: "a string"}
LISTED_IN = {"image_id": "images", "category_id": "categories"}

Entry = tuple[str, dict[str, Any]]  # an object of a JSON file, after its place there


class CocoFile(NamedTuple):
    """A file of images and annotations, entry by entry.

    Attributes:
        path: of the file.
        images: by their numbers.
        annotations: in the order of the file; each is of an image and of a category that the file has.
        categories: names by their numbers.
        boxes: of the annotations: left, top, width and height.
        crowd: of the annotations: whether one marks a region of many objects (`iscrowd`).
        other: what else the file has beside the three lists.
    """

    path: Path
    images: dict[int, Entry]
    annotations: list[Entry]
    categories: dict[int, str]
    boxes: np.ndarray
    crowd: np.ndarray
    other: dict[str, Any]


def read_file(path: Path) -> CocoFile:
    """Images and annotations for learning, from a file in COCO's format; an annotation without `bbox` is refused.

    Args:
        path: JSON.

    Raises:
        InputError: for a file that cannot be read, and for an entry that is malformed, or of an image or category that
            the file does not have, naming it.
    """
    content = read_json(path)
    images, annotations, categories = _sections(path, content)
    by_image, by_category = _by_id(images), _by_id(categories)
    _by_id([entry for entry in annotations if "id" in entry[1]])
    _ids(annotations, "image_id", by_image)
    _ids(annotations, "category_id", by_category)
    return CocoFile(
        path,
        by_image,
        annotations,
        {number: _get(*entry, "name", str) for number, entry in by_category.items()},
        _boxes(annotations),
        np.array([_flag(*entry, "iscrowd") for entry in annotations], dtype=bool),
        {name: value for name, value in content.items() if name not in ("images", "annotations", "categories")},
    )


def read_images(path: Path) -> dict[int, Entry]:
    """The images of a file in COCO's format by their numbers; its annotations are not looked at.

    Raises:
        InputError: for a file that cannot be read or whose images are malformed.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with images, annotations and categories, got {_kind(content)}")
    return _by_id(_entries(path, "images", _get(str(path), content, "images", list)))


def read_mask(entry: Entry, size: Sequence[int], field: str = "segmentation") -> Any:
    """The mask of an entry as a compressed RLE; None where it has none.

    Args:
        entry: whose polygons or RLE are read.
        size: height and width of its image.
        field: its name.

    Raises:
        InputError: for a malformed mask, or one of another size.
        MissingExtra: without pycocotools.
    """
    where, one = entry
    shape = one.get(field)
    if shape is None or shape == []:
        return None
    height, width = size
    return _mask(where, {"segmentation": shape}, (where, {"height": height, "width": width}))


def read_annotations(path: Path, masks: bool = False) -> dict[str, Any]:
    """The columns of `counterpoise.measure.detection.Truth`, from a file; see `read_truth` there."""
    images, annotations, categories = _sections(path, read_json(path))
    by_image, by_category = _by_id(images), _by_id(categories)
    _by_id([entry for entry in annotations if "id" in entry[1]])
    federated = any("neg_category_ids" in one for _, one in images)
    flags = np.array([_flag(*entry, "ignore" if federated else "iscrowd") for entry in annotations], dtype=bool)
    return {
        "images": _ids(annotations, "image_id", by_image),
        "labels": _ids(annotations, "category_id", by_category),
        "boxes": None if masks else _boxes(annotations),
        "masks": [_mask(*one, by_image[one[1]["image_id"]]) for one in annotations] if masks else None,
        "areas": np.array([_between(*entry, "area", "an area of at least 0") for entry in annotations], dtype=float),
        "crowd": None if federated else flags,
        "ignored": flags if federated else None,
        "negative": _listed(images, "neg_category_ids") if federated else None,
        "not_exhaustive": _listed(images, "not_exhaustive_category_ids") if federated else None,
        "known_images": np.array(list(by_image), dtype=np.int64),
        "classes": np.array(list(by_category), dtype=np.int64),
        "groups": _groups(categories),
    }


def read_results(
    path: Path, known: Mapping[str, Any], sizes: Mapping[int, Sequence[int]], masks: bool = False
) -> dict[str, Any]:
    """The columns of `counterpoise.measure.detection.Detections`, from a file; see `read_detections` there.

    Args:
        path: JSON.
        known: the numbers that `image_id` and `category_id` may have; `None` is any.
        sizes: height and width of the masks of an image, where they are known.
        masks: whether to read masks, not boxes.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of detections, got {_kind(content)}")
    entries = _entries(path, "", content)
    images, labels = (
        _ids(entries, name, None if numbers is None else set(numbers.tolist())) for name, numbers in known.items()
    )
    return {
        "images": images,
        "labels": labels,
        "scores": np.array([_between(*one, "score", "a score from 0 to 1", 1) for one in entries], dtype=float),
        "boxes": None if masks else _boxes(entries),
        "masks": [_mask(*one, size=sizes.get(one[1]["image_id"])) for one in entries] if masks else None,
    }


def pycocotools_mask() -> Any:
    """The module of that name.

    Raises:
        MissingExtra: without it.
    """
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise MissingExtra("pycocotools", "coco") from error
    return mask


def _sections(path: Path, content: Any) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """The images, annotations and categories of a file."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with images, annotations and categories, got {_kind(content)}")
    images, annotations, categories = (
        _entries(path, name, _get(str(path), content, name, list)) for name in ("images", "annotations", "categories")
    )
    return images, annotations, categories


def _entries(path: Path, name: str, content: list[Any]) -> list[Entry]:
    found = [(f"{path}: {name}[{i}]", one) for i, one in enumerate(content)]
    for where, one in found:
        if not isinstance(one, dict):
            raise InputError(f"{where}: expected an object, got {_kind(one)}")
    return found


def _by_id(entries: Sequence[Entry]) -> dict[int, Entry]:
    """Entries by their `id`, which no two share."""
    found: dict[int, Entry] = {}
    for where, one in entries:
        number = _get(where, one, "id", int)
        if number in found:
            first = found[number][0].rpartition(": ")[2]
            raise InputError(f"{where}: id {number} is also that of {first}; give each its own")
        found[number] = (where, one)
    return found


def _get(where: str, one: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of an entry; an integer is welcome where a number is expected."""
    if name not in one:
        raise InputError(f"{where}: has no {name}")
    value = one[name]
    if not _is(kind, value):
        raise InputError(f"{where}: expected {WANTED[kind]} as {name}, got {_short(value)}")
    return value


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return _is_number(value)
    fits = kind is not int or (type(value) is int and -(1 << 63) <= value < 1 << 63)
    return isinstance(value, kind) and fits


def _is_number(value: Any) -> bool:
    """Whether it is a number that float64 holds: neither true nor NaN, nor an integer of 400 digits."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    """A value in a few characters, however long it is."""
    return "null" if value is None else reprlib.repr(value)


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return kinds.get(type(value)) or _short(value)


def _ids(entries: Sequence[Entry], name: str, known: Any) -> np.ndarray:
    """The images or categories of all entries, each of which is known."""
    found = [_get(where, one, name, int) for where, one in entries]
    for value, (where, _) in zip(found, entries, strict=True):
        if known is not None and value not in known:
            raise InputError(f"{where}: {name} {value} is not in the annotations' {LISTED_IN[name]}")
    return np.array(found, dtype=np.int64)


def _flag(where: str, one: Mapping[str, Any], name: str) -> bool:
    value = one.get(name, 0)
    if value not in (0, 1):
        raise InputError(f"{where}: expected 0 or 1 as {name}, got {_short(value)}")
    return bool(value)


def _between(where: str, one: Mapping[str, Any], name: str, expected: str, most: float = math.inf) -> float:
    """A number from 0 to `most`."""
    value = _get(where, one, name, float)
    if not 0 <= value <= most:
        raise InputError(f"{where}: expected {expected}, got {value:g}")
    return float(value)


def _listed(images: Sequence[Entry], name: str) -> np.ndarray:
    """Rows of an image and each of the categories that it lists under a name."""
    pairs = []
    for where, one in images:
        listed = _get(where, one, name, list)
        if not all(_is(int, label) for label in listed):
            raise InputError(f"{where}: expected integers in {name}, got {_short(listed)}")
        pairs += [(one["id"], label) for label in listed]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _groups(categories: Sequence[Entry]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for where, one in categories:
        if "frequency" in one:
            groups.setdefault(_get(where, one, "frequency", str), []).append(one["id"])
    return groups


def _boxes(entries: Sequence[Entry]) -> np.ndarray:
    found = []
    for where, one in entries:
        box = _get(where, one, "bbox", list)
        fine = len(box) == 4 and all(_is_number(x) and abs(x) <= FARTHEST for x in box)
        if not fine or min(box[2:]) < 0:
            raise InputError(f"{where}: expected left, top, width and height as bbox, got {_short(box)}")
        found.append(box)
    return np.array(found, dtype=float).reshape(-1, 4)


def _mask(where: str, one: Mapping[str, Any], image: Entry | None = None, size: Sequence[int] | None = None) -> Any:
    """The mask of an entry as a compressed RLE.

    Args:
        where: the place of the entry.
        one: the entry.
        image: that of an annotation; polygons need its height and width.
        size: height and width of an RLE, where there is no image to say them.
    """
    shape = one.get("segmentation")
    if isinstance(shape, dict):
        return _rle(where, shape, size if image is None or {"height", "width"} - image[1].keys() else _size(*image))
    if image is None or not isinstance(shape, list):
        raise InputError(
            f"{where}: expected a segmentation as RLE{' or polygons' if image else ''}, got {_kind(shape)}"
        )
    return _drawn(where, shape, *_size(*image))


def _size(where: str, image: Mapping[str, Any]) -> list[int]:
    size = [_get(where, image, name, int) for name in ("height", "width")]
    _check_size(where, size)
    return size


def _check_size(where: str, size: Any) -> None:
    """Refuse what pycocotools cannot count the pixels of."""
    fine = isinstance(size, list) and len(size) == 2 and all(_is(int, x) and x > 0 for x in size)
    if not fine or math.prod(size) >= 1 << 32:
        raise InputError(f"{where}: expected height and width above 0, of fewer than 2^32 pixels, got {_short(size)}")


def _rle(where: str, shape: dict[str, Any], size: Sequence[int] | None) -> Any:
    """An RLE, compressed where it was not; its counts are checked, since pycocotools reads on beyond wrong ones."""
    counts = shape.get("counts")
    _check_size(f"{where}: segmentation", shape.get("size"))
    if size is not None and shape["size"] != list(size):
        raise InputError(f"{where}: its segmentation has the size {shape['size']}, its image {list(size)}")
    pixels = math.prod(shape["size"])
    runs = counts if isinstance(counts, list) else runs_of(counts)
    if not all(_is(int, run) and run >= 0 for run in runs) or sum(runs) != pixels:
        raise InputError(f"{where}: its segmentation has malformed counts, expected runs of {pixels:,} pixels in all")
    return pycocotools_mask().frPyObjects(shape, *shape["size"]) if isinstance(counts, list) else shape


def runs_of(counts: Any) -> list[int]:
    """The lengths of the runs in the counts of a compressed RLE; none where they are malformed.

    Six bits a character, from the lowest: five of the number, and whether it goes on. From the fourth number on, each
    is the difference to the one before the last.

    Examples:
        >>> runs_of("02g0"), runs_of("abc")
        ([0, 2, 23], [])
    """
    if not isinstance(counts, str) or not counts.isascii():
        return []
    bits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(bits < 32)
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or ends[-1:].tolist() != [len(bits) - 1]:
        return []
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 7:  # more than 32 bits
        return []
    starts = ends - lengths + 1
    numbers = np.add.reduceat((bits & 31) << 5 * (np.arange(len(bits)) - np.repeat(starts, lengths)), starts)
    numbers -= np.where(bits[ends] & 16, 1 << 5 * lengths, 0)
    numbers[1::2], numbers[2::2] = numbers[1::2].cumsum(), numbers[2::2].cumsum()
    return [int(number) for number in numbers]


def _drawn(where: str, polygons: list[Any], height: int, width: int) -> Any:
    """The mask of polygons; one of two points or fewer covers nothing, as in pycocotools."""
    for polygon in polygons:
        numbers: list[Any] = polygon if isinstance(polygon, list) else [None]
        if len(numbers) % 2 or not all(_is_number(x) and abs(x) <= OUTSIDE for x in numbers):
            got = f"{len(numbers)} numbers, {_short(polygon)}" if isinstance(polygon, list) else _short(polygon)
            raise InputError(
                f"{where}: its segmentation is neither RLE nor polygons: expected x, y of each point in turn, got {got}"
            )
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if not whole:
        points = ", ".join(str(len(polygon) // 2) for polygon in polygons) or "no polygon"
        raise InputError(
            f"{where}: its segmentation covers nothing: expected polygons of 3 points or more, got {points}"
        )
    mask = pycocotools_mask()
    return mask.merge(mask.frPyObjects(whole, height, width))
