"""Exact nearest neighbours through faiss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import faiss
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_matrix, check_number, check_same_columns
from counterpoise.ops.similarity import normalize_rows

METRICS = ("cosine", "euclidean")
# Numbers of the differences between queries and neighbours that are computed at once: 64 MB in float32.
TILE = 1 << 24
PART = 1 << 20  # neighbours found at once: 12 MB
TIE = 2.0**-21  # largest difference of the cosines of equal rows, due to the order of summation


def nearest(
    queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], k: int, metric: str = "cosine"
) -> tuple[Float32[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """The `k` nearest keys of each query, nearest first; equally near keys are ordered by index.

    Exact search of every query against every key (faiss, in blocks: no n × m matrix), in float32, on the CPU, without a
    gradient. Keys whose squared distances differ by less than the float32 resolution, about 1e-6 of the keys' squared
    spread, may be swapped at the edge of the k nearest.

    Args:
        queries: one row per query; a query that is also a key finds itself.
        keys: one row per candidate.
        k: from 1 to the number of keys.
        metric: "cosine" (a row of zeros has cosine 0 with all others) or "euclidean".

    Returns:
        Cosines or Euclidean distances, and the indices of the keys, on the device of `queries`.

    Raises:
        InputError: for wrong shapes, NaN, no keys, an unknown metric, or `k` out of range.

    Examples:
        >>> values, index = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 4.0], [5.0, 0.0]]), k=2)
        >>> values, index
        (tensor([[1.0000, 0.6000]]), tensor([[2, 1]]))
    """
    _check(queries, keys, k)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    device = queries.device
    queries, keys = queries.detach().cpu(), keys.detach().cpu()
    if metric == "cosine":
        values, index = _by_cosine(normalize_rows(queries), normalize_rows(keys), k)
    else:
        values, index = _by_distance(queries, keys, k)
    return values.to(device), index.to(device)


def nearest_in_parts(
    queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], k: int
) -> Iterator[tuple[Int64[Tensor, " part"], Int64[Tensor, "part k"]]]:
    """`nearest` by cosine in parts, on the CPU, for more neighbours than fit in memory.

    Args:
        queries: one row per query.
        keys: one row per candidate; copied to the CPU once.
        k: from 1 to the number of keys.

    Yields:
        Indices of some queries, and the indices of their neighbours.

    Raises:
        InputError: as `nearest`.

    Examples:
        >>> x = torch.eye(3)
        >>> [(rows.tolist(), index.tolist()) for rows, index in nearest_in_parts(x, x, 1)]
        [([0, 1, 2], [[0], [1], [2]])]
    """
    _check(queries, keys, k)
    keys = normalize_rows(keys.detach().cpu())
    for rows in torch.arange(len(queries)).split(max(1, PART // k)):
        some = normalize_rows(queries.detach()[rows.to(queries.device)].cpu())
        yield rows, _by_cosine(some, keys, k)[1]


class Ranked(NamedTuple):
    """The nearest keys of some queries, with ties.

    Attributes:
        rows: indices of the queries.
        cosine: cosines of each query's `k` nearest keys, nearest first.
        numbers: indices of these keys; equally near ones in any order.
        group: index of each key's cosine among the query's different cosines: keys of one group are equally near.
        edge: whether each of all keys is as near as the k-th; `None` if all such keys are among the `k`.
    """

    rows: Int64[Tensor, " part"]
    cosine: Float32[Tensor, "part k"]
    numbers: Int64[Tensor, "part k"]
    group: Int64[Tensor, "part k"]
    edge: Bool[Tensor, "part keys"] | None


def ranked_in_parts(queries: Float[Tensor, "n dim"], keys: Float[Tensor, "m dim"], k: int) -> Iterator[Ranked]:
    """`nearest_in_parts` with ties, for measures that treat equally near keys alike.

    Keys are equally near to a query if their cosines are equal in float32. Rounding may separate the cosines of equal
    rows, so that differences up to 2⁻²¹ count as equal if the keys contain equal rows.

    Args:
        queries: one row per query.
        keys: one row per candidate; copied to the CPU once.
        k: from 1 to the number of keys.

    Yields:
        The neighbours of some queries, on the CPU; queries with an edge come in parts of their own.

    Raises:
        InputError: as `nearest`.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> [(found.rows.tolist(), found.edge) for found in ranked_in_parts(x, x, 1)]
        [([0], None), ([1, 2], tensor([[False,  True,  True],
                [False,  True,  True]]))]
    """
    _check(queries, keys, k)
    keys = normalize_rows(keys.detach().cpu()).float()
    tie = TIE if _has_equal_rows(keys) else 0.0
    for rows in torch.arange(len(queries)).split(max(1, PART // k)):
        some = normalize_rows(queries.detach()[rows.to(queries.device)].cpu()).float()
        cosine, index = _by_cosine(some, keys, min(k + 1, len(keys)))
        group = _groups(cosine, tie)
        cut = group[:, k - 1] == group[:, -1] if k < len(keys) else torch.zeros(len(rows), dtype=torch.bool)
        if not cut.all():
            yield Ranked(rows[~cut], cosine[~cut, :k], index[~cut, :k], group[~cut, :k], None)
        if cut.any():
            for part in cut.nonzero().flatten().split(max(1, PART // len(keys))):
                yield Ranked(rows[part], *_with_edge(some[part] @ keys.T, k, tie))


def _with_edge(scores: Tensor, k: int, tie: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cosine, index = scores.clamp_(-1, 1).topk(k)
    group = _groups(cosine, tie)
    first = cosine.where(group == group[:, -1:], -torch.inf).amax(1, keepdim=True)
    return cosine, index, group, (scores >= cosine[:, -1:] - tie) & (scores <= first)


def _groups(cosine: Float[Tensor, "n k"], tie: float) -> Int64[Tensor, "n k"]:
    """The index of each entry among the different cosines of its row, which are in descending order."""
    apart = cosine[:, :-1] - cosine[:, 1:] > tie
    return torch.cat([torch.zeros(len(cosine), 1, dtype=torch.int64), apart.cumsum(1)], 1)


def _has_equal_rows(x: Float32[Tensor, "n dim"]) -> bool:
    """Whether two rows are equal, by a hash of their bits in wrapping integer arithmetic, which is exact."""
    factors = torch.randint(1 << 62, x.shape[1:], generator=torch.Generator().manual_seed(0))
    parts = (x + 0.0).split(max(1, TILE // max(1, x.shape[1])))  # -0 becomes 0
    codes = torch.cat([(part.contiguous().view(torch.int32).long() * factors).sum(1) for part in parts])
    return len(codes.unique()) < len(x)


def _check(queries: Tensor, keys: Tensor, k: int) -> None:
    check_matrix("queries", queries, at_least=0)
    check_matrix("keys", keys)
    check_same_columns(queries=queries, keys=keys)
    check_number("k", k, whole=True)
    if not 1 <= k <= len(keys):
        raise InputError(f"k: expected a number from 1 to the {len(keys)} keys, got {k}")


def _by_cosine(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Nearest normalised rows."""
    cosine, index = _search(queries, keys, k, faiss.METRIC_INNER_PRODUCT)
    return _in_order(cosine.clamp(-1, 1), index, descending=True)


def _by_distance(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # faiss computes |q|² - 2<q, k> + |k|²: centred rows of size about 1 lose least to rounding and cannot overflow.
    # Its distances of near keys are still coarse, so those of the keys found are recomputed from differences.
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
    values, index = faiss.knn(_array(queries), _array(keys), int(k), metric=metric)
    return torch.from_numpy(values), torch.from_numpy(index)


def _array(x: Tensor) -> Any:
    return x.float().contiguous().numpy()


def _in_order(values: Tensor, index: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    by_number = index.argsort(1)
    values, index = values.gather(1, by_number), index.gather(1, by_number)
    values, order = values.sort(dim=1, descending=descending, stable=True)
    return values, index.gather(1, order)
