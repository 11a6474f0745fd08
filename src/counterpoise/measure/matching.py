"""The matching of detections to annotated objects by the overlap of boxes or masks, as COCO and LVIS define it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from counterpoise.data import coco
from counterpoise.errors import InputError
from counterpoise.measure.detection import Detections, Truth, areas_of, checked_boxes
from counterpoise.ops.arrays import as_array, as_flags

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
ANY_SIZE = (0.0, math.inf)
PAIRS = 1 << 18  # detections and objects whose overlaps are computed at a time: as many as a cache holds


class Matches(NamedTuple):
    """Which detections match an object, from `match`.

    Attributes:
        detections: the detections matched.
        truth: the objects they were matched to.
        judged: whether the detection's image was checked for its category; if not, the detection does not count.
        matched: whether the detection matches an object, at each threshold.
        ignored: whether the detection counts as neither true nor false positive, at each threshold.
        expected: whether the object should be detected.
    """

    detections: Detections
    truth: Truth
    judged: Bool[np.ndarray, " n"]
    matched: Bool[np.ndarray, "n thresholds"]
    ignored: Bool[np.ndarray, "n thresholds"]
    expected: Bool[np.ndarray, " objects"]

    @property
    def classes(self) -> np.ndarray:
        """All categories in ascending order."""
        if self.truth.classes is not None:
            return np.unique(self.truth.classes)
        return np.union1d(self.truth.labels, self.detections.labels)


def match(
    detections: Detections,
    truth: Truth,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> Matches:
    """Match detections to objects within each image and category, at each threshold of the overlap.

    Detections choose in the order of descending scores. Each takes the free object that it overlaps most, provided that
    the overlap reaches the threshold. It prefers objects that should be detected, and the last one of equal overlaps.
    The overlap is the intersection over the union; for a crowd it is the intersection over the detection, and many
    detections may match the same crowd.

    The result depends only on the order of detections within an image and a category. So one matching serves every cap
    on the number of detections that keeps the best ones.

    Args:
        detections: in any order; detections of equal score and tie keep it.
        truth: the objects.
        thresholds: of the overlap, above 0 and at most 1.
        area: the smallest and the largest area in square pixels. Objects out of this range need not be detected, and
            unmatched detections out of it do not count. COCO's "medium" is (32**2, 96**2).

    Raises:
        InputError: for a detection in an unknown image or of an unknown category, masks against boxes, or thresholds or
            areas out of range.

    Examples:
        >>> truth = Truth(np.array([7]), np.array([0]), np.array([[0.0, 0.0, 10.0, 10.0]]))
        >>> boxes = np.array([[0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 10.0]])
        >>> match(Detections(np.array([7, 7]), np.array([0, 0]), np.array([0.9, 0.8]), boxes), truth).matched[:, ::3]
        array([[ True, False, False, False],
               [False,  True,  True,  True]])
    """
    _check_known(detections, truth)
    limits = _limits(thresholds)
    low, high = _area_range(area)
    cells, object_cells, negative, not_exhaustive = cells_of(detections, truth)
    judged = np.ones(len(detections), bool)
    if truth.negative is not None:
        judged = np.isin(cells, np.concatenate([object_cells, negative]))

    unexpected, crowd = truth.unexpected(low, high), truth.crowds()
    rows, objects, overlaps = _candidates(detections, truth, cells, object_cells, float(limits.min()))
    # The candidates of each detection in the order in which it takes them.
    order = np.lexsort((-objects, -overlaps, unexpected[objects], rows))
    rows, objects, overlaps = rows[order], objects[order], overlaps[order]
    matched = np.zeros((len(detections), len(limits)), bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((len(truth), len(limits)), bool)
    for finders, first, counts in _rounds(detections, cells, rows):
        looking = np.ones((len(finders), len(limits)), bool)
        for nth in range(counts[0]):
            alive = int(np.searchsorted(-counts, -nth))  # counts descend: those with more than `nth` candidates
            found, who = objects[first[:alive] + nth], finders[:alive]
            hit = looking[:alive] & (overlaps[first[:alive] + nth, None] >= limits) & ~taken[found]
            looking[:alive] &= ~hit
            taken[found] |= hit & ~crowd[found, None]
            matched[who] |= hit
            ignored[who] |= hit & unexpected[found, None]
    pardoned = np.isin(cells, not_exhaustive)
    if (low, high) != ANY_SIZE:
        sizes = areas_of(detections)
        pardoned |= (sizes < low) | (sizes > high)
    ignored |= ~matched & pardoned[:, None]
    return Matches(detections, truth, judged, matched, ignored, ~unexpected)


def _limits(thresholds: Any) -> np.ndarray:
    """The thresholds as an array; one of 1 becomes slightly smaller, since an overlap of 1 may round to less."""
    found = as_array("thresholds", thresholds)
    if found.dtype.kind not in "iuf" or found.ndim != 1 or not len(found) or not ((found > 0) & (found <= 1)).all():
        raise InputError(f"thresholds: expected numbers above 0 and at most 1, got {reprlib.repr(found.tolist())}")
    return np.minimum(found.astype(float), 1 - 1e-10)


def _area_range(area: Any) -> tuple[float, float]:
    numbers = list(area) if isinstance(area, Sequence | np.ndarray) else []
    if len(numbers) != 2 or not all(isinstance(x, Real) for x in numbers) or not 0 <= numbers[0] <= numbers[1]:
        raise InputError(f"area: expected a smallest area of at least 0 and a largest one, got {area!r}")
    return float(numbers[0]), float(numbers[1])


def _rounds(
    detections: Detections, cells: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Divide the detections that have candidates into rounds: the best of every cell, then the second best, and so on.

    No two detections of a round compete for an object, so a round is matched at once.

    Yields:
        The detections of a round, the places where their candidates begin, and their numbers of candidates, descending.
    """
    finders, first, counts = np.unique(rows, return_index=True, return_counts=True)
    turn = rank_in_groups(cells[finders], *(key[finders] for key in detections.ranks()))
    order = np.lexsort((-counts, turn))
    for part in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else []:
        yield finders[part], first[part], counts[part]


def rank_in_groups(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The rank of each row in its group, from 0, by keys as for `np.lexsort`; rows of equal keys keep their order."""
    order = np.lexsort((*keys, groups))
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - starts
    return rank


def cells_of(detections: Detections, truth: Truth) -> list[np.ndarray]:
    """Number all pairs of an image and a category: for detections, objects, negatives and pairs annotated in part."""
    none = np.zeros((0, 2), int)
    found = [np.stack([part.images, part.labels], axis=1) for part in (detections, truth)]
    parts = [*found, *(none if part is None else part for part in (truth.negative, truth.not_exhaustive))]
    pairs = np.concatenate([part.astype(np.int64) for part in parts])
    _, image = np.unique(pairs[:, 0], return_inverse=True)
    labels, label = np.unique(pairs[:, 1], return_inverse=True)
    return np.split(image.ravel() * len(labels) + label.ravel(), np.cumsum([len(part) for part in parts])[:-1])


def _candidates(
    detections: Detections, truth: Truth, cells: np.ndarray, object_cells: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a detection and an object of the same cell that overlap by at least `least`, and their overlaps."""
    order = np.argsort(object_cells, kind="stable")
    starts = np.searchsorted(object_cells[order], cells)
    counts = np.searchsorted(object_cells[order], cells, side="right") - starts
    cuts = np.searchsorted(np.cumsum(counts), np.arange(PAIRS, counts.sum(), PAIRS))
    parts = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for part in np.split(np.arange(len(cells)), cuts):
        many = counts[part]
        rows = np.repeat(part, many)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(many) - many, many)
        objects = order[np.repeat(starts[part], many) + nth]
        overlaps = _overlaps(detections, truth, rows, objects)
        near = overlaps >= least
        parts.append((rows[near], objects[near], overlaps[near]))
    rows, objects, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, objects, overlaps


def _overlaps(detections: Detections, truth: Truth, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
    if detections.boxes is not None and truth.boxes is not None:
        return _iou(detections.boxes[rows], truth.boxes[objects], truth.crowds()[objects])
    assert detections.masks is not None
    assert truth.masks is not None
    mask, crowd = coco.pycocotools_mask(), truth.crowds().astype(np.uint8)
    found = np.zeros(len(rows))
    ends = np.flatnonzero(np.diff(rows, append=-1)) + 1
    for part in np.split(np.arange(len(rows)), ends[:-1]) if len(rows) else []:
        one, many = detections.masks[rows[part[0]]], [truth.masks[i] for i in objects[part]]
        if any(tuple(one["size"]) != tuple(other["size"]) for other in many):
            raise InputError(
                f"masks: expected those of an image to be of one size, got {list(one['size'])} in detection "
                f"{rows[part[0]]} and another in image {detections.images[rows[part[0]]]}"
            )
        found[part] = mask.iou([one], many, crowd[objects[part]].tolist())[0]
    return found


def box_iou(
    boxes: Num[np.ndarray, "pairs 4"], others: Num[np.ndarray, "pairs 4"], crowd: Bool[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Intersection over union of pairs of boxes; where the other box is a crowd, intersection over the first box.

    Args:
        boxes: left, top, width and height.
        others: the other box of each pair.
        crowd: whether the other box is a crowd.

    Raises:
        InputError: for wrong shapes, NaN, or negative sizes.

    Examples:
        >>> box_iou(np.array([[0, 0, 2, 2]] * 2), np.array([[1, 0, 4, 2]] * 2), np.array([False, True])).tolist()
        [0.2, 0.5]
    """
    n = len(boxes)
    return _iou(checked_boxes("boxes", boxes, n), checked_boxes("others", others, n), as_flags("crowd", crowd, n))


def _iou(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    a, b = boxes.T.astype(float), others.T.astype(float)
    width = np.minimum(a[2] + a[0], b[2] + b[0]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3] + a[1], b[3] + b[1]) - np.maximum(a[1], b[1])
    shared = width.clip(min=0) * height.clip(min=0)
    area = a[2] * a[3]
    union = np.where(crowd, area, area + b[2] * b[3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _check_known(detections: Detections, truth: Truth) -> None:
    if (detections.boxes is None) != (truth.boxes is None):
        raise InputError("detections and truth: expected boxes in both or masks in both")
    for name, known in (("images", truth.known_images), ("labels", truth.classes)):
        found = getattr(detections, name)
        strange = np.flatnonzero(~np.isin(found, found if known is None else known))
        if len(strange):
            raise InputError(f"{name}: {found[strange[0]]} in row {strange[0]} of the detections is not in the truth")
