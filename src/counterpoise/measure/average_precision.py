"""Average precision and average recall of matched detections, as COCO and LVIS define them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoise.errors import InputError
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import ANY_SIZE, THRESHOLDS, Matches, cells_of, match, rank_in_groups
from counterpoise.ops.arrays import as_flags
from counterpoise.ops.checks import check_number

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class AverageRecall:
    """An average recall (AR), the share of objects that the detections kept match; -1 if there is no object to detect.

    Attributes:
        value: AR from 0 to 1, a mean over the same thresholds and categories as AP.
        groups: AR of each group of categories.
        per_class: AR of each category; empty for AP-Pool.
        recalls: recall at each threshold, in the same rows as the curves of AP.
    """

    value: float
    groups: dict[str, float]
    per_class: dict[int, float]
    recalls: Float[np.ndarray, "curves thresholds"]


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """An average precision (AP); -1 if there is no object to detect.

    Attributes:
        value: AP from 0 to 1.
        groups: AP of each group of categories.
        per_class: AP of each category; empty for AP-Pool, whose categories have no curve of their own.
        curves: precision at recalls 0, 0.01, … 1, one curve for each category; for AP-Pool one for all categories, then
            one for each group.
        recall: the average recall of the same detections, as COCO and LVIS report it beside AP.
    """

    value: float
    groups: dict[str, float]
    per_class: dict[int, float]
    curves: Float[np.ndarray, "curves thresholds recalls"]
    recall: AverageRecall


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
    _check_flags(matched, ignored, expected)
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


def recall_reached(
    matched: Bool[np.ndarray, "n thresholds"], ignored: Bool[np.ndarray, "n thresholds"], expected: int
) -> Float[np.ndarray, " thresholds"]:
    """Recall of all detections, the share of objects that they match.

    Args:
        matched: whether each detection matches an object, at each threshold; in any order.
        ignored: whether it counts as neither true nor false positive.
        expected: number of objects to detect.

    Returns:
        The recalls; -1 everywhere if no object is expected.

    Raises:
        InputError: for wrong shapes, or a number of objects that is not a whole number of at least 0.

    Examples:
        >>> flags = np.array([[True, True], [False, False], [True, False]])
        >>> recall_reached(flags, np.zeros((3, 2), bool), expected=4)
        array([0.5 , 0.25])
    """
    _check_flags(matched, ignored, expected)
    return (matched & ~ignored).sum(0) / expected if expected else np.full(matched.shape[1], -1.0)


def _check_flags(matched: np.ndarray, ignored: np.ndarray, expected: int) -> None:
    check_number("expected", expected, at_least=0, whole=True)
    if matched.ndim != 2 or matched.shape != ignored.shape:
        got = f"{list(matched.shape)} and {list(ignored.shape)}"
        raise InputError(f"matched and ignored: expected one shape [n, thresholds], got {got}")


def ap_image_cap(
    detections: Detections,
    truth: Truth,
    max_dets: int = 300,
    per_class: bool = False,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """Ordinary AP: keep the best detections of each image, then take the mean over categories.

    COCO's mean average precision has `max_dets=100` and `per_class=True`, that of LVIS the defaults. The average recall
    with the same numbers of detections, COCO's AR@100 and LVIS's AR@300, is its attribute `recall`.

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
    competing = cells_of(detections, matches.truth)[0] if per_class else detections.images
    return mean_over_classes(matches, rank_in_groups(competing, *detections.ranks()) < max_dets)


def mean_over_classes(matches: Matches, kept: Bool[np.ndarray, " n"]) -> AveragePrecision:
    """Average precision and recall of each category from the detections kept, and means over categories with objects.

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
    recalls = np.full(curves.shape[:2], -1.0)
    for row, part in enumerate(parts):
        flags = matches.matched[part], matches.ignored[part], int(expected[row])
        curves[row], recalls[row] = precision_at_recalls(*flags), recall_reached(*flags)
    there = expected > 0
    members = {name: there & np.isin(classes, labels) for name, labels in matches.truth.groups.items()}

    def means(rows: np.ndarray) -> tuple[float, dict[str, float], dict[int, float], np.ndarray]:
        groups = {name: _mean(rows[inside]) for name, inside in members.items()}
        return _mean(rows[there]), groups, {int(label): _mean(rows[k]) for k, label in enumerate(classes)}, rows

    return AveragePrecision(*means(curves), AverageRecall(*means(recalls)))


def _mean(rows: np.ndarray) -> float:
    return float(rows.mean()) if rows.size else -1.0


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
    return rank_in_groups(detections.labels, *detections.ranks()) < dets_per_class


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
