"""Lists in one tensor: found by integers of every type."""

import pytest
import torch

from counterpoise.data.ragged import ragged
from counterpoise.errors import InputError


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int16])
def test_lists_are_found_by_integers_of_every_type(dtype):
    starts, index = torch.tensor([0, 2, 2, 5]), torch.tensor([2, 1, 0])
    for found, expected in zip(ragged(starts.to(dtype), index.to(dtype)), ragged(starts, index), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("starts", "index", "message"),
    [
        ([0, 2, 2, 5], [3], "index: expected integers from 0 to 2, got 3"),
        ([0, 2, 2, 5], [0.5], "index: expected integers, got torch.float32"),
        ([0.0, 2.0], [0], "starts: expected integers, got torch.float32"),
        ([3, 1], [0], "starts: expected ascending numbers"),
    ],
)
def test_lists_that_are_none_are_refused(starts, index, message):
    with pytest.raises(InputError, match=message):
        ragged(torch.tensor(starts), torch.tensor(index))
