r"""AP-Fixed and AP-Pool: average precision for detectors of many, long-tailed categories; calibration of their scores.

Dave, Dollár, Ramanan, Kirillov, Girshick, "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details",
arXiv 2102.01066. Ordinary average precision keeps the top 300 detections of every image, for which categories compete;
AP-Fixed keeps the top 10,000 of every category, which makes categories independent; AP-Pool ranks the detections of all
categories together, so that scores must be comparable between them.

Boxes are left, top, width, height, as in COCO's files (`torchvision.ops.box_convert(boxes, "xyxy", "xywh")`), images
and categories are integers. `read_truth` and `read_detections` read COCO's and LVIS's files.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_convert

from counterpoise.data import coco
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_integers, check_number

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0.0, 1.0, 101)
ANY_SIZE = (0.0, math.inf)
PAIRS = 1 << 18  # of detections and objects whose overlaps are found at a time: what a cache holds
FREQUENCIES = {"r": (0, 10), "c": (10, 100), "f": (100, math.inf)}  # training images of a rare, common, frequent class

Method = Literal["histogram", "isotonic", "platt", "beta", "temperature"]
Otherwise = Literal["zero", "keep", "group"]
ScoreMap = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found, one row a detection.

    Args:
        images: number of the image.
        labels: number of the category.
        scores: from 0 to 1.
        boxes: left, top, width, height; or `None`, where there are masks.
        masks: compressed RLEs of pycocotools, instead of boxes.
        ties: order among equal scores, the higher first; `Calibration` keeps the scores it was given here.

    Raises:
        InputError: for other shapes or dtypes, integers beyond 64 bits, NaN, scores out of range, negative sizes, masks
            that are no compressed RLE, or not one of boxes and masks.

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
        _set(self, scores=_scores(self.scores, n))
        if self.ties is not None:
            _set(self, ties=_numbers("ties", self.ties, (n,)))

    def __len__(self) -> int:
        return len(self.images)

    def ranks(self) -> tuple[np.ndarray, ...]:
        """Keys for `np.lexsort` that put the highest score first, and among equal ones the highest tie."""
        return (-self.scores,) if self.ties is None else (-self.ties, -self.scores)


@dataclass(frozen=True, eq=False)
class Truth:
    """The annotated objects, one row an object; and of federated data, what was looked for in which image.

    Args:
        images: number of the image.
        labels: number of the category.
        boxes: left, top, width, height; or `None`, where there are masks.
        masks: compressed RLEs of pycocotools, instead of boxes.
        areas: by which objects are counted as small or large; that of the box or mask if left out.
        crowd: several objects in one region: not to be found, and what lies in it is no false positive.
        ignored: not to be found, and no false positive where it is found.
        negative: rows of an image and a category that is known not to be in it. With these the data is federated: a
            detection counts only where its category is among the image's objects or negatives. `None`: all categories
            were looked for in all images.
        not_exhaustive: rows of an image and a category of which not all objects are annotated: what is found besides
            them is not a false positive.
        known_images: all images that were annotated; detections in others are refused. `None`: any.
        classes: all categories; detections of others are refused. `None`: any.
        groups: categories by the name of their group, such as "r", "c" and "f"; see `frequency_groups`.

    Raises:
        InputError: for other shapes or dtypes, integers beyond 64 bits, NaN, negative sizes or areas, masks that are no
            compressed RLE, or not one of boxes and masks.
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
            areas = _numbers("areas", self.areas, (n,))
            _check_each("areas", areas, areas >= 0, "numbers of at least 0")
            _set(self, areas=areas)
        flags = {name: _flags(name, getattr(self, name), n) for name in ("crowd", "ignored")}
        pairs = {name: _pairs(name, getattr(self, name)) for name in ("negative", "not_exhaustive")}
        given = {name: getattr(self, name) for name in ("known_images", "classes")}
        known = {name: None if x is None else _integers(name, x) for name, x in given.items()}
        _set(self, **flags, **pairs, **known, groups=_check_groups(self.groups))

    def __len__(self) -> int:
        return len(self.images)

    def crowds(self) -> Bool[np.ndarray, " n"]:
        """Which are a crowd."""
        return np.zeros(len(self), bool) if self.crowd is None else self.crowd

    def unexpected(self, low: float, high: float) -> Bool[np.ndarray, " n"]:
        """Which are not to be found: those ignored, crowds, and all that are smaller or larger."""
        areas = _areas(self) if self.areas is None else self.areas
        ignored = False if self.ignored is None else self.ignored
        return ignored | self.crowds() | (areas < low) | (areas > high)


def frequency_groups(counts: Mapping[int, int]) -> dict[str, list[int]]:
    """LVIS's groups of categories: rare, common and frequent ones.

    Args:
        counts: number of training images that show the category.

    Returns:
        "r": fewer than 10 training images; "c": 10 to 99; "f": 100 and more.

    Raises:
        InputError: for a count that is no whole number of at least 0.

    >>> frequency_groups({0: 9, 1: 10, 2: 5000})
    {'r': [0], 'c': [1], 'f': [2]}
    """
    for label, count in counts.items():
        check_number(f"counts: {label}", count, at_least=0, whole=True)
    return {
        name: [label for label, n in counts.items() if low <= n < high] for name, (low, high) in FREQUENCIES.items()
    }


class Matches(NamedTuple):
    """Which detections have found an object, from `match`.

    Attributes:
        detections: these.
        truth: those objects.
        judged: whether the category was looked for in the detection's image; if not, the detection does not count.
        matched: whether the detection has found an object, at each threshold.
        ignored: whether it is neither a true nor a false positive.
        expected: whether the object is to be found.
    """

    detections: Detections
    truth: Truth
    judged: Bool[np.ndarray, " n"]
    matched: Bool[np.ndarray, "n thresholds"]
    ignored: Bool[np.ndarray, "n thresholds"]
    expected: Bool[np.ndarray, " objects"]

    @property
    def classes(self) -> np.ndarray:
        """All categories, ascending."""
        if self.truth.classes is not None:
            return np.unique(self.truth.classes)
        return np.union1d(self.truth.labels, self.detections.labels)


def match(
    detections: Detections,
    truth: Truth,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> Matches:
    """Match detections and objects, image by image, category by category, threshold by threshold.

    By descending score, each detection takes of the objects that are left the one that it overlaps most, where that is
    at least the threshold; one that is to be found before one that is not; of equal overlaps the last. The overlap is
    the intersection over the union, with a crowd over the detection; a crowd can be found many times.

    Since the order within an image and a category is all that counts, one matching serves every cap on the number of
    detections that keeps the best ones.

    Args:
        detections: in any order; equal scores stay in it.
        truth: the objects.
        thresholds: of the overlap, above 0.
        area: smallest and largest area; objects out of it are not to be found, and unmatched detections out of it do
            not count. COCO's "medium" is (32**2, 96**2).

    Raises:
        InputError: for a detection in an unknown image or of an unknown category, masks against boxes, or thresholds or
            areas out of range.

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
    # The best candidate of each detection first, in the order in which it would take them.
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
    """Thresholds of the overlap; that of 1 is met by an overlap that rounding left just below it."""
    found = _array("thresholds", thresholds)
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
    """Divide detections that have candidates into rounds: the best of every cell, then the second best, …

    So no two of a round want the same object, and all of a round are matched at once.

    Yields:
        The detections of a round, where their candidates begin, and how many they are, descending.
    """
    finders, first, counts = np.unique(rows, return_index=True, return_counts=True)
    turn = _rank(cells[finders], *(key[finders] for key in detections.ranks()))
    order = np.lexsort((-counts, turn))
    for part in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(turn) else []:
        yield finders[part], first[part], counts[part]


def _rank(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The place of each row in its group, from 0, ordered by keys as of `np.lexsort`, and then as they stand."""
    order = np.lexsort((*keys, groups))
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - starts
    return rank


def _cells(detections: Detections, truth: Truth) -> list[np.ndarray]:
    """A number for every pair of image and category: of detections, objects, negatives, not exhaustive ones."""
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
    """All pairs of a detection and an object of one cell that overlap by `least`, and by how much they do."""
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
    """Intersection over union of pairs of boxes; over the first one alone where the other is a crowd.

    Args:
        boxes: left, top, width, height.
        others: as many.
        crowd: whether the other is one.

    Raises:
        InputError: for other shapes, NaN, or negative sizes.

    >>> box_iou(np.array([[0, 0, 2, 2]] * 2), np.array([[1, 0, 4, 2]] * 2), np.array([False, True])).tolist()
    [0.2, 0.5]
    """
    n = len(boxes)
    flags = _flags("crowd", crowd, n)
    assert flags is not None
    return _iou(_boxes("boxes", boxes, n), _boxes("others", others, n), flags)


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
    """An average precision; -1 stands for what has no object to be found.

    Attributes:
        value: from 0 to 1.
        groups: the same of each group of categories.
        per_class: of each category; empty for AP-Pool, whose categories have no curve of their own.
        curves: precision at recalls 0, 0.01, … 1, of each category, or for AP-Pool of all and then of each group.
    """

    value: float
    groups: dict[str, float]
    per_class: dict[int, float]
    curves: Float[np.ndarray, "curves thresholds recalls"]


def precision_at_recalls(
    matched: Bool[np.ndarray, "n thresholds"], ignored: Bool[np.ndarray, "n thresholds"], expected: int
) -> Float[np.ndarray, "thresholds recalls"]:
    """Precision at recalls 0, 0.01, … 1: the best that is had at this recall or a higher one; 0 beyond the last.

    Args:
        matched: whether a detection has found an object, the highest score first, at each threshold.
        ignored: whether it is neither a true nor a false positive.
        expected: how many objects there are to be found; with none, precision is -1.

    Raises:
        InputError: for other shapes, or a number of objects that is no whole number of at least 0.

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


def ap_fixed(
    detections: Detections,
    truth: Truth,
    dets_per_class: int = 10_000,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """AP-Fixed: the mean over categories, of each of which the best detections of all images are kept.

    Args:
        detections: give each category as many as are kept, or what is missing counts as not found.
        truth: the objects.
        dets_per_class: how many are kept of each category, over all images.
        thresholds: of the overlap.
        area: see `match`.

    Returns:
        The mean over thresholds, recalls and all categories with objects.

    Raises:
        InputError: as `match` does.

    >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0]])
    >>> truth = Truth(np.array([1, 2]), np.array([0, 1]), boxes)
    >>> found = ap_fixed(Detections(np.array([1, 2]), np.array([0, 1]), np.array([0.9, 0.8]), boxes), truth)
    >>> round(found.value, 6), list(found.per_class)
    (1.0, [0, 1])
    """
    return _fixed(match(detections, truth, thresholds, area), dets_per_class)


def ap_pool(
    detections: Detections,
    truth: Truth,
    dets_per_class: int = 10_000,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """AP-Pool: one ranking of the detections of all categories, each matched within its own category.

    It is high only where scores mean the same in all categories; frequent ones weigh more.

    Args:
        detections: as for `ap_fixed`.
        truth: the objects.
        dets_per_class: how many are kept of each category, over all images.
        thresholds: of the overlap.
        area: see `match`.

    Returns:
        The mean over thresholds and recalls; also of each group's categories, pooled.

    Raises:
        InputError: as `match` does.

    >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0], [90.0, 90.0, 9.0, 9.0]])
    >>> truth = Truth(np.array([1, 2]), np.array([0, 1]), boxes[:2])
    >>> scores = np.array([0.9, 0.7, 0.8])  # the wrong one of category 0 is above the right one of category 1
    >>> detections = Detections(np.array([1, 2, 1]), np.array([0, 1, 0]), scores, boxes)
    >>> round(ap_fixed(detections, truth).value, 3), round(ap_pool(detections, truth).value, 3)
    (1.0, 0.835)
    """
    return _pool(match(detections, truth, thresholds, area), dets_per_class)


def ap_image_cap(
    detections: Detections,
    truth: Truth,
    max_dets: int = 300,
    per_class: bool = False,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """Ordinary AP: the mean over categories, after the best detections of each image are kept.

    Args:
        detections: in any order.
        truth: the objects.
        max_dets: how many are kept of each image.
        per_class: whether that many are kept of each category in each image, as COCO does, and not of all categories
            together, as LVIS does.
        thresholds: of the overlap.
        area: see `match`.

    Returns:
        The mean over thresholds, recalls and all categories with objects.

    Raises:
        InputError: as `match` does.
    """
    return _image_cap(match(detections, truth, thresholds, area), max_dets, per_class)


def _fixed(matches: Matches, dets_per_class: int) -> AveragePrecision:
    return _mean_over_classes(matches, _best(matches.detections, dets_per_class))


def _image_cap(matches: Matches, max_dets: int, per_class: bool) -> AveragePrecision:
    check_number("max_dets", max_dets, at_least=1, whole=True)
    detections = matches.detections
    competing = _cells(detections, matches.truth)[0] if per_class else detections.images
    return _mean_over_classes(matches, _rank(competing, *detections.ranks()) < max_dets)


def _pool(matches: Matches, dets_per_class: int) -> AveragePrecision:
    order = _ranking(matches, _best(matches.detections, dets_per_class))
    labels, objects = matches.detections.labels[order], matches.truth.labels[matches.expected]
    curves = [precision_at_recalls(matches.matched[order], matches.ignored[order], len(objects))]
    for members in matches.truth.groups.values():
        rows = order[np.isin(labels, members)]
        expected = int(np.isin(objects, members).sum())
        curves.append(precision_at_recalls(matches.matched[rows], matches.ignored[rows], expected))
    means = [float(curve.mean()) for curve in curves]
    return AveragePrecision(means[0], dict(zip(matches.truth.groups, means[1:], strict=True)), {}, np.stack(curves))


def _mean_over_classes(matches: Matches, kept: np.ndarray) -> AveragePrecision:
    classes = matches.classes
    order = _ranking(matches, kept)
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


def _best(detections: Detections, count: int) -> np.ndarray:
    """Which are among so many of their category with the highest scores."""
    check_number("dets_per_class", count, at_least=1, whole=True)
    return _rank(detections.labels, *detections.ranks()) < count


def _ranking(matches: Matches, kept: np.ndarray) -> np.ndarray:
    """The detections that are kept and judged, best first; of equal scores by image, then category, then as given."""
    detections = matches.detections
    order = np.lexsort((detections.labels, detections.images, *detections.ranks()))
    return order[(kept & matches.judged)[order]]


def fit_histogram(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 20) -> ScoreMap:
    """Histogram binning: the share of correct ones in each of `bins` equal bins of scores; an empty bin's centre.

    Raises:
        InputError: as all fits do, and the maps they give: for scores that are NaN or not from 0 to 1, for none, or
            where `correct` is not as many of true and false.

    >>> fit_histogram(np.array([0.1, 0.2, 0.9]), np.array([False, True, True]), bins=2)(np.array([0.0, 0.6]))
    array([0.5, 1. ])
    """
    check_number("bins", bins, at_least=1, whole=True)
    scores, correct = _judged(scores, correct)
    place = _bin(scores, bins)
    counts = np.bincount(place, minlength=bins)
    hits = np.bincount(place, weights=correct, minlength=bins)
    shares = np.divide(hits, counts, out=(np.arange(bins) + 0.5) / bins, where=counts > 0)
    return partial(_mapped, partial(_look_up, shares))


def fit_isotonic(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Isotonic regression: the non-decreasing function nearest to the outcomes, linear between scores seen.

    >>> fit_isotonic(np.array([0.1, 0.2, 0.9]), np.array([True, False, True]))(np.array([0.0, 0.55]))
    array([0.5 , 0.75])
    """
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(*_judged(scores, correct))
    return partial(_mapped, fitted.predict)


def fit_platt(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Platt scaling: logistic regression on the logit of the score, with a slope of at least 0."""
    return _fit_logistic(_logit, scores, correct)


def fit_beta(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Beta calibration: logistic regression on ln s and -ln(1 - s), with slopes of at least 0 (Kull et al., 2017)."""
    return _fit_logistic(_two_logs, scores, correct)


def fit_temperature(scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> ScoreMap:
    """Temperature scaling: the logit of the score times a positive number, by maximum likelihood."""
    return _fit_logistic(_logit, scores, correct, bias=False)


FITS: dict[str, Callable[..., ScoreMap]] = {
    "histogram": fit_histogram,
    "isotonic": fit_isotonic,
    "platt": fit_platt,
    "beta": fit_beta,
    "temperature": fit_temperature,
}


def _judged(scores: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores, at least one, and whether each is of a correct detection."""
    found = _scores(scores)
    if not len(found):
        raise InputError("scores: expected at least one, got none")
    flags = _flags("correct", correct, len(found))
    assert flags is not None
    return found, flags


def _mapped(function: ScoreMap, scores: Any) -> np.ndarray:
    """What a map makes of scores; none is fitted to NaN or to what lies beyond 0 and 1."""
    return function(_scores(scores))


def _bin(scores: np.ndarray, bins: int) -> np.ndarray:
    """The number of the bin, of which the last holds 1."""
    return np.minimum((scores * bins).astype(int), bins - 1)


def _look_up(shares: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return shares[_bin(scores, len(shares))]


def _open(scores: np.ndarray) -> np.ndarray:
    eps = np.finfo(float).eps
    return scores.clip(eps, 1 - eps)


def _logit(scores: np.ndarray) -> np.ndarray:
    return logit(_open(scores))[:, None]


def _two_logs(scores: np.ndarray) -> np.ndarray:
    inside = _open(scores)
    return np.stack([np.log(inside), -np.log1p(-inside)], axis=1)


def _fit_logistic(
    features: Callable[[np.ndarray], np.ndarray], scores: np.ndarray, correct: np.ndarray, bias: bool = True
) -> ScoreMap:
    """Maximum likelihood of a logistic function that does not fall with the score.

    Not scikit-learn's `LogisticRegression`, which cannot hold slopes at 0 or above.
    """
    scores, correct = _judged(scores, correct)
    x, sign = features(scores), np.where(correct, 1.0, -1.0)
    x = np.column_stack([x, np.ones(len(x))]) if bias else x
    slopes = x.shape[1] - bias
    start = np.repeat([1.0, 0.0], [slopes, bias])
    bounds = [(0.0, None)] * slopes + [(None, None)] * bias

    def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ weight)
        slope = -sign * expit(-margin)
        return float(np.logaddexp(0, -margin).mean()), x.T @ slope / len(x)

    # scipy's default tolerance on the loss would stop far from the optimum of rare classes.
    weight = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-8}).x
    return partial(_mapped, partial(_logistic, features, weight))


def _logistic(features: Callable[[np.ndarray], np.ndarray], weight: np.ndarray, scores: np.ndarray) -> np.ndarray:
    x = features(scores)
    return expit(x @ weight[: x.shape[1]] + (weight[-1] if len(weight) > x.shape[1] else 0.0))


@dataclass(frozen=True)
class Calibration:
    """A map of scores for each category, from `calibrate`; call it with detections.

    Attributes:
        maps: by category.
        otherwise: for categories that are not there: "zero" or "keep".

    Raises:
        InputError: for another word as `otherwise`.
    """

    maps: Mapping[int, ScoreMap]
    otherwise: Literal["zero", "keep"] = "zero"

    def __post_init__(self) -> None:
        if self.otherwise not in ("zero", "keep"):
            raise unknown("otherwise", self.otherwise, ("zero", "keep"))

    def __call__(self, detections: Detections) -> Detections:
        """The same detections with calibrated scores; equal ones stay in the order of the scores given."""
        scores = detections.scores.copy() if self.otherwise == "keep" else np.zeros(len(detections))
        for label, rows in _by_label(detections.labels):
            if label in self.maps:
                scores[rows] = np.clip(self.maps[label](detections.scores[rows]), 0, 1)
        return replace(detections, scores=scores, ties=detections.scores)


def calibrate(
    detections: Detections,
    truth: Truth,
    method: Method = "isotonic",
    iou: float = 0.75,
    otherwise: Otherwise = "zero",
    dets_per_class: int = 10_000,
    drop_ignored: bool = False,
) -> Calibration:
    """Fit, category by category, a map from score to the share of correct detections; on training images.

    Args:
        detections: in images on which the detector is to be calibrated; those whose category was not looked for in
            their image are left out.
        truth: the objects in those images.
        method: "histogram" (20 bins), "isotonic", "platt", "beta" or "temperature".
        iou: the overlap from which a detection is correct.
        otherwise: what becomes of the scores of a category without a correct detection: "zero", "keep", or "group": the
            map of all detections of its group, and zero for a category in none or of a group without a correct one.
        dets_per_class: how many detections are kept of each category.
        drop_ignored: whether to leave out what is neither a true nor a false positive. The authors count it: as correct
            if it was matched, as wrong if not.

    Raises:
        InputError: for an unknown name, a number out of range, and as `match` does.

    >>> truth = Truth(np.array([1, 2]), np.array([0, 0]), np.array([[0.0, 0.0, 9.0, 9.0]] * 2))
    >>> boxes = np.array([[0.0, 0.0, 9.0, 9.0], [20.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    >>> found = Detections(np.array([1, 1, 2]), np.array([0, 0, 1]), np.array([0.3, 0.2, 0.9]), boxes)
    >>> calibrate(found, truth)(found).scores  # category 1 has no correct one
    array([1., 0., 0.])
    """
    if method not in FITS:
        raise unknown("method", method, FITS)
    if otherwise not in get_args(Otherwise):
        raise unknown("otherwise", otherwise, get_args(Otherwise))
    labels, scores, correct = _outcomes(detections, truth, iou, dets_per_class, drop_ignored)
    fit = FITS[method]
    maps: dict[int, ScoreMap] = {}
    for members in truth.groups.values() if otherwise == "group" else ():
        rows = np.isin(labels, members)
        if correct[rows].any():
            maps |= dict.fromkeys(map(int, members), fit(scores[rows], correct[rows]))
    maps |= {label: fit(scores[rows], correct[rows]) for label, rows in _by_label(labels) if correct[rows].any()}
    return Calibration(maps, "keep" if otherwise == "keep" else "zero")


def _by_label(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each category with its rows."""
    order = np.argsort(labels, kind="stable")
    there, starts = np.unique(labels[order], return_index=True)
    yield from zip(there.tolist(), np.split(order, starts[1:]), strict=False)


def _outcomes(
    detections: Detections, truth: Truth, iou: float, dets_per_class: int, drop_ignored: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, score and correctness of the detections that count."""
    check_number("iou", iou, above=0, at_most=1)
    matches = match(detections, truth, np.array([iou]))
    rows = _best(detections, dets_per_class) & matches.judged
    if drop_ignored:
        rows &= ~matches.ignored[:, 0]
    return detections.labels[rows], detections.scores[rows], matches.matched[rows, 0]


def expected_calibration_error(
    scores: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = 20
) -> float:
    r"""Mean distance of score and precision, $\sum_b \frac{|B_b|}{n} \, |\bar s_b - p_b|$ over equal bins of scores.

    Args:
        scores: from 0 to 1, at least one.
        correct: whether the detection is.
        bins: how many.

    Raises:
        InputError: without a score, for scores that are NaN or not from 0 to 1, where `correct` is not as many of true
            and false, or for `bins` that is no whole number of at least 1.

    >>> round(expected_calibration_error(np.array([0.8, 0.82, 0.1]), np.array([True, False, False])), 4)
    0.24
    """
    check_number("bins", bins, at_least=1, whole=True)
    scores, correct = _judged(scores, correct)
    place = _bin(scores, bins)
    return float(np.abs(np.bincount(place, weights=scores - correct)).sum() / len(scores))


class CalibrationErrors(NamedTuple):
    """Expected calibration errors; NaN without detections.

    Attributes:
        overall: of all detections.
        per_class: of each category that has any.
        groups: of all detections of each group.
        mean: over categories.
        group_means: over the categories of each group.
    """

    overall: float
    per_class: dict[int, float]
    groups: dict[str, float]
    mean: float
    group_means: dict[str, float]


def calibration_errors(
    detections: Detections, truth: Truth, iou: float = 0.75, bins: int = 20, dets_per_class: int = 10_000
) -> CalibrationErrors:
    """Expected calibration error of detections: overall, of each category and of each group.

    Args:
        detections: those whose category was not looked for in their image are left out.
        truth: the objects.
        iou: the overlap from which a detection is correct.
        bins: of scores.
        dets_per_class: how many detections are kept of each category.

    Raises:
        InputError: as `match` does, and for numbers out of range.
    """
    labels, scores, correct = _outcomes(detections, truth, iou, dets_per_class, drop_ignored=False)

    def error(rows: np.ndarray) -> float:
        return expected_calibration_error(scores[rows], correct[rows], bins) if len(rows) else math.nan

    per_class = {label: error(rows) for label, rows in _by_label(labels)}

    def mean(members: Sequence[int]) -> float:
        known = [per_class[int(label)] for label in members if int(label) in per_class]
        return float(np.mean(known)) if known else math.nan

    return CalibrationErrors(
        error(np.arange(len(labels))),
        per_class,
        {name: error(np.flatnonzero(np.isin(labels, members))) for name, members in truth.groups.items()},
        mean(list(per_class)),
        {name: mean(members) for name, members in truth.groups.items()},
    )


class LargeVocabularyAP(Metric):
    """AP-Fixed, AP-Pool and ordinary AP of boxes, over batches and processes: a torchmetrics `Metric`.

    `update(preds, target)` takes a dictionary an image, as torchmetrics' `MeanAveragePrecision` does: `boxes`,
    `labels`, and in `preds` `scores`; in `target` optionally `iscrowd`, `area`, and for federated data `negative` and
    `not_exhaustive`: the categories that are not in the image, and those annotated in part. An empty tensor of any
    shape and dtype, such as `torch.tensor([])`, is none. Equal scores are ranked in the order of their images, as in
    pycocotools.

    Args:
        dets_per_class: how many detections AP-Fixed and AP-Pool keep of each category.
        max_dets: how many detections ordinary AP keeps of each image.
        groups: categories by the name of their group; see `frequency_groups`.
        federated: whether the images' negatives count. If not, all categories were looked for in all images.
        box_format: "xyxy", "xywh" or "cxcywh".
        **options: of `Metric`.

    Raises:
        InputError: for arguments out of range; by `update`, naming the image and the field, for what is missing, NaN,
            or of another shape or dtype, for scores not from 0 to 1, boxes that are not of the format, flags other than
            0 and 1, or labels beyond ±2^53. Nothing of a batch that is refused is kept.

    >>> metric = LargeVocabularyAP()
    >>> boxes, labels = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([3])
    >>> preds = [{"boxes": boxes, "labels": labels, "scores": torch.tensor([0.7])}]
    >>> metric.update(preds, [{"boxes": boxes, "labels": labels}])
    >>> {name: round(float(value), 6) for name, value in metric.compute().items()}
    {'ap_fixed': 1.0, 'ap_pool': 1.0, 'ap_image_cap': 1.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        dets_per_class: int = 10_000,
        max_dets: int = 300,
        groups: Mapping[str, Sequence[int]] | None = None,
        federated: bool = False,
        box_format: Literal["xyxy", "xywh", "cxcywh"] = "xyxy",
        **options: Any,
    ):
        super().__init__(**options)
        check_number("dets_per_class", dets_per_class, at_least=1, whole=True)
        check_number("max_dets", max_dets, at_least=1, whole=True)
        if box_format not in FORMATS:
            raise unknown("box_format", box_format, FORMATS)
        self.dets_per_class, self.max_dets, self.groups = dets_per_class, max_dets, _check_groups(groups or {})
        self.federated, self.box_format = federated, box_format
        # All states are flat and of one dtype, so that they can be gathered with those of a process without images.
        # `counts` tells how many rows of each table belong to an image, so that images need no numbers until the end.
        for name in (*COLUMNS, "counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)  # which holds integers up to 2^53

    def _state(self, name: str) -> Any:
        return getattr(self, name)

    def update(self, preds: Sequence[Mapping[str, Tensor]], target: Sequence[Mapping[str, Tensor]]) -> None:
        for name, images in (("preds", preds), ("target", target)):
            if not isinstance(images, Sequence):
                raise InputError(f"{name}: expected a list of a dictionary an image, got {type(images).__name__}")
        if len(preds) != len(target):
            raise InputError(f"preds and target: expected one of each an image, got {len(preds)} and {len(target)}")
        checked = [
            (*_found(f"preds[{i}]", pred, self.box_format), *_objects(f"target[{i}]", true, self.box_format))
            for i, (pred, true) in enumerate(zip(preds, target, strict=True))
        ]
        for tables in checked:
            for name, table in zip(COLUMNS, tables, strict=True):
                self._state(name).append(table.flatten())
            self._state("counts").append(tables[0].new_tensor([len(table) for table in tables]))

    def compute(self) -> dict[str, Tensor]:
        """Each figure by its name, and those of groups as in "ap_pool r"."""
        found, objects, *listed = (_rows(self._state(name), columns) for name, columns in COLUMNS.items())
        counts = _rows(self._state("counts"), len(COLUMNS)).astype(int)
        image, object_image, *images = (np.repeat(np.arange(len(counts)), column) for column in counts.T)
        negative, not_exhaustive = (
            np.column_stack([rows, labels.astype(int)]) for rows, labels in zip(images, listed, strict=True)
        )
        detections = Detections(image, found[:, 5].astype(int), found[:, 4], found[:, :4])
        truth = Truth(
            object_image,
            objects[:, 6].astype(int),
            objects[:, :4],
            areas=objects[:, 4],
            crowd=objects[:, 5] > 0,
            negative=negative if self.federated else None,
            not_exhaustive=not_exhaustive,
            groups=self.groups,
        )
        matches = match(detections, truth)
        scores = {
            "ap_fixed": _fixed(matches, self.dets_per_class),
            "ap_pool": _pool(matches, self.dets_per_class),
            "ap_image_cap": _image_cap(matches, self.max_dets, per_class=False),
        }
        named = {name: score.value for name, score in scores.items()}
        named |= {f"{name} {group}": score.groups[group] for name, score in scores.items() for group in self.groups}
        return {name: torch.tensor(value, device=self.device) for name, value in named.items()}


FORMATS = {
    "xyxy": "left, top, right and bottom, with right ≥ left and bottom ≥ top",
    "xywh": "left, top, width and height, with both ≥ 0",
    "cxcywh": "the centre's x and y, width and height, with both ≥ 0",
}
COLUMNS = {"found": 6, "objects": 7, "negative": 1, "not_exhaustive": 1}  # of the tables that the metric keeps
EXACT = 1 << 53  # up to which float64 holds integers


def _found(name: str, one: Any, box_format: str) -> tuple[Tensor]:
    """The detections of one image: a row of box, score and label each, in float64."""
    boxes, labels = _image_boxes(name, one, box_format)
    scores = _column(name, one, "scores", len(boxes), "numbers from 0 to 1", lambda x: (x >= 0) & (x <= 1))
    return (_side_by_side(boxes, scores, labels),)


def _objects(name: str, one: Any, box_format: str) -> tuple[Tensor, Tensor, Tensor]:
    """The objects of one image: a row of box, area, crowd and label each; negatives; what is annotated in part."""
    boxes, labels = _image_boxes(name, one, box_format)
    n = len(boxes)
    one = {"area": boxes[:, 2:].prod(1), "iscrowd": boxes.new_zeros(n), **one}
    area = _column(name, one, "area", n, "finite numbers of at least 0", lambda x: (x >= 0) & x.isfinite())
    crowd = _column(name, one, "iscrowd", n, "0 or 1", lambda x: (x == 0) | (x == 1))
    negative, partly = (_label_column(name, one, key) for key in ("negative", "not_exhaustive"))
    return _side_by_side(boxes, area, crowd, labels), negative, partly


def _side_by_side(boxes: Tensor, *columns: Tensor) -> Tensor:
    return torch.column_stack([boxes, *(column.to(boxes.device) for column in columns)])


def _image_boxes(name: str, one: Any, box_format: str) -> tuple[Tensor, Tensor]:
    """Boxes of one image in COCO's form, and their labels."""
    boxes = _field(name, one, "boxes")
    boxes = boxes if boxes.numel() else boxes.new_zeros(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{name}: expected boxes of shape [n, 4], got {list(boxes.shape)}")
    made = box_convert(boxes, box_format, "xywh")
    right = (boxes.abs() <= coco.FARTHEST).all(1) & (made[:, 2:] >= 0).all(1)
    _check_each(f"{name}: boxes", boxes, right, f"{box_format}: {FORMATS[box_format]}")
    return made, _label_column(name, one, "labels", len(boxes))


def _field(name: str, one: Any, key: str) -> Tensor:
    """A field of an image in float64; whatever is empty is none."""
    if not isinstance(one, Mapping) or key not in one:
        raise InputError(f"{name}: has no {key}" if isinstance(one, Mapping) else f"{name}: expected a dictionary")
    x = one[key]
    if not isinstance(x, Tensor) or x.is_complex():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{name}: {key}: expected a tensor of numbers, got {got}")
    return x.detach().double() if x.numel() else x.new_zeros(0, dtype=torch.float64)


def _column(
    name: str, one: Any, key: str, rows: int, expected: str, is_right: Callable[[Tensor], Tensor]
) -> Float[Tensor, " rows"]:
    x = _field(name, one, key)
    if list(x.shape) != [rows]:
        raise InputError(f"{name}: {key}: expected {rows} numbers, got shape {list(x.shape)}")
    _check_each(f"{name}: {key}", x, is_right(x), expected)
    return x


def _label_column(name: str, one: Any, key: str, rows: int | None = None) -> Tensor:
    """Labels of one image, by default none and else any number of them."""
    if rows is None and key not in one:
        return torch.zeros(0, dtype=torch.float64, device=one["boxes"].device)
    x = _field(name, one, key)
    if x.numel():
        check_integers(f"{name}: {key}", one[key], x.numel() if rows is None else rows, low=-EXACT, high=EXACT + 1)
    elif rows:
        raise InputError(f"{name}: {key}: expected {rows} integers, got none")
    return x


def _rows(parts: list[Tensor] | Tensor, columns: int) -> np.ndarray:
    """The rows of all images, one after the other."""
    several = [parts] if isinstance(parts, Tensor) else parts
    joined = np.concatenate([np.zeros(0), *(part.cpu().numpy() for part in several)])
    return joined.reshape(-1, columns)


def read_truth(path: str | Path, masks: bool = False) -> Truth:
    """Read annotations in COCO's or LVIS's format.

    A file whose images have `neg_category_ids` is federated, as LVIS's are: those and `not_exhaustive_category_ids` are
    read, and of an object `ignore`. Of others `iscrowd` is read, and `ignore` is not, as pycocotools does. Categories
    with a `frequency` give the groups.

    Args:
        path: JSON with `images`, `annotations` and `categories`.
        masks: whether to read the objects' masks (polygons or RLE), not their boxes.

    Raises:
        InputError: naming the file, and the line where it is malformed or the entry that is at fault; also for an id
            that is there twice or beyond 64 bits, and for a mask of no area or of another size than its image.
        MissingExtra: for masks without pycocotools.
    """
    return Truth(**coco.read_annotations(Path(path), masks))


def read_detections(path: str | Path, truth: Truth, masks: bool = False) -> Detections:
    """Read results in COCO's format: a list of `image_id`, `category_id`, `score`, and `bbox` or `segmentation`.

    Args:
        path: JSON; an empty list is no detections.
        truth: from `read_truth`; other images and categories than its own are refused.
        masks: whether to read masks (RLE, compressed or not), not boxes.

    Raises:
        InputError: naming the file, and the line where it is malformed or the entry that is at fault.
        MissingExtra: for masks without pycocotools.
    """
    known = {"image_id": truth.known_images, "category_id": truth.classes}
    sizes = dict(zip(truth.images.tolist(), (list(one["size"]) for one in truth.masks or ()), strict=False))
    return Detections(**coco.read_results(Path(path), known, sizes, masks))


def _set(one: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(one, name, value)


def _array(name: str, x: Any) -> np.ndarray:
    """Lists and tensors as an array."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.double() if x.is_floating_point() else x).numpy()
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name}: expected numbers in rows of one length, got {reprlib.repr(x)}") from error


def _integers(name: str, x: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Integers as int64; a vector of any length without a shape."""
    found = _array(name, x)
    shape = shape or found.shape[:1] or (1,)
    found = found if found.size else np.zeros(shape if 0 in shape else 0, np.int64)
    if found.dtype.kind not in "iu" or (found.dtype == np.uint64 and found.max(initial=0) >= 1 << 63):
        raise InputError(f"{name}: expected integers of at most 64 bits, got {_got(found)}")
    if found.shape != shape:
        raise InputError(f"{name}: expected integers of shape {list(shape)}, got {list(found.shape)}")
    return found.astype(np.int64, copy=False)


def _numbers(name: str, x: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Finite numbers as float64; a vector of any length without a shape."""
    found = _array(name, x)
    shape = shape or found.shape[:1] or (1,)
    found = found if found.size or 0 not in shape else np.zeros(shape)
    if found.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected numbers, got {_got(found)}")
    if found.shape != shape:
        raise InputError(f"{name}: expected shape {list(shape)}, got {list(found.shape)}")
    found = found.astype(float, copy=False)
    bad = int((~np.isfinite(found)).sum())
    if bad:
        raise InputError(f"{name}: {bad} of {found.size} numbers are NaN or infinite")
    return found


def _got(found: np.ndarray) -> str:
    return (
        f"{found.dtype}, as {reprlib.repr(found.flat[0])}"
        if found.dtype.kind in "OU" and found.size
        else f"{found.dtype}"
    )


def _scores(x: Any, rows: int | None = None) -> np.ndarray:
    found = _numbers("scores", x, None if rows is None else (rows,))
    _check_each("scores", found, (found >= 0) & (found <= 1), "numbers from 0 to 1")
    return found


def _check_each(name: str, x: Any, right: Any, expected: str) -> None:
    """Refuse the first row, of an array or a tensor, that is not right."""
    if right.all():
        return
    row = int((~right).nonzero()[0].flatten()[0])
    got = x[row].tolist()
    raise InputError(f"{name}: expected {expected}, got {got if isinstance(got, list) else f'{got:g}'} in row {row}")


def _flags(name: str, x: Any, rows: int) -> np.ndarray | None:
    if x is None:
        return None
    found = _array(name, x)
    found = found if found.size or rows else np.zeros(0, bool)
    if found.shape != (rows,) or found.dtype != bool:
        raise InputError(f"{name}: expected {rows} of true and false, got {found.dtype} of shape {list(found.shape)}")
    return found


def _pairs(name: str, x: Any) -> np.ndarray | None:
    if x is None:
        return None
    found = _array(name, x)
    if found.size and (found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iu"):
        got = f"{found.dtype} of shape {list(found.shape)}"
        raise InputError(f"{name}: expected rows of an image and a category, got {got}")
    return _integers(name, found, (len(found), 2) if found.size else (0, 2))


def _check_groups(groups: Mapping[str, Any]) -> dict[str, list[int]]:
    """Groups as lists of integers; sets, too, which NumPy would take for one thing."""
    several = {name: [*part] if isinstance(part, Iterable) else part for name, part in groups.items()}
    return {name: _integers(f"groups: {name}", part).tolist() for name, part in several.items()}


def _check_rows(one: Detections | Truth) -> int:
    """Check images, labels, and boxes or masks; how many there are."""
    images = _integers("images", one.images)
    n = len(images)
    _set(one, images=images, labels=_integers("labels", one.labels, (n,)))
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
    boxes = _numbers(name, x, (rows, 4))
    right = (boxes[:, 2:] >= 0).all(1) & (np.abs(boxes) <= coco.FARTHEST).all(1)
    _check_each(name, boxes, right, "left, top, width and height")
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


class Simulated(NamedTuple):
    """What `simulate` made; `counts` has the number of images that show each category."""

    detections: Detections
    truth: Truth
    counts: Int[np.ndarray, " classes"]


def simulate(
    images: int, habits: Float[np.ndarray, "classes 2"], rng: np.random.Generator, spread: float = 1.0
) -> Simulated:
    """Objects of categories of Zipf's frequencies, and a detector that finds most of them among much clutter.

    All categories have evidence of the same quality, but each tells it in scores of its own.

    Args:
        images: how many, of 8 objects and 200 wrong detections each.
        habits: slope and offset of the logit of the score against the evidence, the most frequent category first.
        rng: decides everything.
        spread: wrong detections are of a category in proportion to its frequency to this power; 0 is all alike.

    Raises:
        InputError: for numbers out of range, or habits of another shape or with NaN.
    """
    check_number("images", images, at_least=1, whole=True)
    check_number("spread", spread)
    habits = _numbers("habits", habits, (len(habits), 2))
    check_number("habits", len(habits), at_least=1)
    frequency = 1 / np.arange(1, len(habits) + 1)
    at, clutter_at = np.repeat(np.arange(images), 8), np.repeat(np.arange(images), 200)
    labels = rng.choice(len(habits), len(at), p=frequency / frequency.sum())
    weights = frequency**spread
    clutter_labels = rng.choice(len(habits), len(clutter_at), p=weights / weights.sum())
    boxes, clutter = (
        np.column_stack([rng.uniform(0, 400, (n, 2)), rng.uniform(20, 100, (n, 2))]) for n in (len(at), len(clutter_at))
    )
    found = rng.random(len(at)) < 0.9
    misfit = rng.gamma(2.0, 0.03, found.sum())
    near = boxes[found] + rng.normal(0, 1, (found.sum(), 4)) * misfit[:, None] * np.tile(boxes[found, 2:], 2)
    near[:, 2:] = near[:, 2:].clip(min=1)
    # Boxes that fit worse come with weaker evidence.
    evidence = np.concatenate([rng.normal(3.0, 1.0, found.sum()) - 10 * misfit, rng.normal(0.0, 1.0, len(clutter_at))])
    seen = np.concatenate([labels[found], clutter_labels])
    scores = expit(habits[seen, 0] * evidence + habits[seen, 1])
    places = np.concatenate([at[found], clutter_at])
    shown = np.unique(np.column_stack([at, labels]), axis=0)[:, 1]
    return Simulated(
        Detections(places, seen, scores, np.concatenate([near, clutter])),
        Truth(at, labels, boxes, classes=np.arange(len(habits))),
        np.bincount(shown, minlength=len(habits)),
    )


def study(
    data: str,
    seed: int,
    calibration: Method = "isotonic",
    spread: float = 1.0,
    images: int = 1000,
    classes: int = 60,
    max_dets: int = 20,
    top: int = 600,
) -> dict[str, float]:
    """One seed of the paper's claim: ordinary AP can be gamed, AP-Fixed cannot; calibration raises AP-Pool alone.

    Args:
        data: "simulated".
        seed: of objects and detections.
        calibration: a method of `calibrate`, fitted on twice as many other images.
        spread: see `simulate`.
        images: on which all is judged.
        classes: categories; a third each is rare, common and frequent.
        max_dets: what ordinary AP keeps of each image.
        top: how many detections a category keeps over all images where it is gamed by dropping the others.

    Returns:
        In points. `rarity gain` and `top gain`: what the rare categories' ordinary AP gains where scores put rarer
        categories first, and where each category keeps only its top detections; `rarity fixed` and `top fixed`: what
        their AP-Fixed gains. `pool gain`: what calibration adds to AP-Pool; `fixed change`: by how much it changes
        AP-Fixed, up or down. "… room" of one of these: 0.3 less it. `capped`, `capped r`, `fixed`, `fixed r` and
        `pool`: ordinary AP, AP-Fixed and AP-Pool before all that, `r` of rare categories. As shares, `ece` and `ece
        calibrated`: the expected calibration error before and after.

    Raises:
        InputError: for other data, or numbers out of range.

    >>> study("simulated", 1, images=50, classes=12)["rarity fixed"]
    0.0
    """
    if data != "simulated":
        raise unknown("data", data, ("simulated",))
    check_number("seed", seed, at_least=0, whole=True)
    check_number("classes", classes, at_least=3, whole=True)
    check_number("top", top, at_least=1, whole=True)
    rng = np.random.default_rng(seed)
    # Trained on a long tail, a detector is less sure of rarer categories, and of each in its own way.
    offset = -1.0 - 1.5 * np.arange(classes) / (classes - 1) + rng.normal(0, 0.7, classes)
    habits = np.column_stack([np.exp(rng.normal(0, 0.4, classes)), offset])
    train, test = (simulate(n, habits, rng, spread) for n in (2 * images, images))
    order = np.argsort(-train.counts, kind="stable")
    truth = replace(
        test.truth, groups={name: part.tolist() for name, part in zip("fcr", np.array_split(order, 3), strict=True)}
    )
    plain = test.detections
    rarity = np.argsort(order)[plain.labels]
    kept = _best(plain, top)
    assert plain.boxes is not None
    changed = {
        "plain": plain,
        "rarity": replace(plain, scores=(rarity + plain.scores) / classes, ties=plain.scores),
        "top": Detections(plain.images[kept], plain.labels[kept], plain.scores[kept], plain.boxes[kept]),
        "calibrated": calibrate(train.detections, train.truth, calibration)(plain),
    }
    capped, fixed, pool = {}, {}, {}
    for name, detections in changed.items():
        matches = match(detections, truth)
        capped[name], fixed[name] = _image_cap(matches, max_dets, per_class=False), _fixed(matches, 10_000)
        pool[name] = _pool(matches, 10_000)
    figures = {"capped": capped["plain"].value, "capped r": capped["plain"].groups["r"]}
    figures |= {"fixed": fixed["plain"].value, "fixed r": fixed["plain"].groups["r"], "pool": pool["plain"].value}
    for name in ("rarity", "top"):
        figures[f"{name} gain"] = capped[name].groups["r"] - capped["plain"].groups["r"]
        figures[f"{name} fixed"] = fixed[name].groups["r"] - fixed["plain"].groups["r"]
    figures["pool gain"] = pool["calibrated"].value - pool["plain"].value
    figures["fixed change"] = abs(fixed["calibrated"].value - fixed["plain"].value)
    points = {name: 100 * value for name, value in figures.items()}
    points |= {f"{name} room": 0.3 - points[name] for name in ("rarity fixed", "top fixed", "fixed change")}
    names = {"ece": "plain", "ece calibrated": "calibrated"}
    return points | {name: calibration_errors(changed[which], truth).overall for name, which in names.items()}
