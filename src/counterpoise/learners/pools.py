"""Batches of some items alone, or of two pools, such as labelled and unlabelled items, with a fixed share of both."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_number


def batches_of(kept: Bool[Tensor, " items"], order: Integer[Tensor, " samples"], batch_size: int) -> list[list[int]]:
    """Batches of some items alone, as many as of all of them; these come again, in the same order.

    Args:
        kept: which items are meant; of all, or of none, the batches are those of the order as it is.
        order: indices of items, in random order.
        batch_size: items a batch, at least 1.

    Returns:
        The indices of each batch.

    Raises:
        InputError: for numbers out of range, or an order that is not of these items.

    Examples:
        >>> batches_of(torch.tensor([True, False, False, True, True, False]), torch.arange(6), batch_size=2)
        [[0, 3], [4, 0], [3, 4]]
    """
    order = _checked("kept", kept, order)
    check_number("batch_size", batch_size, at_least=1, whole=True)
    some, count = order[kept[order]], len(order) // batch_size
    return _cycled(some if len(some) else order, count * batch_size).view(count, batch_size).tolist()


def two_pools(
    first: Bool[Tensor, " items"], order: Integer[Tensor, " samples"], batch_size: int, share: float = 0.5
) -> list[list[int]]:
    """Batches with a fixed share of the first pool, as many as if there were one pool.

    Where an epoch needs more items of a pool than it has, they come again, in the same order. Where one pool is empty,
    the batches are of the other alone.

    Args:
        first: whether each item is of the first pool; the others are of the second.
        order: indices of items, in random order.
        batch_size: items a batch, at least 2.
        share: of the first pool in each batch, above 0 and below 1; rounded to whole items, at least one of each pool.

    Returns:
        The indices of each batch, those of the first pool first. So several processes that take every n-th index of a
        batch have as many of either pool, but for one.

    Raises:
        InputError: for numbers out of range, or an order that is not of these items.

    Examples:
        >>> first = torch.tensor([True, False, False, False, True, False])
        >>> two_pools(first, torch.arange(6), batch_size=3, share=1 / 3)
        [[0, 1, 2], [4, 3, 5]]
        >>> two_pools(first, torch.arange(6), batch_size=2, share=0.5)
        [[0, 1], [4, 2], [0, 3]]
    """
    order = _checked("first", first, order)
    check_number("batch_size", batch_size, at_least=2, whole=True)
    check_number("share", share, above=0, below=1)
    is_first = first[order]
    pools, batches = (order[is_first], order[~is_first]), len(order) // batch_size
    if not all(map(len, pools)):
        return order[: batches * batch_size].view(-1, batch_size).tolist()
    own = min(max(round(share * batch_size), 1), batch_size - 1)
    sizes = own, batch_size - own
    parts = [_cycled(pool, batches * size).view(batches, size) for pool, size in zip(pools, sizes, strict=True)]
    return torch.cat(parts, 1).tolist()


def _checked(name: str, chosen: Bool[Tensor, " items"], order: Integer[Tensor, " samples"]) -> Tensor:
    """The order, if it is one of the items that are chosen from."""
    if chosen.dtype != torch.bool or chosen.ndim != 1:
        raise InputError(f"{name}: expected true or false for each item, got {chosen.dtype} of {list(chosen.shape)}")
    return check_integers("order", order, order.numel(), low=0, high=len(chosen))


def _cycled(pool: Integer[Tensor, " items"], length: int) -> Integer[Tensor, " length"]:
    """The items from the first on, and again."""
    return pool.repeat(-(-length // max(1, len(pool))))[:length]
