"""Detections and annotated objects, in memory and from files in the format of COCO and LVIS.

Boxes are left, top, width and height, as in COCO's files (`torchvision.ops.box_convert(boxes, "xyxy", "xywh")`). Images
and categories are integers. `read_truth` and `read_detections` read files in the format of COCO and LVIS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from counterpoise.data import coco
from counterpoise.errors import InputError
from counterpoise.ops.arrays import as_array, as_flags, as_integer_lists, as_integers, as_numbers, as_scores, check_each
from counterpoise.ops.checks import check_number

FREQUENCIES = {"r": (0, 10), "c": (10, 100), "f": (100, math.inf)}  # training images of rare, common, frequent classes


@dataclass(frozen=True, eq=False)
class Detections:
    """The output of a detector, one row for each detection.

    Args:
        images: identifier of the image.
        labels: identifier of the category.
        scores: confidence from 0 to 1.
        boxes: left, top, width and height in pixels; `None` where `masks` are given.
        masks: compressed RLEs of pycocotools, in place of boxes.
        ties: rank detections of equal score, the highest first. `Calibration` stores the uncalibrated scores here.

    Raises:
        InputError: for wrong shapes or dtypes, integers beyond 64 bits, NaN, scores out of range, negative sizes, masks
            that are not compressed RLEs, and for both or neither of boxes and masks.

    Examples:
        >>> Detections(np.array([1]), np.array([0]), np.array([1.2]), np.array([[0.0, 0.0, 4.0, 4.0]]))
        Traceback (most recent call last):
        counterpoise.errors.InputError: scores: expected numbers from 0 to 1, got 1.2 in row 0
    """

    images: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Num[np.ndarray, "n 4"] | None = None
    masks: Sequence[Mapping[str, Any]] | None = None
    ties: Float[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        n = _check_rows(self)
        _set(self, scores=as_scores("scores", self.scores, (n,)))
        if self.ties is not None:
            _set(self, ties=as_numbers("ties", self.ties, (n,)))

    def __len__(self) -> int:
        return len(self.images)

    def ranks(self) -> tuple[np.ndarray, ...]:
        """Keys for `np.lexsort` that sort by descending score, and equal scores by descending tie."""
        return (-self.scores,) if self.ties is None else (-self.ties, -self.scores)


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotated objects, one row for each object; in federated data also the categories each image was checked for.

    Args:
        images: identifier of the image.
        labels: identifier of the category.
        boxes: left, top, width and height in pixels; `None` where `masks` are given.
        masks: compressed RLEs of pycocotools, in place of boxes.
        areas: decide which objects are small or large; `None` takes the area of the box or mask.
        crowd: whether the row marks a region of several objects. Such a region need not be detected, and detections in
            it are not false positives.
        ignored: whether the object need not be detected. A detection that matches it counts as neither true nor false.
        negative: pairs of an image and a category that is known to be absent from it. If given, the data is federated:
            a detection counts only where its category is among the image's objects or negatives. `None`: annotators
            checked all images for all categories.
        not_exhaustive: pairs of an image and a category whose objects are annotated in part. There, an unmatched
            detection is not a false positive.
        known_images: all annotated images; detections in other images are refused. `None` takes any.
        classes: all categories; detections of other categories are refused. `None` takes any.
        groups: categories by the name of their group, such as "r", "c" and "f" (see `frequency_groups`).

    Raises:
        InputError: for wrong shapes or dtypes, integers beyond 64 bits, NaN, negative sizes or areas, masks that are
            not compressed RLEs, and for both or neither of boxes and masks.

    Examples:
        >>> len(Truth(np.array([1, 1]), np.array([0, 3]), np.array([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 4.0, 4.0]])))
        2
    """

    images: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    boxes: Num[np.ndarray, "n 4"] | None = None
    masks: Sequence[Mapping[str, Any]] | None = None
    areas: Num[np.ndarray, " n"] | None = None
    crowd: Bool[np.ndarray, " n"] | None = None
    ignored: Bool[np.ndarray, " n"] | None = None
    negative: Int[np.ndarray, "m 2"] | None = None
    not_exhaustive: Int[np.ndarray, "k 2"] | None = None
    known_images: Int[np.ndarray, " images"] | None = None
    classes: Int[np.ndarray, " classes"] | None = None
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = _check_rows(self)
        if self.areas is not None:
            areas = as_numbers("areas", self.areas, (n,))
            check_each("areas", areas, areas >= 0, "numbers of at least 0")
            _set(self, areas=areas)
        flags = {name: as_flags(name, x, n) for name, x in _given(self, "crowd", "ignored")}
        pairs = {name: _pairs(name, x) for name, x in _given(self, "negative", "not_exhaustive")}
        known = {name: as_integers(name, x) for name, x in _given(self, "known_images", "classes")}
        _set(self, **flags, **pairs, **known, groups=as_integer_lists("groups", self.groups))

    def __len__(self) -> int:
        return len(self.images)

    def crowds(self) -> Bool[np.ndarray, " n"]:
        """Whether each row is a crowd."""
        return np.zeros(len(self), bool) if self.crowd is None else self.crowd

    def unexpected(self, low: float, high: float) -> Bool[np.ndarray, " n"]:
        """Whether each object need not be detected: ignored ones, crowds, and those with an area out of the range.

        Args:
            low: the smallest area of the range.
            high: the largest area of the range.
        """
        areas = areas_of(self) if self.areas is None else self.areas
        ignored = False if self.ignored is None else self.ignored
        return ignored | self.crowds() | (areas < low) | (areas > high)


def frequency_groups(counts: Mapping[int, int]) -> dict[str, list[int]]:
    """Group categories by frequency as LVIS does: rare, common and frequent.

    Args:
        counts: number of training images that show each category.

    Returns:
        The categories with fewer than 10 training images as "r", with 10 to 99 as "c", and with 100 or more as "f".

    Raises:
        InputError: for a count that is not a whole number of at least 0.

    Examples:
        >>> frequency_groups({0: 9, 1: 10, 2: 5000})
        {'r': [0], 'c': [1], 'f': [2]}
    """
    for label, count in counts.items():
        check_number(f"counts: {label}", count, at_least=0, whole=True)
    return {
        name: [label for label, n in counts.items() if low <= n < high] for name, (low, high) in FREQUENCIES.items()
    }


def read_truth(path: str | Path, masks: bool = False) -> Truth:
    """Read annotations in the format of COCO or LVIS.

    A file whose images have `neg_category_ids` is federated, as those of LVIS are. The function then reads these, the
    images' `not_exhaustive_category_ids` and the objects' `ignore`. From other files it reads `iscrowd` and not
    `ignore`, as pycocotools does. The `frequency` of categories, where they have one, gives the groups.

    Args:
        path: a JSON file with `images`, `annotations` and `categories`.
        masks: whether to read the objects' masks (polygons or RLE) in place of their boxes.

    Raises:
        InputError: with the file, and the line where it is malformed or the wrong entry; also for an id that occurs
            twice or exceeds 64 bits, and for a mask of no area or of another size than its image.
        MissingExtra: for masks without pycocotools.
    """
    return Truth(**coco.read_annotations(Path(path), masks))


def read_detections(path: str | Path, truth: Truth, masks: bool = False) -> Detections:
    """Read results in COCO's format: a list of `image_id`, `category_id`, `score`, and `bbox` or `segmentation`.

    Args:
        path: a JSON file; an empty list gives no detections.
        truth: from `read_truth`; images and categories that it does not have are refused.
        masks: whether to read masks (RLE, compressed or not) in place of boxes.

    Raises:
        InputError: with the file, and the line where it is malformed or the wrong entry.
        MissingExtra: for masks without pycocotools.
    """
    known = {"image_id": truth.known_images, "category_id": truth.classes}
    sizes = dict(zip(truth.images.tolist(), (list(one["size"]) for one in truth.masks or ()), strict=False))
    return Detections(**coco.read_results(Path(path), known, sizes, masks))


def _set(one: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(one, name, value)


def _given(one: object, *names: str) -> Iterator[tuple[str, Any]]:
    """Name and value of those fields that are not `None`."""
    yield from ((name, getattr(one, name)) for name in names if getattr(one, name) is not None)


def _pairs(name: str, x: Any) -> np.ndarray:
    found = as_array(name, x)
    if found.size and (found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu"):
        got = f"{found.dtype} of shape {list(found.shape)}"
        raise InputError(f"{name}: expected rows of an image and a category, got {got}")
    return as_integers(name, found, (len(found), 2) if found.size else (0, 2))


def _check_rows(one: Detections | Truth) -> int:
    """Check images, labels, and boxes or masks; return their number."""
    images = as_integers("images", one.images)
    n = len(images)
    _set(one, images=images, labels=as_integers("labels", one.labels, (n,)))
    if (one.boxes is None) == (one.masks is None):
        raise InputError("boxes and masks: expected one of them")
    if one.boxes is not None:
        _set(one, boxes=checked_boxes("boxes", one.boxes, n))
    if one.masks is not None and len(one.masks) != n:
        raise InputError(f"masks: expected {n}, got {len(one.masks)}")
    for row, mask in enumerate(one.masks or ()):
        if not isinstance(mask, Mapping) or "size" not in mask or not isinstance(mask.get("counts"), str | bytes):
            raise InputError(f"masks: expected a compressed RLE (pycocotools.mask.frPyObjects makes one) in row {row}")
    return n


def checked_boxes(name: str, x: Any, rows: int) -> np.ndarray:
    """Boxes as float64, unless they are not left, top, width and height."""
    boxes = as_numbers(name, x, (rows, 4))
    right = (boxes[:, 2:] >= 0).all(1) & (np.abs(boxes) <= coco.FARTHEST).all(1)
    check_each(name, boxes, right, "left, top, width and height")
    return boxes


def areas_of(one: Detections | Truth) -> np.ndarray:
    """The area of each box or mask."""
    if one.boxes is not None:
        return one.boxes[:, 2] * one.boxes[:, 3]
    return np.asarray(coco.pycocotools_mask().area(list(one.masks or ())), dtype=float).reshape(-1)
