"""Describers: what all methods share that compare images with names."""

import pytest
import torch

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.describer import Describer, frozen_towers
from counterpoise.nets.towers import Towers
from worlds import Encoder


@pytest.fixture
def images(rng):
    pixels = torch.randint(0, 256, (20, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.full((20,), -1), (), "x")


def test_the_features_are_the_rows_of_the_towers(images):
    ours = Describer(Towers(Encoder(), dim=8))
    assert ours.features == 8
    assert ours.rows(images).shape == (20, 8)
    assert ours.names(["a", "b"]).requires_grad is False
    assert ours.training  # as before


def test_doubt_is_smallest_where_one_name_stands_out(images):
    ours = Describer(Towers(Encoder(), dim=8))
    rows = ours.rows(images)
    scores = ours.scores(rows, ["red cat", "blue dog"])
    gap = (scores[:, 0] - scores[:, 1]).abs()
    assert ours.doubt(rows, ["red cat", "blue dog"]).argsort().tolist() == gap.argsort(descending=True).tolist()


def test_towers_that_a_method_stands_on_are_frozen_and_kept():
    towers = Towers(Encoder(), dim=8)
    frozen = frozen_towers(towers)
    assert not list(frozen.parameters())
    assert set(frozen.state_dict()) == set(towers.state_dict())
    with pytest.raises(InputError, match="got none"):
        frozen_towers(None)
