"""Batches of some items, and of two pools: their shares, what comes again, and what becomes of one pool alone."""

from collections import Counter

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.learners.pools import batches_of, two_pools

FIRST = torch.tensor([i % 5 == 0 for i in range(20)])  # 4 of 20


def order(rng):
    return torch.randperm(20, generator=rng)


def test_batches_of_some_items_are_as_many_as_of_all_and_have_these_alone_in_their_order(rng):
    drawn = order(rng)
    batches = batches_of(FIRST, drawn, 6)
    own = [i for i in drawn.tolist() if FIRST[i]]
    assert [len(batch) for batch in batches] == [6] * 3
    assert [i for batch in batches for i in batch] == (own * 5)[:18]


@pytest.mark.parametrize("kept", [True, False])
def test_batches_of_all_items_or_of_none_are_those_by_default(kept, rng):
    drawn = order(rng)
    assert batches_of(torch.full((20,), kept), drawn, 6) == drawn[:18].view(3, 6).tolist()


@pytest.mark.parametrize(("share", "own"), [(0.5, 3), (0.25, 2), (0.01, 1), (0.99, 5)])
def test_every_batch_has_its_share_of_both_and_there_are_as_many_as_of_one_pool(share, own, rng):
    batches = two_pools(FIRST, order(rng), 6, share)
    assert len(batches) == 20 // 6
    for batch in batches:
        assert [bool(FIRST[i]) for i in batch] == [True] * own + [False] * (6 - own)


def test_a_pool_is_gone_through_before_any_item_comes_again(rng):
    batches = two_pools(FIRST, order(rng), 4, 0.5)
    drawn = [i for batch in batches for i in batch]
    counts = Counter(drawn)
    assert {counts[i] for i in range(20) if FIRST[i]} == {2, 3}  # 10 of 4
    assert sorted(counts[i] for i in range(20) if not FIRST[i]) == [0] * 6 + [1] * 10  # 10 of 16
    own = [i for i in drawn if FIRST[i]]
    assert own[:4] == own[4:8]
    assert own[:4] == [i for i in order(rng.manual_seed(rng.initial_seed())).tolist() if FIRST[i]]


@pytest.mark.parametrize("only", [True, False])
def test_one_pool_alone_is_divided_as_by_default(only, rng):
    drawn = order(rng)
    batches = two_pools(torch.full((20,), only), drawn, 6)
    assert batches == drawn[:18].view(3, 6).tolist()


def test_processes_that_take_every_nth_index_have_as_many_of_either_pool(rng):
    for batch in two_pools(FIRST, order(rng), 8, 0.5):
        for rank in range(4):
            assert sum(bool(FIRST[i]) for i in batch[rank::4]) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"first": FIRST.long()}, "first: expected true or false"),
        ({"order": torch.tensor([20])}, "order: expected integers from 0 to 19, got 20"),
        ({"batch_size": 1}, "batch_size: expected a whole number of at least 2"),
        ({"share": 1.0}, "share: expected a number above 0 and below 1, got 1"),
        ({"share": 0.0}, "share: expected a number above 0 and below 1, got 0"),
    ],
)
def test_what_it_refuses(changes, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        two_pools(**{"first": FIRST, "order": torch.arange(20), "batch_size": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kept": FIRST.long()}, "kept: expected true or false"),
        ({"order": torch.tensor([-1])}, "order: expected integers from 0 to 19, got -1"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1"),
    ],
)
def test_what_batches_of_some_items_refuse(changes, named, plain_shapes):
    with pytest.raises(InputError, match=named):
        batches_of(**{"kept": FIRST, "order": torch.arange(20), "batch_size": 4, **changes})
