"""Statistics of the columns of a matrix, exact where a column lies far from 0."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from counterpoise.ops.checks import check_matrix

BLOCK = 256  # rows that are read at once


def column_statistics(
    known: Float[Tensor, "rows columns"],
) -> tuple[Float64[Tensor, " columns"], Float64[Tensor, " columns"]]:
    """Mean and standard deviation (divided by n) of each column; of a constant one exactly its value, and 1.

    In float64, since a column may lie far from 0; some rows at a time, which stay in a core's cache.

    Args:
        known: at least 1 row of finite numbers.

    Raises:
        InputError: for another shape or dtype, no row, NaN or infinity.

    Examples:
        >>> mean, deviation = column_statistics(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        >>> mean.tolist(), deviation.tolist()
        ([2.0, 7.0], [1.0, 1.0])
    """
    check_matrix("known", known)
    blocks = known.split(BLOCK)
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / len(known)
    squares = torch.stack([(block - mean).square().sum(0) for block in blocks]).sum(0)
    constant = (known == known[0]).all(0)
    return torch.where(constant, known[0].double(), mean), torch.where(constant, 1.0, (squares / len(known)).sqrt())
