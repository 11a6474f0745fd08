"""Negatives that all queries share, such as a queue or a memory bank, and which of them a query excludes."""

from __future__ import annotations

from jaxtyping import Float, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_matrix

# A number for each query and one for each negative: pairs with equal numbers are excluded.
Exclude = tuple[Integer[Tensor, " batch"], Integer[Tensor, " negatives"]]


def check_negatives(
    queries: Float[Tensor, "batch dim"], negatives: Float[Tensor, "negatives dim"], exclude: Exclude | None = None
) -> Exclude | None:
    """Refuse queries and negatives that cannot be compared, or numbers that are not one for each of them.

    Args:
        queries: one row per sample, at least 1.
        negatives: keys of other samples, at least 1.
        exclude: numbers of the queries and of the negatives, of any integer type.

    Returns:
        `exclude` as int64; `None` if not given.

    Raises:
        InputError: for a wrong shape, no row, NaN or infinity, different widths, or numbers that are not integers.

    Examples:
        >>> import torch
        >>> check_negatives(torch.ones(2, 3), torch.ones(4, 3), (torch.arange(2, dtype=torch.uint8), torch.arange(4)))
        (tensor([0, 1]), tensor([0, 1, 2, 3]))
    """
    check_matrix("queries", queries)
    check_matrix("negatives", negatives)
    if negatives.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries and negatives: expected the same width, got {queries.shape[1]} and {negatives.shape[1]}"
        )
    if exclude is None:
        return None
    own, others = exclude
    return check_integers("exclude", own, len(queries)), check_integers("exclude", others, len(negatives))
