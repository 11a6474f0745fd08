"""Retrieval: what the nearest neighbours of each embedding are, over galleries of any size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.clusters import kmeans
from counterpoise.ops.neighbours import nearest_in_parts


class Retrieval(NamedTuple):
    """How well embeddings find their own class.

    Args:
        recall: Recall@k for each k: the share of queries with an item of their class among the k nearest.
        map_r: MAP@R: of each query with R items of its class in the gallery, the precision at the place of each of
            these among the R nearest, summed and divided by R; the mean over queries (Musgrave et al., "A Metric
            Learning Reality Check", ECCV 2020, arXiv 2003.08505, equation 4).
        r_precision: the share of a query's class among its R nearest; the mean over queries.
        alone: how many queries have nothing of their class to find; they count in none of the measures.
        seconds: how long the search and the measures took.
    """

    recall: dict[int, float]
    map_r: float
    r_precision: float
    alone: int
    seconds: float


def retrieval(
    queries: Float[Tensor, "queries dim"],
    labels: Int[Tensor, " queries"],
    gallery: Float[Tensor, "items dim"] | None = None,
    gallery_labels: Int[Tensor, " items"] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
) -> Retrieval:
    """Recall@k and MAP@R by cosine. Nothing of the size queries × items is formed.

    Args:
        queries: one row per query.
        labels: class of each query; -1 leaves it out.
        gallery: one row per item; without it, each query seeks among all other queries.
        gallery_labels: class of each item; one with -1 belongs to no query's class.
        ks: numbers of neighbours, each at least 1; one above the number of items counts as this.

    Raises:
        InputError: for shapes that do not go together, NaN, an empty gallery, or queries of which none has anything of
            its class to find.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]])
    >>> found = retrieval(rows, torch.tensor([0, 0, 1, 1]), ks=(1, 2))
    >>> found.recall, found.map_r, found.r_precision, found.alone
    ({1: 0.75, 2: 1.0}, 0.75, 0.75, 0)
    """
    start = time.perf_counter()
    for k in ks:
        check_number("ks", k, at_least=1)
    ks = sorted(set(ks))
    check_matrix("queries", queries)
    check_integers("labels", labels, rows=len(queries))
    among_themselves = gallery is None
    if gallery is None:
        gallery, gallery_labels = queries, labels
    if gallery_labels is None:
        raise InputError("gallery_labels: expected one for each item of the gallery, got none")
    check_matrix("gallery", gallery, at_least=0)
    check_integers("gallery_labels", gallery_labels, rows=len(gallery))
    if len(gallery) <= among_themselves:
        raise InputError("gallery: expected at least 1 item to find, got an empty one")
    labels, gallery_labels = labels.cpu(), gallery_labels.cpu()
    same = _of_class(labels, gallery_labels) - int(among_themselves)
    able = ((labels >= 0) & (same > 0)).nonzero().flatten()
    if not len(able):
        raise InputError(
            f"labels: none of the {int((labels >= 0).sum())} queries has another item of its class to find"
        )
    most = min(max(ks[-1], int(same[able].max())), len(gallery) - among_themselves)
    hits = dict.fromkeys(ks, 0)
    average = precision = 0.0
    for rows, index in nearest_in_parts(queries[able.to(queries.device)], gallery, most + among_themselves):
        own = able[rows]
        if among_themselves:
            index = _without(index, own)
        match = gallery_labels[index] == labels[own, None]
        r = same[own, None]
        within = match & (torch.arange(most) < r)
        precisions = match.cumsum(1) / torch.arange(1, most + 1, dtype=torch.float64)
        average += float(((within * precisions).sum(1) / r[:, 0]).sum())
        precision += float((within.sum(1).double() / r[:, 0]).sum())
        for k in ks:
            hits[k] += int(match[:, :k].any(1).sum())
    n = len(able)
    alone = int((labels >= 0).sum()) - n
    recall = {k: count / n for k, count in hits.items()}
    return Retrieval(recall, average / n, precision / n, alone, time.perf_counter() - start)


def _of_class(labels: Tensor, gallery_labels: Tensor) -> Int[Tensor, " queries"]:
    """How many items of the gallery have each query's class."""
    classes, place = torch.cat([labels, gallery_labels]).unique(return_inverse=True)
    return place[len(labels) :].bincount(minlength=len(classes))[place[: len(labels)]]


def _without(index: Int[Tensor, "n k"], own: Int[Tensor, " n"]) -> Tensor:
    """The neighbours but the query itself; where equal rows have pushed it out, without the last."""
    itself = index == own[:, None]
    itself[~itself.any(1), -1] = True
    return index[~itself].view(len(index), -1)


def clustering_nmi(features: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], seed: int = 0) -> float:
    """Normalised mutual information of the classes and of as many k-means clusters, from 0 to 1.

    Args:
        features: one row per sample; scaled to length 1 here.
        labels: class of each row; -1 leaves it out.
        seed: of the clusters' start.

    Raises:
        InputError: for other shapes, NaN, or no labelled row.

    >>> clustering_nmi(torch.eye(2).repeat(5, 1), torch.tensor([0, 1] * 5))
    1.0
    """
    check_matrix("features", features)
    check_integers("labels", labels, rows=len(features))
    kept = labels >= 0
    if not kept.any():
        raise InputError("labels: expected at least 1 row with a label, got none")
    rows = torch.nn.functional.normalize(features[kept].float(), dim=1)
    known = labels[kept].cpu()
    groups = kmeans(rows, len(known.unique()), seed=seed).labels.cpu()
    return float(normalized_mutual_info_score(known.numpy(), groups.numpy()))
