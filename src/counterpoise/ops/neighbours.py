"""Exact nearest neighbours through faiss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_matrix
from counterpoise.ops.similarity import unit_rows

METRICS = ("cosine", "euclidean")
# Differences between a query and its neighbours are taken for about this many numbers at once: 64 MB in float32.
TILE = 1 << 24
PART = 1 << 20  # neighbours that are found at once: 12 MB


def nearest(
    queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], k: int, metric: str = "cosine"
) -> tuple[Float32[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """The `k` nearest keys of each query, nearest first; keys that are equally near come in the order of their number.

    The search compares every query with every key (faiss, in blocks: no matrix of n × m), in float32. Two keys whose
    squared distances differ by less than float32 can tell, about 1e-6 of the keys' squared spread, may change places
    at the edge of the k nearest. It runs on the CPU and carries no gradient.

    Args:
        queries: one row per query; a query that is among the keys finds itself.
        keys: one row per candidate.
        k: from 1 to the number of keys.
        metric: "cosine" (a row of zeros has cosine 0 with everything) or "euclidean".

    Returns:
        Cosines or Euclidean distances, and the numbers of the keys, on the device of `queries`.

    Raises:
        InputError: for other shapes, NaN, no keys, an unknown metric, or `k` out of range.

    >>> values, index = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 4.0], [5.0, 0.0]]), k=2)
    >>> values, index
    (tensor([[1.0000, 0.6000]]), tensor([[2, 1]]))
    """
    _check(queries, keys, k)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    device = queries.device
    queries, keys = queries.detach().cpu(), keys.detach().cpu()
    search = _by_cosine if metric == "cosine" else _by_distance
    values, index = search(queries, keys, k)
    return values.to(device), index.to(device)


def nearest_in_parts(
    queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], k: int
) -> Iterator[tuple[Int64[Tensor, " part"], Int64[Tensor, "part k"]]]:
    """`nearest` by cosine where the neighbours of all queries together would be too many: part by part, on the CPU.

    Args:
        queries: one row per query.
        keys: one row per candidate; copied once.
        k: from 1 to the number of keys.

    Yields:
        Numbers of some queries, and for each of them those of its neighbours.

    Raises:
        InputError: as `nearest`.

    >>> x = torch.eye(3)
    >>> [(rows.tolist(), index.tolist()) for rows, index in nearest_in_parts(x, x, 1)]
    [([0, 1, 2], [[0], [1], [2]])]
    """
    _check(queries, keys, k)
    keys = unit_rows(keys.detach().cpu())
    for rows in torch.arange(len(queries)).split(max(1, PART // k)):
        some = unit_rows(queries.detach()[rows.to(queries.device)].cpu())
        cosine, index = _search(some, keys, k, faiss.METRIC_INNER_PRODUCT)
        yield rows, _in_order(cosine.clamp(-1, 1), index, descending=True)[1]


def _check(queries: Tensor, keys: Tensor, k: int) -> None:
    check_matrix("queries", queries, at_least=0)
    check_matrix("keys", keys)
    if queries.shape[1] != keys.shape[1]:
        raise InputError(f"queries and keys: expected as many columns, got {queries.shape[1]} and {keys.shape[1]}")
    if not 1 <= k <= len(keys):
        raise InputError(f"k: expected a number from 1 to the {len(keys)} keys, got {k}")


def _by_cosine(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    cosine, index = _search(unit_rows(queries), unit_rows(keys), k, faiss.METRIC_INNER_PRODUCT)
    return _in_order(cosine.clamp(-1, 1), index, descending=True)


def _by_distance(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # faiss forms |q|² - 2<q, k> + |k|²: rows centred and of size about 1 lose least to rounding, and do not overflow.
    # What it then returns is still coarse for near keys, so the distances of those found are taken from differences.
    wide = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
    centre = keys.to(wide).mean(0)
    queries, keys = queries.to(wide) - centre, keys.to(wide) - centre
    size = torch.cat([queries, keys]).abs().amax() if keys.shape[1] else torch.zeros((), dtype=wide)
    size = size.where(size > 0, 1)
    queries, keys = queries / size, keys / size
    _, index = _search(queries, keys, k, faiss.METRIC_L2)
    step = max(1, TILE // max(1, k * keys.shape[1]))
    parts = zip(queries.split(step), index.split(step), strict=True)
    distances = [torch.linalg.vector_norm(rows[:, None] - keys[near], dim=2) for rows, near in parts]
    return _in_order((torch.cat(distances) * size).float(), index, descending=False)


def _search(queries: Tensor, keys: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    values, index = faiss.knn(_array(queries), _array(keys), k, metric=metric)
    return torch.from_numpy(values), torch.from_numpy(index)


def _array(x: Tensor) -> Any:
    return x.float().contiguous().numpy()


def _in_order(values: Tensor, index: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    by_number = index.argsort(1)
    values, index = values.gather(1, by_number), index.gather(1, by_number)
    values, order = values.sort(dim=1, descending=descending, stable=True)
    return values, index.gather(1, order)
