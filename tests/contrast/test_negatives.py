"""Negatives that all queries share, and what each query excludes."""

import pytest
import torch

from counterpoise.contrast.negatives import check_negatives
from counterpoise.errors import InputError


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint32])
def test_numbers_of_every_type_come_back_as_int64(dtype):
    given = torch.tensor([0, 2], dtype=dtype), torch.tensor([2, 0, 1], dtype=dtype)
    own, others = check_negatives(torch.ones(2, 3), torch.ones(3, 3), given)
    assert own.dtype == others.dtype == torch.int64
    assert (own.tolist(), others.tolist()) == ([0, 2], [2, 0, 1])


def test_without_numbers_nothing_is_excluded():
    assert check_negatives(torch.ones(2, 3), torch.ones(3, 3)) is None


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("queries", "negatives", "exclude", "message"),
    [
        (torch.ones(0, 3), torch.ones(3, 3), None, "queries: expected at least 1 rows, got 0"),
        (torch.ones(2, 3), torch.ones(0, 3), None, "negatives: expected at least 1 rows, got 0"),
        (torch.ones(2, 3), torch.ones(3, 4), None, "queries and negatives: expected the same width, got 3 and 4"),
        (torch.ones(2, 3), torch.full((3, 3), torch.nan), None, "negatives: 9 of 9 numbers are NaN"),
        (torch.ones(2, 3), torch.ones(3, 3), (torch.arange(3), torch.arange(3)), "exclude: expected one integer"),
        (torch.ones(2, 3), torch.ones(3, 3), (torch.arange(2), torch.ones(3)), "exclude: expected integers"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(queries, negatives, exclude, message):
    with pytest.raises(InputError, match=message):
        check_negatives(queries, negatives, exclude)
