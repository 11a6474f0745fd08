r"""AP-Fixed and AP-Pool: average precision for detectors of many, long-tailed categories.

Dave, Dollár, Ramanan, Kirillov, Girshick, "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details",
arXiv 2102.01066. Ordinary average precision keeps the best 300 detections of each image, and categories compete for
these places. AP-Fixed keeps the best 10,000 detections of each category, so that categories are independent. AP-Pool
ranks the detections of all categories together, so that it depends on whether scores mean the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_convert

from counterpoise.data import coco
from counterpoise.errors import InputError, unknown
from counterpoise.measure.average_precision import (
    AveragePrecision,
    AverageRecall,
    ap_image_cap_from_matches,
    best_per_class,
    mean_over_classes,
    precision_at_recalls,
    ranking,
    recall_reached,
)
from counterpoise.measure.detection import Detections, Truth
from counterpoise.measure.matching import ANY_SIZE, THRESHOLDS, Matches, match
from counterpoise.ops.arrays import as_integer_lists, check_each
from counterpoise.ops.checks import check_integers, check_number


def ap_fixed(
    detections: Detections,
    truth: Truth,
    dets_per_class: int = 10_000,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """AP-Fixed: keep the best detections of each category over all images, then take the mean over categories.

    Args:
        detections: `dets_per_class` of each category, if the detector gives as many: objects that only further
            detections would match count as not found.
        truth: the objects.
        dets_per_class: number of detections kept of each category over all images.
        thresholds: of the overlap, above 0 and at most 1.
        area: see `match`.

    Returns:
        The mean over thresholds, recalls and all categories with objects.

    Raises:
        InputError: as `match` does, and for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0]])
        >>> truth = Truth(np.array([1, 2]), np.array([0, 1]), boxes)
        >>> found = ap_fixed(Detections(np.array([1, 2]), np.array([0, 1]), np.array([0.9, 0.8]), boxes), truth)
        >>> round(found.value, 6), list(found.per_class)
        (1.0, [0, 1])
    """
    return ap_fixed_from_matches(match(detections, truth, thresholds, area), dets_per_class)


def ap_fixed_from_matches(matches: Matches, dets_per_class: int = 10_000) -> AveragePrecision:
    """AP-Fixed of detections that are matched already; `ap_fixed` matches them first.

    Args:
        matches: from `match`.
        dets_per_class: as in `ap_fixed`.

    Raises:
        InputError: for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0]])
        >>> truth = Truth(np.array([1]), np.array([0]), boxes)
        >>> matches = match(Detections(np.array([1]), np.array([0]), np.array([0.9]), boxes), truth)
        >>> round(ap_fixed_from_matches(matches).value, 6)
        1.0
    """
    return mean_over_classes(matches, best_per_class(matches.detections, dets_per_class))


def ap_pool(
    detections: Detections,
    truth: Truth,
    dets_per_class: int = 10_000,
    thresholds: Float[np.ndarray, " thresholds"] = THRESHOLDS,
    area: tuple[float, float] = ANY_SIZE,
) -> AveragePrecision:
    """AP-Pool: rank the detections of all categories together, each matched within its own category.

    AP-Pool is high only if scores mean the same in all categories. Frequent categories weigh more.

    Args:
        detections: as in `ap_fixed`.
        truth: the objects.
        dets_per_class: number of detections kept of each category over all images.
        thresholds: of the overlap, above 0 and at most 1.
        area: see `match`.

    Returns:
        The mean over thresholds and recalls, for all categories and for those of each group.

    Raises:
        InputError: as `match` does, and for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 3.0, 3.0], [90.0, 90.0, 9.0, 9.0]])
        >>> truth = Truth(np.array([1, 2]), np.array([0, 1]), boxes[:2])
        >>> scores = np.array([0.9, 0.7, 0.8])  # the wrong one of category 0 is above the right one of category 1
        >>> detections = Detections(np.array([1, 2, 1]), np.array([0, 1, 0]), scores, boxes)
        >>> round(ap_fixed(detections, truth).value, 3), round(ap_pool(detections, truth).value, 3)
        (1.0, 0.835)
    """
    return ap_pool_from_matches(match(detections, truth, thresholds, area), dets_per_class)


def ap_pool_from_matches(matches: Matches, dets_per_class: int = 10_000) -> AveragePrecision:
    """AP-Pool of detections that are matched already; `ap_pool` matches them first.

    Args:
        matches: from `match`.
        dets_per_class: as in `ap_pool`.

    Raises:
        InputError: for a number of detections that is not a whole number of at least 1.

    Examples:
        >>> boxes = np.array([[0.0, 0.0, 10.0, 10.0]])
        >>> truth = Truth(np.array([1]), np.array([0]), boxes)
        >>> matches = match(Detections(np.array([1]), np.array([0]), np.array([0.9]), boxes), truth)
        >>> round(ap_pool_from_matches(matches).value, 6)
        1.0
    """
    order = ranking(matches, best_per_class(matches.detections, dets_per_class))
    labels, objects = matches.detections.labels[order], matches.truth.labels[matches.expected]
    pools = [(order, len(objects))]
    for members in matches.truth.groups.values():
        pools.append((order[np.isin(labels, members)], int(np.isin(objects, members).sum())))
    flags = [(matches.matched[rows], matches.ignored[rows], expected) for rows, expected in pools]
    curves, recalls = [[f(*one) for one in flags] for f in (precision_at_recalls, recall_reached)]
    recall = AverageRecall(*_pool_means(recalls, matches))
    return AveragePrecision(*_pool_means(curves, matches), recall)


def _pool_means(
    rows: list[np.ndarray], matches: Matches
) -> tuple[float, dict[str, float], dict[int, float], np.ndarray]:
    """The mean over all categories and those of the groups, from a row for each pool; no category has its own."""
    first, *others = [float(row.mean()) for row in rows]
    return first, dict(zip(matches.truth.groups, others, strict=True)), {}, np.stack(rows)


class LargeVocabularyAP(Metric):
    """AP-Fixed, AP-Pool and ordinary AP of boxes as a torchmetrics `Metric`, over batches and processes.

    `update(preds, target)` takes two lists with a dictionary for each image, as torchmetrics' `MeanAveragePrecision`
    does. Both have `boxes` and `labels`, and `preds` has `scores`. `target` may have `iscrowd` and `area`, and for
    federated data `negative` and `not_exhaustive`: the categories that are absent from the image, and those that are
    annotated in part. An empty tensor of any shape and dtype, such as `torch.tensor([])`, stands for no rows.
    Detections of equal score are in the order of their images, as in pycocotools.

    Args:
        dets_per_class: number of detections that AP-Fixed and AP-Pool keep of each category.
        max_dets: number of detections that ordinary AP keeps of each image.
        groups: categories by the name of their group (see `frequency_groups`).
        federated: whether `negative` counts. If not, annotators checked all images for all categories.
        box_format: "xyxy", "xywh" or "cxcywh".
        recall: whether to compute the average recalls, too, "ar_fixed", "ar_pool" and "ar_image_cap".
        **options: of `Metric`.

    Raises:
        InputError: for arguments out of range. `update` raises it, with the image and the field, for a missing field,
            NaN, another shape or dtype, scores out of 0 to 1, boxes that do not fit the format, flags other than 0 and
            1, and labels beyond ±2^53. The metric keeps nothing of a batch that it refuses.

    Examples:
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
        recall: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        check_number("dets_per_class", dets_per_class, at_least=1, whole=True)
        check_number("max_dets", max_dets, at_least=1, whole=True)
        if box_format not in FORMATS:
            raise unknown("box_format", box_format, FORMATS)
        self.dets_per_class, self.max_dets = dets_per_class, max_dets
        self.groups = as_integer_lists("groups", groups or {})
        self.federated, self.box_format, self.recall = federated, box_format, recall
        # All states are flat and of one dtype, so that they can be gathered with those of a process without images.
        # `counts` holds the number of rows of each image in each table, so that images get numbers only at the end.
        for name in (*COLUMNS, "counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)  # which holds integers up to 2^53

    def _state(self, name: str) -> Any:
        return getattr(self, name)

    def update(self, preds: Sequence[Mapping[str, Tensor]], target: Sequence[Mapping[str, Tensor]]) -> None:
        for name, images in (("preds", preds), ("target", target)):
            if not isinstance(images, Sequence):
                got = type(images).__name__
                raise InputError(f"{name}: expected a list with a dictionary for each image, got {got}")
        if len(preds) != len(target):
            got = f"{len(preds)} and {len(target)}"
            raise InputError(f"preds and target: expected one of each for each image, got {got}")
        checked = [
            (*_found(f"preds[{i}]", pred, self.box_format), *_objects(f"target[{i}]", true, self.box_format))
            for i, (pred, true) in enumerate(zip(preds, target, strict=True))
        ]
        for tables in checked:
            for name, table in zip(COLUMNS, tables, strict=True):
                self._state(name).append(table.flatten())
            self._state("counts").append(tables[0].new_tensor([len(table) for table in tables]))

    def compute(self) -> dict[str, Tensor]:
        """The average precisions by name, then the recalls; those of each group have names such as "ap_pool r"."""
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
            "ap_fixed": ap_fixed_from_matches(matches, self.dets_per_class),
            "ap_pool": ap_pool_from_matches(matches, self.dets_per_class),
            "ap_image_cap": ap_image_cap_from_matches(matches, self.max_dets),
        }
        means: dict[str, AveragePrecision | AverageRecall] = dict(scores)
        if self.recall:
            means |= {name.replace("ap_", "ar_", 1): score.recall for name, score in scores.items()}
        named = {name: mean.value for name, mean in means.items()}
        named |= {f"{name} {group}": mean.groups[group] for name, mean in means.items() for group in self.groups}
        return {name: torch.tensor(value, device=self.device) for name, value in named.items()}


FORMATS = {
    "xyxy": "left, top, right and bottom, with right ≥ left and bottom ≥ top",
    "xywh": "left, top, width and height, with both ≥ 0",
    "cxcywh": "the centre's x and y, width and height, with both ≥ 0",
}
COLUMNS = {"found": 6, "objects": 7, "negative": 1, "not_exhaustive": 1}  # columns of the tables that the metric keeps
EXACT = 1 << 53  # the largest integer up to which float64 holds all integers


def _found(name: str, one: Any, box_format: str) -> tuple[Tensor]:
    """Rows of box, score and label for the detections of one image, in float64."""
    boxes, labels = _image_boxes(name, one, box_format)
    scores = _column(name, one, "scores", len(boxes), "numbers from 0 to 1", lambda x: (x >= 0) & (x <= 1))
    return (_side_by_side(boxes, scores, labels),)


def _objects(name: str, one: Any, box_format: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of box, area, crowd and label for the objects of one image; its `negative` and its `not_exhaustive`."""
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
    """The boxes of one image in COCO's format, and their labels."""
    boxes = _field(name, one, "boxes")
    boxes = boxes if boxes.numel() else boxes.new_zeros(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{name}: expected boxes of shape [n, 4], got {list(boxes.shape)}")
    made = box_convert(boxes, box_format, "xywh")
    right = (boxes.abs() <= coco.FARTHEST).all(1) & (made[:, 2:] >= 0).all(1)
    check_each(f"{name}: boxes", boxes, right, f"{box_format}: {FORMATS[box_format]}")
    return made, _label_column(name, one, "labels", len(boxes))


def _field(name: str, one: Any, key: str) -> Tensor:
    """A field of an image in float64; an empty tensor stands for no rows."""
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
    check_each(f"{name}: {key}", x, is_right(x), expected)
    return x


def _label_column(name: str, one: Any, key: str, rows: int | None = None) -> Tensor:
    """The labels in a field of an image; without `rows` their number is free, and the field may be missing."""
    if rows is None and key not in one:
        return torch.zeros(0, dtype=torch.float64, device=one["boxes"].device)
    x = _field(name, one, key)
    if x.numel():
        check_integers(f"{name}: {key}", one[key], x.numel() if rows is None else rows, low=-EXACT, high=EXACT + 1)
    elif rows:
        raise InputError(f"{name}: {key}: expected {rows} integers, got none")
    return x


def _rows(parts: list[Tensor] | Tensor, columns: int) -> np.ndarray:
    """The rows of all images in order."""
    several = [parts] if isinstance(parts, Tensor) else parts
    joined = np.concatenate([np.zeros(0), *(part.cpu().numpy() for part in several)])
    return joined.reshape(-1, columns)
