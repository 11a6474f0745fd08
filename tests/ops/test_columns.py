"""Statistics of columns: exact far from 0, and over more rows than are read at once."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.ops.columns import BLOCK, column_statistics


def test_a_column_far_from_0_keeps_its_deviation():
    values = torch.arange(3 * BLOCK + 5).remainder(2).float()[:, None] + 2.0**20
    mean, deviation = column_statistics(values)
    torch.testing.assert_close(mean, values.double().mean(0))
    torch.testing.assert_close(deviation, values.double().std(0, correction=0))


def test_a_constant_column_has_its_value_and_a_deviation_of_1():
    mean, deviation = column_statistics(torch.full((BLOCK + 1, 1), 0.1))
    assert (mean.float().item(), deviation.item()) == (torch.tensor(0.1).item(), 1.0)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.zeros(0, 2), "known: expected at least 1 rows, got 0"),
        (torch.zeros(2), r"known: expected a matrix \[rows, dim\], got shape \[2\]"),
        (torch.tensor([[0.0], [torch.nan]]), "known: 1 of 2 numbers are NaN or infinite"),
    ],
)
def test_what_has_no_statistics_is_refused_by_name(known, message):
    with pytest.raises(InputError, match=message):
        column_statistics(known)
