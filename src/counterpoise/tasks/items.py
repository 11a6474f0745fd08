"""What each test item adds to a figure: one number an item, whose mean over all of them is the figure.

Where a figure is a mean over some of the items, or over items with weights, the number is the figure plus what the item
changes of it (its influence), so that the variance of these numbers is that of the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Integer, Shaped
from torch import Tensor

from counterpoise.data import Images
from counterpoise.data.identity import Identity, content_keys, order_of


def weighted(values: Float[Tensor, " items"], weights: Shaped[Tensor, " items"]) -> Float64[Tensor, " items"]:
    r"""The influence of each item on a weighted mean $m$ of $n$ items: $m + n w_i (x_i - m) / \sum_j w_j$.

    Args:
        values: of each item.
        weights: of each item, 0 or more; 0 for one that the figure leaves out.

    Returns:
        Numbers whose mean is the weighted mean.

    Examples:
        >>> weighted(torch.tensor([1.0, 0.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])).tolist()
        [1.25, -0.25, 0.5]
    """
    values, weights = values.double(), weights.double()
    mean = (weights * values).sum() / weights.sum()
    return mean + len(values) * weights * (values - mean) / weights.sum()


def balanced(right: Tensor, labels: Integer[Tensor, " items"]) -> Float64[Tensor, " items"]:
    """The influence of each item on the balanced accuracy: within its class, by the class's weight.

    Args:
        right: whether each item is named rightly.
        labels: class of each, 0 or more.

    Examples:
        >>> balanced(torch.tensor([True, False, True]), torch.tensor([0, 0, 1])).tolist()
        [1.125, 0.375, 0.75]
    """
    hits, counts = right.double(), labels.bincount().double()
    recall = hits.new_zeros(len(counts)).index_add_(0, labels, hits) / counts.clamp(min=1)
    there = counts > 0
    weight = len(labels) / (there.sum() * counts[labels])
    return recall[there].mean() + weight * (hits - recall[labels])


def of_some(values: Float[Tensor, " some"], index: Int64[Tensor, " some"], count: int) -> Float64[Tensor, " items"]:
    """The influence of each of `count` items on the mean of some of them.

    Args:
        values: of those.
        index: their numbers.
        count: of all items.

    Examples:
        >>> of_some(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]), 3).tolist()
        [-0.25, 0.5, 1.25]
    """
    full, weights = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    full[index], weights[index] = values.double().cpu(), 1.0
    return weighted(full, weights)


def identity_of(parts: Sequence[Any], kept: Int64[Tensor, " items"]) -> Identity:
    """Which test images or rows the items of a run are.

    Args:
        parts: of one data set, one part after the other.
        kept: the numbers of those that are scored, in their order.
    """
    names = [parts[0].classes[label] for label in torch.cat([part.labels for part in parts])[kept].tolist()]
    contents = [getattr(part, "pixels" if isinstance(part, Images) else "inputs") for part in parts]
    return Identity(torch.cat([content_keys(content) for content in contents])[kept], order_of(names))
