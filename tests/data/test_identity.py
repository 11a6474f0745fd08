"""Which test item is which: digests of content and of order."""

import numpy as np
import pytest
import torch

from counterpoise.data.identity import content_keys, order_of


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_equal_rows_alone_have_the_same_key_whatever_their_order(dtype, rng):
    rows = torch.randint(0, 200, (40, 3, 5), generator=rng).to(dtype)
    keys, order = content_keys(rows), torch.randperm(40, generator=rng)
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == 40
    assert torch.equal(content_keys(rows[order]), keys[order])
    changed = rows.clone()
    changed[7, 2, 4] += 1
    assert (content_keys(changed) != keys).nonzero().flatten().tolist() == [7]


def test_rows_that_lie_apart_in_memory_or_in_a_file_have_the_keys_of_their_content(tmp_path, rng):
    rows = torch.randint(0, 256, (6, 4, 4), generator=rng, dtype=torch.uint8)
    np.save(tmp_path / "rows.npy", rows.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    assert torch.equal(content_keys(rows.transpose(1, 2)), content_keys(rows.transpose(1, 2).contiguous()))
    assert torch.equal(content_keys(mapped), content_keys(rows))


def test_no_rows_have_no_keys():
    assert content_keys(torch.zeros(0, 3)).shape == (0,)


def test_an_order_is_that_of_its_labels_and_where_one_ends_counts():
    assert order_of(["a", "b"]) == order_of(iter(["a", "b"]))
    assert len({order_of(labels) for labels in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], [], ["a"])}) == 6
    assert order_of([1, 2]) == order_of(["1", "2"])
