"""Accuracy: overall, balanced, per class, and for classes with many, some and few training images.

Unlabelled rows, with label -1, are left out everywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_number

# Classes whose training counts are within this ratio count as balanced.
BALANCED = 1.5


def accuracy(predicted: Integer[Tensor, " n"], labels: Integer[Tensor, " n"]) -> float:
    """Share of rows whose predicted class is their label, from 0 to 1.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row; rows with -1 are left out.

    Raises:
        InputError: for wrong shapes or dtypes, or if no row is labelled.

    Examples:
        >>> accuracy(torch.tensor([0, 1, 1, 5]), torch.tensor([0, 1, 0, -1]))
        0.6666666666666666
    """
    predicted, labels = _kept(predicted, labels)
    return int((predicted == labels).sum()) / len(labels)


def class_accuracy(
    predicted: Integer[Tensor, " n"], labels: Integer[Tensor, " n"], classes: int
) -> Float64[Tensor, " classes"]:
    """The recall of each class: the share of its rows that are predicted as that class; NaN for a class without rows.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row, below `classes`; rows with -1 are left out.
        classes: number of classes.

    Raises:
        InputError: for wrong shapes or dtypes, labels out of range, or if no row is labelled.

    Examples:
        >>> class_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), classes=3)
        tensor([0.5000, 1.0000,    nan], dtype=torch.float64)
    """
    check_number("classes", classes, at_least=1, whole=True)
    predicted, labels = _kept(predicted, labels, classes)
    rows = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[predicted == labels], minlength=classes)
    return right.double() / rows


def balanced_accuracy(predicted: Integer[Tensor, " n"], labels: Integer[Tensor, " n"], classes: int) -> float:
    """Mean of `class_accuracy` over the classes that have rows: every class has the same weight.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row, below `classes`; rows with -1 are left out.
        classes: number of classes.

    Raises:
        InputError: as in `class_accuracy`.

    Examples:
        >>> balanced_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), classes=2)
        0.5
    """
    return float(class_accuracy(predicted, labels, classes).nanmean())


def group_accuracy(
    predicted: Integer[Tensor, " n"], labels: Integer[Tensor, " n"], train_counts: Integer[Tensor, " classes"]
) -> dict[str, float]:
    """Balanced accuracy of the classes with many (head), some (medium) and few (tail) training images.

    The groups are thirds of the classes, sorted by descending training count, equal counts in class order. If the
    classes do not divide evenly, head and then medium get one more. (Thresholds in images, such as ImageNet-LT's 100
    and 20, mean nothing for data sets of another size.) Two classes are head and tail.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row; rows with -1 are left out.
        train_counts: training images of each class.

    Returns:
        "head", "medium" and "tail", without groups whose classes have no rows; only "all" if the largest count is at
        most 1.5 times the smallest.

    Raises:
        InputError: as in `class_accuracy`, or for negative counts.

    Examples:
        >>> group_accuracy(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]), torch.tensor([100, 30, 9]))
        {'head': 1.0, 'medium': 1.0, 'tail': 0.0}
        >>> group_accuracy(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 2]), torch.tensor([9, 9, 8]))
        {'all': 0.6666666666666666}
    """
    members = class_groups(train_counts)
    recall = class_accuracy(predicted, labels, len(train_counts))
    groups = {name: recall[part.to(recall.device)] for name, part in members.items()}
    return {name: float(part.nanmean()) for name, part in groups.items() if not part.isnan().all()}


def class_groups(train_counts: Integer[Tensor, " classes"]) -> dict[str, Integer[Tensor, " members"]]:
    """Divide classes into thirds by training images; a single group if all have about as many.

    Args:
        train_counts: training images of each class.

    Raises:
        InputError: for no classes, negative counts, or counts that are not integers.

    Examples:
        >>> class_groups(torch.tensor([9, 100, 30]))
        {'head': tensor([1]), 'medium': tensor([2]), 'tail': tensor([0])}
        >>> class_groups(torch.tensor([9, 9, 8]))
        {'all': tensor([0, 1, 2])}
    """
    train_counts = check_integers("train_counts", train_counts, rows=train_counts.numel(), low=0)
    if not len(train_counts):
        raise InputError("train_counts: expected a count for each class, got none")
    if int(train_counts.max()) <= BALANCED * int(train_counts.min()):
        return {"all": torch.arange(len(train_counts))}
    names = ("head", "medium", "tail") if len(train_counts) > 2 else ("head", "tail")
    order = train_counts.argsort(descending=True, stable=True)
    return dict(zip(names, order.tensor_split(len(names)), strict=True))


def labelled(labels: Integer[Tensor, " n"], rows: int, classes: int | None = None) -> Bool[Tensor, " n"]:
    """Which rows have a label; -1 means no label.

    Args:
        labels: class of each row.
        rows: number of labels expected.
        classes: number of classes, if known.

    Raises:
        InputError: for wrong shapes or dtypes, labels below -1, or labels of at least `classes`.

    Examples:
        >>> labelled(torch.tensor([2, -1]), rows=2)
        tensor([ True, False])
    """
    return known_classes("labels", labels, rows, classes) >= 0


def known_classes(
    name: str, labels: Integer[Tensor, " n"], rows: int, classes: int | None = None
) -> Int64[Tensor, " n"]:
    """Check labels and convert them to int64; -1 means no label; see `labelled`.

    Args:
        name: name of the argument.
        labels: class of each row, integers of any type.
        rows: number of labels expected.
        classes: number of classes, if known.

    Raises:
        InputError: for wrong shapes or dtypes, labels below -1, or labels of at least `classes`.

    Examples:
        >>> known_classes("labels", torch.tensor([2, -1], dtype=torch.int8), rows=2)
        tensor([ 2, -1])
    """
    check_number("rows", rows, at_least=0, whole=True)
    if classes is not None:
        check_number("classes", classes, at_least=1, whole=True)
    labels = check_integers(name, labels, rows)
    if rows and int(labels.min()) < -1:
        raise InputError(f"{name}: expected a class from 0, or -1 for none, got {int(labels.min())}")
    return check_integers(name, labels, rows, low=-1, high=classes)


def _kept(predicted: Tensor, labels: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    labels = known_classes("labels", labels, labels.numel(), classes)
    predicted = check_integers("predicted", predicted, rows=len(labels))
    kept = labels >= 0
    if not kept.any():
        raise InputError(f"labels: none of the {len(labels)} rows is labelled")
    return predicted[kept], labels[kept]
