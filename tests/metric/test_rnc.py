"""Rank-N-Contrast pair by pair, ties and all, and its limits."""

import math

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.metric.rnc import RNCLoss, rank_n_contrast
from worlds import seeded

Z = torch.randn(9, 3, generator=seeded(0), dtype=torch.float64)
Y = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0, 3.0, 2.5, 1.0, 8.0], dtype=torch.float64)  # with ties of many kinds


def plain(z, y, temperature):
    n, losses = len(z), []
    for i in range(n):
        for j in range(n):
            if i != j:
                s = [-(z[i] - z[k]).norm().item() / temperature for k in range(n)]
                rivals = [s[k] for k in range(n) if k != i and abs(y[i] - y[k]) >= abs(y[i] - y[j])]
                losses.append(math.log(sum(map(math.exp, rivals))) - s[j])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_all_pairs_written_out(temperature):
    assert rank_n_contrast(Z, Y, temperature).item() == pytest.approx(plain(Z, Y, temperature), abs=1e-12)
    assert RNCLoss(temperature)(Z, Y).item() == pytest.approx(plain(Z, Y, temperature), abs=1e-12)


def test_equal_numbers_are_all_rivals():
    flat = rank_n_contrast(torch.zeros(5, 2), torch.ones(5))
    assert flat.item() == pytest.approx(math.log(4))


def test_points_in_the_order_of_their_numbers_far_apart_cost_nothing_and_others_much():
    line = torch.tensor([0.0, 1, 3, 7, 15, 31])[:, None]  # no two equally far from a third
    assert rank_n_contrast(100 * line, line[:, 0]).item() < 1e-6
    assert rank_n_contrast(100 * line.flip(0)[torch.tensor([2, 0, 4, 1, 5, 3])], line[:, 0]).item() > 10


def test_invariances_and_gradient(rng):
    value, order = rank_n_contrast(Z, Y), torch.randperm(9, generator=rng)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64)).Q
    for same in ((Z[order], Y[order]), (Z @ turn + 2, Y), (Z, 7 - 3 * Y)):
        torch.testing.assert_close(rank_n_contrast(*same), value)
    assert torch.autograd.gradcheck(lambda z: rank_n_contrast(z, Y), Z.clone().requires_grad_())


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="embeddings: expected at least 3 rows, got 2"):
        rank_n_contrast(Z[:2], Y[:2])  # of a pair without a rival the loss would be 0
    with pytest.raises(InputError, match=r"targets: expected one for each of 9 rows, got \[8\]"):
        rank_n_contrast(Z, Y[1:])
    with pytest.raises(InputError, match="targets: 9 of 9 numbers are NaN"):
        rank_n_contrast(Z, Y * math.nan)
    with pytest.raises(InputError, match="temperature: expected a number above 0"):
        RNCLoss(0)
