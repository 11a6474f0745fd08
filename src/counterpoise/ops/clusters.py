"""k-means through faiss."""

from __future__ import annotations

from typing import NamedTuple

import faiss
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_matrix, check_number, check_seed

LARGEST_SEED = 2**31 - 1
LARGEST = 1e15  # faiss sums squares in float32, and ends the process where they are infinite


class Clusters(NamedTuple):
    """The result of k-means.

    Attributes:
        labels: cluster index of each point.
        centroids: one row per cluster.
    """

    labels: Int64[Tensor, " points"]
    centroids: Float32[Tensor, "clusters dim"]


def kmeans(
    points: Float[Tensor, "points dim"],
    count: int,
    seed: int | None = None,
    iterations: int = 25,
    restarts: int = 1,
    spherical: bool = False,
) -> Clusters:
    """k-means: divide points into clusters with small squared distances to their centroids (Lloyd's algorithm).

    Uses every point, on the CPU and without gradient; the same seed gives the same clusters. A cluster that loses its
    points takes some of a large one, but clusters may stay empty where points coincide.

    Args:
        points: one row per point; normalise first for cosines.
        count: number of clusters, at most one per point.
        seed: seed of the initial centroids, below 2³¹; `None` draws one from torch's global generator.
        iterations: iterations of the algorithm, at least 0.
        restarts: number of starts, at least 1; the best result is kept.
        spherical: normalise the centroids, and assign points by inner product.

    Returns:
        Labels and centroids, on the device of `points`.

    Raises:
        InputError: for more clusters than points, numbers out of range, NaN, or a wrong shape.

    Examples:
        >>> kmeans(torch.tensor([[0.0], [0.1], [5.0]]), 2).centroids.sort(0).values
        tensor([[0.0500],
                [5.0000]])
    """
    check_matrix("points", points)
    if (largest := float(points.detach().abs().max())) > LARGEST:
        raise InputError(f"points: expected numbers of at most {LARGEST:.0e}, got {largest:.2g}")
    check_number("count", count, whole=True)
    check_number("iterations", iterations, at_least=0, whole=True)
    check_number("restarts", restarts, at_least=1, whole=True)
    if not 1 <= count <= len(points):
        raise InputError(f"count of clusters: expected from 1 to the number of points, {len(points)}, got {count}")
    if seed is not None:
        check_seed(seed, most=LARGEST_SEED)
    x = points.detach().float().cpu().contiguous().numpy()
    solver = faiss.Kmeans(
        x.shape[1],
        int(count),
        niter=int(iterations),
        nredo=int(restarts),
        spherical=spherical,
        seed=int(torch.randint(1 << 31, ())) if seed is None else int(seed),
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    solver.train(x)
    labels = solver.index.search(x, 1)[1][:, 0]
    centroids = torch.from_numpy(solver.centroids)
    return Clusters(torch.from_numpy(labels).to(points.device), centroids.to(points.device))
