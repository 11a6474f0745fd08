"""Retrieval: Recall@k, MAP@R and R-precision by nearest neighbours, for galleries of any size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float64, Int64, Integer
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from counterpoise.errors import InputError, unknown
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_matrix, check_numbers, check_seed
from counterpoise.ops.clusters import LARGEST_SEED, kmeans
from counterpoise.ops.neighbours import Ranked, nearest_in_parts, ranked_in_parts

Ties = Literal["average", "rows"]


class Retrieval(NamedTuple):
    """Retrieval measures of embeddings.

    Attributes:
        recall: Recall@k for each k: the share of queries with an item of their class among the k nearest.
        map_r: MAP@R: for a query with R items of its class in the gallery, the sum over its hits among the R nearest of
            the precision at each hit's rank, divided by R; averaged over queries (Musgrave et al., "A Metric Learning
            Reality Check", ECCV 2020, arXiv 2003.08505, equation 4).
        r_precision: the share of a query's class among its R nearest, averaged over queries.
        alone: number of queries without items of their class in the gallery; no measure includes them.
        seconds: duration of the search and the measures.
    """

    recall: dict[int, float]
    map_r: float
    r_precision: float
    alone: int
    seconds: float


def retrieval(
    queries: Float[Tensor, "queries dim"],
    labels: Integer[Tensor, " queries"],
    gallery: Float[Tensor, "items dim"] | None = None,
    gallery_labels: Integer[Tensor, " items"] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    ties: Ties | None = None,
) -> Retrieval:
    """Recall@k and MAP@R by cosine, without forming the queries × items matrix.

    Items that are equally near to a query (ties) have no order. A plain implementation ranks them by row index. If rows
    are sorted by class, identical embeddings would then score better than random ones. The mean over all orders of the
    ties is exact, and independent of the order of the rows.

    Args:
        queries: one row per query.
        labels: class of each query; queries with -1 are left out.
        gallery: one row per item; without it, each query searches all other queries.
        gallery_labels: class of each item; items with -1 match no query.
        ks: numbers of neighbours, each at least 1; numbers above that of the items count as that of the items.
        ties: "average" takes the mean over all orders of ties, "rows" ranks ties by row index. The default is "average"
            if rows are sorted by class (neighbouring rows change class at least a quarter less often than in a random
            order), else "rows", since their order is then random.

    Raises:
        InputError: for shapes that do not match, NaN, labels below -1, invalid `ks` or `ties`, an empty gallery, or
            if no query has an item of its class in the gallery.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.4]])
        >>> found = retrieval(rows, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
        >>> found.recall, found.map_r, found.r_precision, found.alone
        ({1: 0.75, 2: 0.75}, 0.75, 0.75, 0)
        >>> round(retrieval(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), ks=(1,)).recall[1], 4)  # 1 of 3 equally near
        0.3333
    """
    start = time.perf_counter()
    found = retrieval_each(queries, labels, gallery, gallery_labels, ks, ties)
    return found.means()._replace(seconds=time.perf_counter() - start)


class RetrievalEach(NamedTuple):
    """As `Retrieval`, of each query.

    Attributes:
        able: numbers of the queries with an item of their class to find; the others are left out.
        recall: for each k of each of those 1, 0, or between them the share of the orders of ties in which it finds one.
        map_r: of each of those.
        r_precision: of each of those.
        alone: as in `Retrieval`.
        totals: the sums over them of `map_r`, `r_precision` and each `recall`.
    """

    able: Int64[Tensor, " able"]
    recall: dict[int, Float64[Tensor, " able"]]
    map_r: Float64[Tensor, " able"]
    r_precision: Float64[Tensor, " able"]
    alone: int
    totals: Float64[Tensor, " measures"]

    def means(self) -> Retrieval:
        """The measures, each the mean over the queries."""
        map_r, r_precision, *recall = (self.totals / len(self.able)).tolist()
        return Retrieval(dict(zip(self.recall, recall, strict=True)), map_r, r_precision, self.alone, 0.0)


def retrieval_each(
    queries: Float[Tensor, "queries dim"],
    labels: Integer[Tensor, " queries"],
    gallery: Float[Tensor, "items dim"] | None = None,
    gallery_labels: Integer[Tensor, " items"] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    ties: Ties | None = None,
) -> RetrievalEach:
    """As `retrieval`, of each query by itself.

    Args:
        queries: one row per query.
        labels: as in `retrieval`; so are the others.
        gallery: one row per item.
        gallery_labels: class of each item.
        ks: numbers of neighbours.
        ties: what to do with items that are equally near.

    Raises:
        InputError: as in `retrieval`.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.4]])
        >>> retrieval_each(rows, torch.tensor([0, 0, 1, 1]), ks=(1,)).recall[1]
        tensor([1., 1., 1., 0.], dtype=torch.float64)
    """
    ks = sorted(set(check_numbers("ks", ks, at_least=1, whole=True)))
    if ties is not None and ties not in get_args(Ties):
        raise unknown("ties", ties, get_args(Ties))
    check_matrix("queries", queries)
    labels = known_classes("labels", labels, len(queries)).cpu()
    among_themselves = gallery is None
    gallery, gallery_labels = _gallery(queries, labels) if gallery is None else _gallery(gallery, gallery_labels)
    if len(gallery) <= among_themselves:
        raise InputError("gallery: expected at least 1 item to find, got an empty one")
    same = _of_class(labels, gallery_labels) - int(among_themselves)
    able = ((labels >= 0) & (same > 0)).nonzero().flatten()
    if not len(able):
        raise InputError(
            f"labels: none of the {int((labels >= 0).sum())} queries has another item of its class to find"
        )
    most = min(max(ks[-1], int(same[able].max())), len(gallery) - among_themselves)
    average = (ties or ("average" if _class_by_class(gallery_labels) else "rows")) == "average"
    totals, terms = torch.zeros(len(ks) + 2, dtype=torch.float64), torch.zeros(len(ks) + 2, len(able)).double()
    search = ranked_in_parts if average else _by_row_number
    for found in search(queries[able.to(queries.device)], gallery, most + among_themselves):
        own = able[found.rows]
        places = _Places.of(found, labels[own], gallery_labels, own if among_themselves else None)
        expected = _expected(places, same[own], ks)
        totals += torch.tensor([float(part.sum()) for part in expected], dtype=torch.float64)
        terms[:, found.rows] = torch.stack(expected)
    map_r, r_precision, *recall = terms
    alone = int((labels >= 0).sum()) - len(able)
    return RetrievalEach(able, dict(zip(ks, recall, strict=True)), map_r, r_precision, alone, totals)


def _gallery(gallery: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    if labels is None:
        raise InputError("gallery_labels: expected one for each item of the gallery, got none")
    check_matrix("gallery", gallery, at_least=0)
    return gallery, known_classes("gallery_labels", labels, len(gallery)).cpu()


def _of_class(labels: Tensor, gallery_labels: Tensor) -> Integer[Tensor, " queries"]:
    """The number of gallery items of each query's class."""
    classes, place = torch.cat([labels, gallery_labels]).unique(return_inverse=True)
    return place[len(labels) :].bincount(minlength=len(classes))[place[: len(labels)]]


def _class_by_class(labels: Tensor) -> bool:
    """Whether rows are sorted by class: at least a quarter fewer runs of one class than in a random order."""
    counts = labels.unique(return_counts=True)[1].double()
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    return runs <= 0.75 * (1 + len(labels) - float(counts.square().sum()) / len(labels))


def _by_row_number(queries: Tensor, gallery: Tensor, k: int) -> Iterator[Ranked]:
    for rows, index in nearest_in_parts(queries, gallery, k):
        group = torch.arange(k).expand(len(rows), k)
        yield Ranked(rows, torch.zeros(group.shape), index, group, None)


class _Places(NamedTuple):
    """The items that share each rank of a query, since they are equally near."""

    before: Int64[Tensor, "n k"]  # nearer items
    hits: Int64[Tensor, "n k"]  # those of the query's class among them
    tied: Int64[Tensor, "n k"]  # tied items
    right: Int64[Tensor, "n k"]  # those of the query's class among them

    @classmethod
    def of(cls, found: Ranked, labels: Tensor, gallery_labels: Tensor, own: Tensor | None) -> _Places:
        """Places from the neighbours of queries; `own` are the queries' rows in the gallery, if they have any."""
        group, index = (found.group, found.numbers) if own is None else _without(found.group, found.numbers, own)
        n, length = group.shape
        place = torch.arange(length)
        starts = torch.cat([torch.ones(n, 1, dtype=torch.bool), group[:, 1:] != group[:, :-1]], 1)
        before = place.where(starts, 0).cummax(1).values
        # From the end, the next start is the running minimum.
        nexts = torch.cat([place.where(starts, length)[:, 1:], torch.full((n, 1), length)], 1)
        after = nexts.flip(1).cummin(1).values.flip(1)
        match = gallery_labels[index] == labels[:, None]
        hits = torch.cat([torch.zeros(n, 1, dtype=torch.int64), match.cumsum(1)], 1)
        hits_before = hits.gather(1, before)
        tied, right = after - before, hits.gather(1, after) - hits_before
        if found.edge is not None:
            edge = found.edge if own is None else found.edge.scatter(1, own[:, None], False)
            there = group == found.group[:, -1:]
            tied = edge.sum(1, keepdim=True).where(there, tied)
            right = (edge & (gallery_labels == labels[:, None])).sum(1, keepdim=True).where(there, right)
        return cls(before, hits_before, tied, right)


def _without(group: Tensor, index: Integer[Tensor, "n k"], own: Integer[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """The neighbours without the query itself; if equal rows took its place, without the last one."""
    itself = index == own[:, None]
    itself[~itself.any(1), -1] = True
    return group[~itself].view(len(index), -1), index[~itself].view(len(index), -1)


def _expected(places: _Places, r: Integer[Tensor, " n"], ks: Sequence[int]) -> list[Float64[Tensor, " n"]]:
    r"""Each query's MAP@R, R-precision and Recall@k, each the mean over all orders within ties.

    Let t items be tied, m of them of the query's class, after P nearer items with H of its class. The item at each of
    their ranks i is of the class with probability $m/t$. If it is, the $i - P - 1$ tied items before it contain
    $(i - P - 1) \frac{m-1}{t-1}$ of the class on average. None of the first a ties is of the class with probability
    $\binom{t-m}{a} / \binom{t}{a}$.

    Args:
        places: ties that reach beyond the last rank are counted in full.
        r: number of items of the query's class.
        ks: numbers of neighbours.
    """
    before, hits, tied, right = places
    place = torch.arange(before.shape[1])
    chance = (right.double() / tied) * (place < r[:, None])
    found = hits + 1 + (place - before) * (right - 1) / (tied - 1).clamp(min=1).double()
    terms = [part.sum(1) / r for part in (chance * (found / (place + 1)), chance)]
    for k in ks:
        at = min(k, len(place)) - 1
        none = _chance_of_none(tied[:, at], right[:, at], at + 1 - before[:, at])
        terms.append(torch.where(hits[:, at] > 0, 1, 1 - none))
    return terms


def _chance_of_none(tied: Tensor, right: Tensor, drawn: Tensor) -> Float64[Tensor, " n"]:
    """The probability that none of `drawn` tied items is of the query's class."""
    wrong = tied - right
    a, b, c, d = (torch.lgamma(x.double() + 1) for x in (wrong, (wrong - drawn).clamp(min=0), tied, tied - drawn))
    return (a - b - c + d).exp() * (wrong >= drawn)


def clustering_nmi(features: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"], seed: int = 0) -> float:
    """Normalised mutual information of the classes and as many k-means clusters, from 0 to 1.

    Args:
        features: one row per sample; normalised here.
        labels: class of each row; rows with -1 are left out.
        seed: seed of the initial clusters, below 2³¹.

    Raises:
        InputError: for wrong shapes, NaN, no labelled row, or a seed out of range.

    Examples:
        >>> clustering_nmi(torch.eye(2).repeat(5, 1), torch.tensor([0, 1] * 5))
        1.0
    """
    check_seed(seed, most=LARGEST_SEED)
    check_matrix("features", features)
    labels = known_classes("labels", labels, len(features))
    kept = labels >= 0
    if not kept.any():
        raise InputError("labels: expected at least 1 row with a label, got none")
    rows = torch.nn.functional.normalize(features[kept].float(), dim=1)
    known = labels[kept].cpu()
    groups = kmeans(rows, len(known.unique()), seed=seed).labels.cpu()
    return float(normalized_mutual_info_score(known.numpy(), groups.numpy()))
