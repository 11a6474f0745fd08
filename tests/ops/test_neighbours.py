import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from counterpoise.errors import InputError
from counterpoise.ops import neighbours
from counterpoise.ops.neighbours import nearest, ranked_in_parts
from worlds import seeded

QUERIES = torch.randn(37, 6, generator=seeded(0))
KEYS = torch.randn(50, 6, generator=seeded(1))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_against_scikit_learn(metric, k):
    distances, index = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(KEYS).kneighbors(QUERIES)
    values, found = nearest(QUERIES, KEYS, k, metric)
    expected = 1 - distances if metric == "cosine" else distances
    torch.testing.assert_close(values.double(), torch.from_numpy(expected).double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, torch.from_numpy(index))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_more_rows_than_one_block(metric, rng):
    queries, keys = torch.randn(5000, 4, generator=rng), torch.randn(2500, 4, generator=rng)
    values, index = nearest(queries, keys, 3, metric)
    rows = [0, 4095, 4096, 4999]
    all_distances = cdist(queries[rows], keys, metric)
    np.testing.assert_array_equal(index[rows], all_distances.argsort(1)[:, :3])
    expected = np.sort(all_distances, 1)[:, :3]
    np.testing.assert_allclose(values[rows], 1 - expected if metric == "cosine" else expected, atol=1e-5)


def test_distances_in_tiles_are_the_same(monkeypatch):
    whole = nearest(QUERIES, KEYS, 4, "euclidean")
    monkeypatch.setattr("counterpoise.ops.neighbours.TILE", 4 * 6 * 10)
    tiled = nearest(QUERIES, KEYS, 4, "euclidean")
    assert torch.equal(whole[0], tiled[0])
    assert torch.equal(whole[1], tiled[1])


def test_cosine_does_not_see_lengths_however_extreme(rng):
    lengths = 10.0 ** torch.randint(-30, 30, (50, 1), generator=rng)
    assert torch.equal(nearest(QUERIES * 1e-25, KEYS * lengths, 4)[1], nearest(QUERIES, KEYS, 4)[1])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_euclidean_scales_with_its_input(size):
    values, index = nearest(QUERIES * size, KEYS * size, 4, "euclidean")
    plain, plain_index = nearest(QUERIES, KEYS, 4, "euclidean")
    assert torch.equal(index, plain_index)
    torch.testing.assert_close(values / size, plain)


def test_euclidean_far_from_the_origin_keeps_the_nearest_and_the_zero():
    far = torch.tensor([1e6, -1e6]).double()
    keys = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]]).double() + far
    values, index = nearest(keys, keys, 2, "euclidean")
    assert values.tolist() == [[0, 1], [0, 1], [0, 3]]
    assert index.tolist() == [[0, 1], [1, 0], [2, 0]]


def test_zero_rows_have_cosine_zero_with_everything():
    values, index = nearest(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 2.0]]), 3)
    assert values.tolist() == [[0, 0, 0]]
    assert index.tolist() == [[0, 1, 2]]


def test_equally_near_keys_come_in_order():
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0]]), keys, 4)[1].tolist() == [[1, 2, 3, 0]]
    assert nearest(torch.tensor([[1.0, 0.0]]), keys, 4, "euclidean")[1].tolist() == [[1, 3, 2, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_give_float32(dtype):
    values, index = nearest(QUERIES.to(dtype), KEYS.to(dtype), 2)
    rounded, plain = nearest(QUERIES.to(dtype).float(), KEYS.to(dtype).float(), 2)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, rounded)
    assert torch.equal(index, plain)


def test_no_queries():
    values, index = nearest(QUERIES[:0], KEYS, 3, "euclidean")
    assert values.shape == index.shape == (0, 3)


@pytest.mark.parametrize("part", [1 << 20, 40])
def test_ranked_is_nearest_where_nothing_is_tied(part, monkeypatch):
    monkeypatch.setattr(neighbours, "PART", part)
    values, index = nearest(QUERIES, KEYS, 7)
    for found in ranked_in_parts(QUERIES, KEYS, 7):
        assert found.edge is None
        assert torch.equal(found.numbers, index[found.rows])
        torch.testing.assert_close(found.cosine, values[found.rows])
        assert torch.equal(found.group, torch.arange(7).expand_as(found.group))


@pytest.mark.parametrize("dim", [3, 700])  # faiss rounds cosines of equal rows apart where rows are long
def test_ranked_has_all_keys_that_are_as_near_as_the_last(dim):
    kinds = torch.randint(5, (300,))
    rows = torch.randn(5, dim)[kinds]
    seen = torch.zeros(300)
    for found in ranked_in_parts(rows, rows, 40):
        assert found.edge is not None
        seen[found.rows] += 1
        last = kinds[found.numbers[:, -1]]
        assert torch.equal(found.edge, kinds == last[:, None])
        same = kinds[found.numbers[:, 1:]] == kinds[found.numbers[:, :-1]]
        assert torch.equal(found.group[:, 1:] == found.group[:, :-1], same)
    assert (seen == 1).all()


def test_ranked_with_as_many_as_there_are_keys_has_no_edge():
    (found,) = ranked_in_parts(torch.ones(2, 3), torch.ones(4, 3), 4)
    assert found.edge is None
    assert (found.group == 0).all()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUERIES, KEYS, 51), "k: expected a number from 1 to the 50 keys, got 51"),
        ((QUERIES, KEYS, 0), "k: expected a number from 1 to the 50 keys, got 0"),
        ((QUERIES, KEYS, 2.0), "k: expected a whole number, got 2"),
        ((QUERIES, KEYS[:, :5], 2), "queries and keys: expected as many columns, got 6 and 5"),
        ((QUERIES, KEYS[:0], 1), "keys: expected at least 1 rows, got 0"),
        ((QUERIES, KEYS, 2, "cosin"), "did you mean 'cosine'"),
        ((QUERIES.log(), KEYS, 2), r"queries: \d+ of 222 numbers are NaN"),
        ((QUERIES, KEYS[0], 2), r"keys: expected a matrix \[rows, dim\], got shape \[6\]"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        nearest(*arguments)
