"""Detections, annotated objects, the matching of one to the other, and average precision as COCO and LVIS define it.

Boxes are left, top, width and height, as in COCO's files (`torchvision.ops.box_convert(boxes, "xyxy", "xywh")`). Images
and categories are integers. `read_truth` and `read_detections` read files in the format of COCO and LVIS.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from counterpoise.data import coco
from counterpoise.errors import InputError
from counterpoise.ops.arrays import as_array, as_flags, as_integer_lists, as_integers, as_numbers, as_scores, check_each
from counterpoise.ops.checks import check_number

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0.0, 1.0, 101)
ANY_SIZE = (0.0, math.inf)
PAIRS = 1 << 18  # detections and objects whose overlaps are computed at a time: as many as a cache holds
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
        areas = _areas(self) if self.areas is None else self.areas
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
    cells, object_cells, negative, not_exhaustive = _cells(detections, truth)
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
        sizes = _areas(detections)
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
    turn = _rank(cells[finders], *(key[finders] for key in detections.ranks()))
    order = np.lexsort((-counts, turn))
    for part in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else []:
        yield finders[part], first[part], counts[part]


def _rank(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The rank of each row in its group, from 0, by keys as for `np.lexsort`; rows of equal keys keep their order."""
    order = np.lexsort((*keys, groups))
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - starts
    return rank


def _cells(detections: Detections, truth: Truth) -> list[np.ndarray]:
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
    return _iou(_boxes("boxes", boxes, n), _boxes("others", others, n), as_flags("crowd", crowd, n))


def _iou(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    a, b = boxes.T.astype(float), others.T.astype(float)
    width = np.minimum(a[2] + a[0], b[2] + b[0]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3] + a[1], b[3] + b[1]) - np.maximum(a[1], b[1])
    shared = width.clip(min=0) * height.clip(min=0)
    area = a[2] * a[3]
    union = np.where(crowd, area, area + b[2] * b[3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """An average precision (AP); -1 if there is no object to detect.

    Attributes:
        value: AP from 0 to 1.
        groups: AP of each group of categories.
        per_class: AP of each category; empty for AP-Pool, whose categories have no curve of their own.
        curves: precision at recalls 0, 0.01, … 1, one curve for each category; for AP-Pool one for all categories, then
            one for each group.
    """

    value: float
    groups: dict[str, float]
    per_class: dict[int, float]
    curves: Float[np.ndarray, "curves thresholds recalls"]


def precision_at_recalls(
    matched: Bool[np.ndarray, "n thresholds"], ignored: Bool[np.ndarray, "n thresholds"], expected: int
) -> Float[np.ndarray, "thresholds recalls"]:
    """Interpolated precision at recalls 0, 0.01, … 1: the highest precision at this recall or a higher one.

    Args:
        matched: whether each detection matches an object, at each threshold; the highest score comes first.
        ignored: whether it counts as neither true nor false positive.
        expected: number of objects to detect.

    Returns:
        The precisions; 0 at recalls that the detections do not reach, and -1 everywhere if no object is expected.

    Raises:
        InputError: for wrong shapes, or a number of objects that is not a whole number of at least 0.

    Examples:
        >>> flags = np.array([[True], [False], [True]])
        >>> precision_at_recalls(flags, np.zeros((3, 1), bool), expected=4)[0, [0, 25, 26, 50, 51]].round(3).tolist()
        [1.0, 1.0, 0.667, 0.667, 0.0]
    """
    check_number("expected", expected, at_least=0, whole=True)
    if matched.ndim != 2 or matched.shape != ignored.shape:
        got = f"{list(matched.shape)} and {list(ignored.shape)}"
        raise InputError(f"matched and ignored: expected one shape [n, thresholds], got {got}")
    shape = matched.shape[1], len(RECALLS)
    if expected == 0:
        return np.full(shape, -1.0)
    true = np.cumsum((matched & ~ignored).T, axis=1, dtype=float)
    false = np.cumsum((~matched & ~ignored).T, axis=1, dtype=float)
    precision = true / (true + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    found = np.zeros(shape)
    for row, recall in enumerate(true / expected):
        at = np.searchsorted(recall, RECALLS)
        reached = at < len(recall)
        found[row, reached] = precision[row, at[reached]]
    return found


def ap_image_cap(
    detections: Detections,
    truth: Truth,
    max_dets: int = 300,
    per_class: bool = False,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """Ordinary AP: keep the best detections of each image, then take the mean over categories.

    COCO's mean average precision has `max_dets=100` and `per_class=True`, that of LVIS the defaults.

    Args:
        detections: in any order.
        truth: the objects.
        max_dets: number of detections kept in each image.
        per_class: whether this number holds for each category in each image, as for COCO, or for all categories of an
            image together, as for LVIS.
        thresholds: of the overlap, above 0 and at most 1.
        area: see `match`.

    Returns:
        The mean over thresholds, recalls and all categories with objects.

    Raises:
        InputError: as `match` does, and for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0]])
        >>> truth = Truth(np.array([1, 1]), np.array([0, 1]), boxes)
        >>> detections = Detections(np.array([1, 1]), np.array([0, 1]), np.array([0.9, 0.8]), boxes)
        >>> [round(ap_image_cap(detections, truth, cap).value, 6) for cap in (1, 2)]
        [0.5, 1.0]
    """
    return ap_image_cap_from_matches(match(detections, truth, thresholds, area), max_dets, per_class)


def ap_image_cap_from_matches(matches: Matches, max_dets: int = 300, per_class: bool = False) -> AveragePrecision:
    """Ordinary AP of detections that are matched already; `ap_image_cap` matches them first.

    Args:
        matches: from `match`.
        max_dets: as in `ap_image_cap`.
        per_class: as in `ap_image_cap`.

    Raises:
        InputError: for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0]])
        >>> truth = Truth(np.array([1]), np.array([0]), boxes)
        >>> matches = match(Detections(np.array([1]), np.array([0]), np.array([0.9]), boxes), truth)
        >>> round(ap_image_cap_from_matches(matches, max_dets=1).value, 6)
        1.0
    """
    check_number("max_dets", max_dets, at_least=1, whole=True)
    detections = matches.detections
    competing = _cells(detections, matches.truth)[0] if per_class else detections.images
    return mean_over_classes(matches, _rank(competing, *detections.ranks()) < max_dets)


def mean_over_classes(matches: Matches, kept: Bool[np.ndarray, " n"]) -> AveragePrecision:
    """Average precision of each category from the detections kept, and the mean over categories with objects.

    Args:
        matches: from `match`.
        kept: whether each detection is kept.

    Raises:
        InputError: unless there is one of true and false for each detection.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0]])
        >>> truth = Truth(np.array([1, 1]), np.array([0, 1]), boxes)
        >>> matches = match(Detections(np.array([1, 1]), np.array([0, 1]), np.array([0.9, 0.8]), boxes), truth)
        >>> {label: round(ap, 6) for label, ap in mean_over_classes(matches, np.array([True, False])).per_class.items()}
        {0: 1.0, 1: 0.0}
    """
    classes = matches.classes
    order = ranking(matches, kept)
    order = order[np.argsort(matches.detections.labels[order], kind="stable")]
    labels = matches.detections.labels[order]
    parts = np.split(order, np.searchsorted(labels, classes)[1:]) if len(classes) else []
    objects = np.sort(matches.truth.labels[matches.expected])
    expected = np.searchsorted(objects, classes, side="right") - np.searchsorted(objects, classes)
    curves = np.full((len(classes), matches.matched.shape[1], len(RECALLS)), -1.0)
    for row, part in enumerate(parts):
        curves[row] = precision_at_recalls(matches.matched[part], matches.ignored[part], int(expected[row]))
    there = expected > 0
    groups = {name: _mean(curves[there & np.isin(classes, m)]) for name, m in matches.truth.groups.items()}
    per_class = {int(label): _mean(curves[row]) for row, label in enumerate(classes)}
    return AveragePrecision(_mean(curves[there]), groups, per_class, curves)


def _mean(curves: np.ndarray) -> float:
    return float(curves.mean()) if curves.size else -1.0


def best_per_class(detections: Detections, dets_per_class: int) -> Bool[np.ndarray, " n"]:
    """Whether each detection is among the best of its category over all images.

    Args:
        detections: in any order.
        dets_per_class: number of detections of a category that are among its best, at least 1.

    Raises:
        InputError: for a number that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.zeros((3, 4))
        >>> best_per_class(Detections(np.array([1, 2, 2]), np.array([0, 0, 1]), np.array([0.2, 0.9, 0.1]), boxes), 1)
        array([False,  True,  True])
    """
    check_number("dets_per_class", dets_per_class, at_least=1, whole=True)
    return _rank(detections.labels, *detections.ranks()) < dets_per_class


def ranking(matches: Matches, kept: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " ranked"]:
    """Rank the detections that are kept and judged by descending score, over all images and categories.

    Args:
        matches: from `match`.
        kept: whether each detection is kept.

    Returns:
        Rows of the detections, the best first. Detections of equal score and tie are in the order of their images, then
        of their categories, then of their rows, as in pycocotools.

    Raises:
        InputError: unless there is one of true and false for each detection.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0]] * 3)
        >>> detections = Detections(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([0.2, 0.5, 0.9]), boxes)
        >>> matches = match(detections, Truth(np.array([1]), np.array([0]), boxes[:1]))
        >>> ranking(matches, np.array([True, False, True])).tolist()
        [2, 0]
    """
    detections, kept = matches.detections, as_flags("kept", kept, len(matches.detections))
    order = np.lexsort((detections.labels, detections.images, *detections.ranks()))
    return order[(kept & matches.judged)[order]]


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
        _set(one, boxes=_boxes("boxes", one.boxes, n))
    if one.masks is not None and len(one.masks) != n:
        raise InputError(f"masks: expected {n}, got {len(one.masks)}")
    for row, mask in enumerate(one.masks or ()):
        if not isinstance(mask, Mapping) or "size" not in mask or not isinstance(mask.get("counts"), str | bytes):
            raise InputError(f"masks: expected a compressed RLE (pycocotools.mask.frPyObjects makes one) in row {row}")
    return n


def _boxes(name: str, x: Any, rows: int) -> np.ndarray:
    boxes = as_numbers(name, x, (rows, 4))
    right = (boxes[:, 2:] >= 0).all(1) & (np.abs(boxes) <= coco.FARTHEST).all(1)
    check_each(name, boxes, right, "left, top, width and height")
    return boxes


def _areas(one: Detections | Truth) -> np.ndarray:
    if one.boxes is not None:
        return one.boxes[:, 2] * one.boxes[:, 3]
    return np.asarray(coco.pycocotools_mask().area(list(one.masks or ())), dtype=float).reshape(-1)


def _check_known(detections: Detections, truth: Truth) -> None:
    if (detections.boxes is None) != (truth.boxes is None):
        raise InputError("detections and truth: expected boxes in both or masks in both")
    for name, known in (("images", truth.known_images), ("labels", truth.classes)):
        found = getattr(detections, name)
        strange = np.flatnonzero(~np.isin(found, found if known is None else known))
        if len(strange):
            raise InputError(f"{name}: {found[strange[0]]} in row {strange[0]} of the detections is not in the truth")
