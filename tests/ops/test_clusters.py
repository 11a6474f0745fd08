import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.ops.clusters import kmeans


def groups(count=3, each=30):
    rng = torch.Generator().manual_seed(0)
    truth = torch.arange(count * each) % count
    return torch.eye(count)[truth] * 20 + torch.randn(count * each, count, generator=rng), truth


def test_far_groups_are_found_with_their_means():
    points, truth = groups()
    found = kmeans(points, 3, seed=0, restarts=5)
    assert len(set(zip(truth.tolist(), found.labels.tolist(), strict=True))) == 3
    for k in range(3):
        torch.testing.assert_close(found.centroids[k], points[found.labels == k].mean(0), atol=1e-4, rtol=1e-4)


def test_each_point_is_in_its_nearest_cluster():
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    found = kmeans(points, 6, seed=0)
    assert torch.equal(found.labels, torch.cdist(points, found.centroids).argmin(1))


def test_spherical_centroids_have_length_one_and_the_nearest_is_by_inner_product():
    points = F.normalize(groups()[0], dim=1)
    found = kmeans(points, 4, seed=0, spherical=True)
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(4))
    assert torch.equal(found.labels, (points @ found.centroids.T).argmax(1))


def test_the_seed_decides_and_is_drawn_from_torch_where_none_is_given():
    noise = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kmeans(noise, 6, seed=3).labels, kmeans(noise, 6, seed=3).labels)
    torch.manual_seed(0)
    first, second = kmeans(noise, 6).labels, kmeans(noise, 6).labels
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(kmeans(noise, 6).labels, first)


def test_as_many_clusters_as_points():
    points, _ = groups()
    assert sorted(kmeans(points[:4], 4, seed=0).labels.tolist()) == [0, 1, 2, 3]


def test_bad_input_is_refused_by_name():
    points, _ = groups()
    with pytest.raises(InputError, match="clusters: expected from 1 to the number of points, 90, got 91"):
        kmeans(points, 91)
    with pytest.raises(InputError, match="clusters: expected from 1"):
        kmeans(points, 0)
    with pytest.raises(InputError, match="points: expected at least 1 columns, got 0"):
        kmeans(points[:, :0], 2)
    with pytest.raises(InputError, match=r"points: expected numbers of at most 1e\+15, got "):
        kmeans(1e30 * points, 2)
    with pytest.raises(InputError, match="points: 1 of 270 numbers are NaN"):
        kmeans(
            points.index_fill(0, torch.tensor([5]), 1.0).index_put(
                (torch.tensor(3), torch.tensor(2)), torch.tensor(math.nan)
            ),
            2,
        )
