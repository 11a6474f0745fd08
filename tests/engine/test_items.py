"""What each test item adds is kept, read again, and weighed over the arms and seeds of a sum."""

import numpy as np
import pytest
import torch

from counterpoise.data.identity import Identity, content_keys, order_of
from counterpoise.engine.items import Items, read_items, shares, write_items
from counterpoise.errors import InputError
from counterpoise.training.run import Scores


def items(keys, values, order=0):
    return Items(np.array(keys), order, {"m": np.array(values, dtype=np.float32)})


def test_what_is_kept_comes_back(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = {"recall_1": torch.rand(7, generator=generator).double(), "nll": torch.rand(7, generator=generator)}
    identity = Identity(content_keys(torch.arange(7)[:, None]), order_of("abcdefg"))
    write_items(tmp_path, Scores({}, items=values, identity=identity))
    found = read_items(tmp_path)
    assert found.keys.tolist() == identity.keys.tolist()
    assert found.order == identity.order
    assert {name: kept.tolist() for name, kept in found.metrics.items()} == {
        name: each.float().tolist() for name, each in values.items()
    }


def test_nothing_is_kept_where_nothing_is_known_and_damage_is_named(tmp_path):
    write_items(tmp_path, Scores({"m": 1.0}))
    assert list(tmp_path.iterdir()) == []
    assert read_items(tmp_path) is None  # as of an earlier version
    (tmp_path / "items.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"items.npz: damaged"):
        read_items(tmp_path)
    with pytest.raises(ValueError, match="m: expected one number for each of 2 test items"):
        write_items(tmp_path, Scores({}, items={"m": torch.zeros(3)}, identity=Identity(torch.arange(2), 0)))


def test_shares_of_a_weighted_sum():
    (one,) = shares([[(1, items([5, 6], [1, 0])), (-0.5, items([6, 7], [1, 0]))]], "m")
    assert one[0].tolist() == [5, 6, 6, 7]
    assert one[1].tolist() == [0.25, -0.25, -0.125, 0.125]
    assert shares([[(1, None)]], "m") is None
    assert shares([[(1, items([5], [1]))]], "other") is None


def test_items_that_each_seed_makes_anew_are_the_same_by_their_place_if_the_labels_are():
    def keys(*seeds):
        return [found.tolist() for found, _ in shares([[(1, one)] for one in seeds], "m")]

    first, second = keys(items([1, 2], [0, 1], order=9), items([3, 4], [1, 1], order=9))
    assert first == second  # as where a tint is drawn
    assert keys(items([1, 2], [0, 1], order=9), items([3, 4], [1, 1], order=8)) == [[1, 2], [3, 4]]
    assert keys(items([1, 2], [0, 1], order=9), items([2, 1], [1, 1], order=9)) == [[1, 2], [2, 1]]  # known by content
