"""Statistics of columns: exact far from 0, and over more rows than are read at once."""

import torch

from counterpoise.ops.columns import BLOCK, column_statistics


def test_a_column_far_from_0_keeps_its_deviation():
    values = torch.arange(3 * BLOCK + 5).remainder(2).float()[:, None] + 2.0**20
    mean, deviation = column_statistics(values)
    torch.testing.assert_close(mean, values.double().mean(0))
    torch.testing.assert_close(deviation, values.double().std(0, correction=0))


def test_a_constant_column_has_its_value_and_a_deviation_of_1():
    mean, deviation = column_statistics(torch.full((BLOCK + 1, 1), 0.1))
    assert (mean.float().item(), deviation.item()) == (torch.tensor(0.1).item(), 1.0)
