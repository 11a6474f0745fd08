"""Several lists in one tensor, one after the other: where each begins, and the rows of some of them."""

from __future__ import annotations

import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers


def ragged(
    starts: Integer[Tensor, " lists_and_end"], index: Integer[Tensor, " chosen"]
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]]:
    """The rows of some of several lists that lie one after the other, and of each row which of those it is in.

    Args:
        starts: the first row of each list, and then the number of all rows.
        index: which lists, in any order; a list may be there several times.

    Returns:
        The rows of these lists, and for each row the position of its list in `index`.

    Raises:
        InputError: for an index of no list, numbers that are not whole, or a list that ends before it starts.

    Examples:
        >>> ragged(torch.tensor([0, 2, 2, 5]), torch.tensor([2, 1, 0]))
        (tensor([2, 3, 4, 0, 1]), tensor([0, 0, 0, 2, 2]))
    """
    starts = check_integers("starts", starts, starts.numel())
    index = check_integers("index", index, index.numel(), low=0, high=len(starts) - 1)
    counts = starts[index + 1] - starts[index]
    if bool((counts < 0).any()):
        raise InputError("starts: expected ascending numbers, got a smaller number after a larger one")
    of = torch.arange(len(index)).repeat_interleave(counts)
    first = starts_of(counts)
    return torch.arange(int(first[-1])) + (starts[index] - first[:-1])[of], of


def starts_of(counts: Integer[Tensor, " lists"]) -> Int64[Tensor, " lists_and_end"]:
    """The first row of each list, and then the number of all rows.

    Args:
        counts: how many rows each list has.

    Raises:
        InputError: for what is no count.

    Examples:
        >>> starts_of(torch.tensor([2, 0, 3]))
        tensor([0, 2, 2, 5])
    """
    counts = check_integers("counts", counts, counts.numel(), low=0)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
