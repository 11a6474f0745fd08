"""The similarity matrix in tiles: together they are the whole matrix, and those that no pair reaches are left out."""

import pytest
import torch

from counterpoise.ops import tiles
from counterpoise.ops.tiles import Inputs, Plan, Rule


def matrix(queries, keys=None, scales=None, log_weights=None, exclude=None, only=None):
    """The matrix of this process's rows, and its plan."""
    inputs = Inputs(queries, keys, scales, log_weights)
    plan = Plan.of(inputs, exclude, only, ring=False)
    made = []
    plan.visit(inputs, {}, lambda matrix, found: made.append(matrix))
    return made[0], plan


def whole(made, value):
    """The tiles, and their twins, put together; what no tile covers is NaN."""
    found = torch.full((len(made.queries), len(made.keys)), torch.nan, dtype=made.queries.dtype)
    for tile in made.tiles():
        found[tile.rows, tile.columns] = value(tile)
        if made.has_twin(tile):
            found[tile.columns, tile.rows] = value(tile.twin)
    return found


@pytest.mark.parametrize("side", [2, 3, 100])
@pytest.mark.parametrize("own", [True, False])
def test_tiles_and_their_twins_are_the_whole_matrix(side, own, monkeypatch, rng):
    monkeypatch.setattr(tiles, "SIDE", {"cpu": side})
    queries = torch.randn(7, 3, generator=rng, dtype=torch.float64)
    keys = None if own else torch.randn(5, 3, generator=rng, dtype=torch.float64)
    made, _ = matrix(queries, keys)
    compared = queries if own else keys
    torch.testing.assert_close(whole(made, lambda tile: tile.similarity), queries @ compared.T)
    assert made.single == (side == 100)


def test_rows_against_themselves_need_only_the_tiles_on_and_above_the_diagonal(monkeypatch, rng):
    monkeypatch.setattr(tiles, "SIDE", {"cpu": 2})
    z = torch.randn(6, 3, generator=rng)
    assert len(list(matrix(z)[0].tiles())) == 6
    assert len(list(matrix(z, z.clone())[0].tiles())) == 9


@pytest.mark.parametrize("shift", [0, 2**40])
def test_pairs_are_counted_by_their_identities_however_large(shift, monkeypatch, rng):
    monkeypatch.setattr(tiles, "SIDE", {"cpu": 2})
    z, labels = torch.randn(6, 3, generator=rng), torch.tensor([0, 1, 0, 2, 1, 0]) + shift
    rows = torch.arange(6)
    made, _ = matrix(z, exclude=Rule(rows, rows), only=Rule(labels, labels))
    expected = (labels[:, None] == labels) & (rows[:, None] != rows)
    assert torch.equal(whole(made, lambda tile: tile.counts).nan_to_num(0).bool(), expected)


def test_tiles_of_other_classes_are_not_computed(monkeypatch, rng):
    monkeypatch.setattr(tiles, "SIDE", {"cpu": 2})
    z, labels = torch.randn(6, 3, generator=rng), torch.tensor([0, 0, 1, 1, 2, 2])
    made, _ = matrix(z, only=Rule(labels, labels))
    assert [(tile.rows, tile.columns) for tile in made.tiles()] == [(slice(i, i + 2),) * 2 for i in (0, 2, 4)]


def test_exponentials_with_and_without_a_shift_leave_out_the_same_pairs(rng):
    z, rows = torch.randn(4, 3, generator=rng, dtype=torch.float64), torch.arange(4)
    made, plan = matrix(z, exclude=Rule(rows, rows))
    (tile,) = made.tiles()
    expected = (z @ z.T).exp().fill_diagonal_(0)
    shift = torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(made.exponentials(tile, None), expected)
    torch.testing.assert_close(made.exponentials(tile, shift), expected / shift.exp()[:, None])
    assert plan.bounded


def test_long_rows_and_large_scales_are_not_bounded():
    z = torch.eye(3)
    assert Plan.of(Inputs(z, None, None, None), None, None, False).bounded
    assert not Plan.of(Inputs(9 * z, None, None, None), None, None, False).bounded
    assert not Plan.of(Inputs(z, None, torch.full((3,), 99.0), None), None, None, False).bounded


def test_sums_of_rows_are_weighed_by_the_weights_below_the_largest(rng):
    z, weights = torch.randn(3, 2, generator=rng), torch.tensor([5.0, 4.0, -torch.inf])
    made, plan = matrix(z, z.clone(), log_weights=weights)
    (tile,) = made.tiles()
    assert plan.top == 5
    torch.testing.assert_close(made.row_sums(tile, torch.ones(3, 3)), torch.full((3,), 1 + torch.tensor(-1.0).exp()))
