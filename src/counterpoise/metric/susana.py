r"""Proto-Triplet and ICNN: two losses on the distances within an episode, and the score that the second is made of.

Mendez-Ruiz, Gonzalez-Zapata, Reyes-Amezcua, Flores-Araiza, Lopez-Tiro, Mendez-Vazquez, Ochoa-Ruiz, "SuSana Distancia is
all you need: Enforcing class separability in metric learning via two novel distance-based loss functions for few-shot
image classification", 2023, arXiv 2305.09062; in the form of its authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Labels
from counterpoise.metric.protonet import ProtoNet, prototypes
from counterpoise.nets import embed
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number, check_same_shape
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather

SOFTENING = 1e-3  # a distance d is taken as sqrt(d² + 1e-6), whose gradient is finite at 0
EPS = 1e-7  # in every division of the score
QUALITY_EPS = 1e-6  # of the older score
TERMS = ("cross-entropy", "proto-triplet", "icnn", "icnn-support", "icnn-query", "icnn-prototypes")
WAYS, QUERIES, EPISODES = 5, 15, 300  # of the diagnostics


def distances(rows: Float[Tensor, "n dim"], others: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Euclidean distances, in float32 at least, from differences: rows that are near each other lose no digits.

    Raises:
        InputError: for rows of different lengths, or NaN.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    check_matrix("rows", rows, at_least=0)
    check_matrix("others", others, at_least=0)
    if rows.shape[1] != others.shape[1]:
        raise InputError(f"others: expected {rows.shape[1]} columns, as rows, got {others.shape[1]}")
    wide = torch.promote_types(torch.promote_types(rows.dtype, others.dtype), torch.float32)
    return torch.cdist(rows.to(wide), others.to(wide), compute_mode="donot_use_mm_for_euclid_dist")


def soften(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """sqrt(d² + 1e-6), without squares that could overflow.

    >>> soften(torch.tensor([0.0, 3.0]))
    tensor([1.0000e-03, 3.0000e+00])
    """
    check_finite("distance", distance)
    return torch.hypot(distance, torch.full_like(distance, SOFTENING))


def proto_triplet(
    queries: Float[Tensor, "queries dim"],
    targets: Int[Tensor, " queries"],
    prototypes: Float[Tensor, "classes dim"],
    margin: float = 0.5,
) -> Float[Tensor, " queries"]:
    r"""How much a query fails to be nearer to its prototype than to the nearest other one by a margin.

    $\max(0, d(q, p_y) - \min_{c \ne y} d(q, p_c) + m)$ for each query.

    Args:
        queries: one row per query.
        targets: which prototype is its own, from 0.
        prototypes: one row per class, of at least 2.
        margin: m, at least 0.

    Raises:
        InputError: for other shapes, NaN, a target without a prototype, or a prototype without another, of which all
            is 0.

    >>> proto_triplet(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), torch.tensor([[0.0], [2.0]]))
    tensor([0.0000, 0.5000])
    """
    check_matrix("queries", queries)
    check_matrix("prototypes", prototypes, at_least=2)
    if queries.shape[1] != prototypes.shape[1]:
        raise InputError(f"prototypes: expected {queries.shape[1]} columns, as queries, got {prototypes.shape[1]}")
    targets = check_integers("targets", targets, rows=len(queries), low=0, high=len(prototypes))
    check_number("margin", margin, at_least=0)
    apart = soften(distances(queries, prototypes))
    own = torch.arange(len(prototypes), device=targets.device) == targets[:, None]
    other = apart.masked_fill(own, torch.inf).amin(1)
    return (apart.gather(1, targets[:, None])[:, 0] - other + margin).clamp(min=0)


class ICNN(NamedTuple):
    """The inter- and intra-class nearest neighbours score, and its parts; each from 0 to 1, and better when larger.

    Args:
        intra: 1 less how far neighbours of the same class are, in units of the nearest of another class.
        inter: how far neighbours of other classes are, in units of the farthest of them.
        gamma: the share of the k neighbours that are of the same class; no gradient flows through it.
    """

    intra: Float[Tensor, ""]
    inter: Float[Tensor, ""]
    gamma: Float[Tensor, ""]

    @property
    def score(self) -> Float[Tensor, ""]:
        """Half the mean of `intra` and `inter`, and half `gamma`."""
        return ((self.intra + self.inter) / 2 + self.gamma) / 2


def icnn_of_neighbours(distance: Float[Tensor, "n reach"], same: Bool[Tensor, "n reach"], k: int) -> ICNN:
    """The score of what is known of each row's neighbours.

    Args:
        distance: to the neighbours of each row, nearest first, above 0.
        same: whether a neighbour is of the row's class.
        k: how many neighbours are judged, at least 1; those beyond only tell how near the nearest of another class is.

    Raises:
        InputError: for different shapes, NaN, distances that are not above 0, or k out of range.

    >>> found = icnn_of_neighbours(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False]]), k=2)
    >>> [round(float(x), 3) for x in (*found, found.score)]
    [0.5, 1.0, 0.5, 0.625]
    """
    check_matrix("distance", distance)
    check_same_shape(distance=distance, same=same)
    check_number("k", k, at_least=1, whole=True)
    if distance.min() <= 0:
        raise InputError(f"distance: expected numbers above 0, got {float(distance.min()):g}")
    nearest_other = distance.masked_fill(same, torch.inf).amin(1, keepdim=True)
    distance, same = distance[:, :k], same[:, :k]
    ratio = distance / (nearest_other + EPS)
    largest = ratio.amax(1, keepdim=True)
    intra = 1 - _mean_of_means(ratio / largest.where(largest > 1, 1), same)
    if same.all():
        inter = torch.ones_like(intra)
    else:
        inter = _mean_of_means(distance / (distance.masked_fill(same, 0).amax() + EPS), ~same)
    return ICNN(intra, inter, same.sum().to(distance.dtype) / (k * len(same)))


def _mean_of_means(values: Float[Tensor, "n k"], chosen: Bool[Tensor, "n k"]) -> Float[Tensor, ""]:
    """The mean over the rows that have a chosen value, of the mean of these."""
    counts = chosen.sum(1).to(values.dtype)
    means = values.masked_fill(~chosen, 0).sum(1) / (counts + EPS)
    return means.sum() / (counts.count_nonzero().to(values.dtype) + EPS)


def icnn(
    rows: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    gallery: Float[Tensor, "m dim"] | None = None,
    gallery_labels: Int[Tensor, " m"] | None = None,
    k: int = 4,
    reach: int | None = None,
    drop_nearest: bool = True,
) -> ICNN:
    """The score of an episode's rows among themselves or among the rows of a gallery, with its gradient.

    Of m rows in the gallery, at most m - 2 are judged; where that many are, there is no telling how pure they are, and
    `gamma` is 1.

    Args:
        rows: one row per sample.
        labels: class of each, from 0.
        gallery: where neighbours are sought; without it, among all other rows.
        gallery_labels: class of each, from 0.
        k: how many neighbours are judged, at least 1.
        reach: among how many neighbours the nearest of another class is sought; at least 1; k + 1 by
            default.
        drop_nearest: leave out the nearest of a gallery, as the authors' code does there, too.

    Raises:
        InputError: for other shapes, NaN, numbers out of range, fewer than 3 rows to seek among, or a gallery without
            labels.

    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> round(icnn(rows, torch.tensor([0, 0, 1, 1])).score.item(), 3)
    0.961
    """
    check_matrix("rows", rows)
    labels = check_integers("labels", labels, rows=len(rows), low=0)
    check_number("k", k, at_least=1, whole=True)
    itself = gallery is None
    if gallery is None:
        gallery, gallery_labels = rows, labels
    if gallery_labels is None:
        raise InputError("gallery_labels: expected one for each row of the gallery, got none")
    check_matrix("gallery", gallery, at_least=0)
    gallery_labels = check_integers("gallery_labels", gallery_labels, rows=len(gallery), low=0)
    m = len(gallery)
    if m < 3:
        raise InputError(f"embeddings: expected at least 3 rows to seek neighbours among, got {m}")
    reach = min(k, m - 2) + 1 if reach is None else reach
    check_number("reach", reach, at_least=1, whole=True)
    apart = distances(rows, gallery)
    if itself:
        apart = apart.masked_fill(torch.eye(m, dtype=torch.bool, device=apart.device), torch.inf)
    skipped = int(drop_nearest and not itself)
    near, index = apart.topk(min(reach, m - itself - skipped) + skipped, largest=False)
    return _of_m(soften(near[:, skipped:]), gallery_labels[index[:, skipped:]] == labels[:, None], k, m)


def _of_m(distance: Float[Tensor, "n reach"], same: Bool[Tensor, "n reach"], k: int, m: int) -> ICNN:
    """`icnn_of_neighbours` where m rows were sought among: at most m - 2 are judged, and then `gamma` is 1."""
    found = icnn_of_neighbours(distance, same, min(k, m - 2))
    return found if k + 2 < m else found._replace(gamma=torch.ones_like(found.gamma))


def icnn_score(embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int = 4) -> ICNN:
    """The score of a whole set of embeddings, of any size: the same as `icnn`'s, in float64, without a gradient.

    Args:
        embeddings: one row per sample; not normalised here.
        labels: class of each; -1 leaves it out.
        k: how many neighbours are judged, at least 1.

    Raises:
        InputError: for other shapes, NaN, or fewer than 3 labelled rows.

    >>> rows = torch.cat([torch.zeros(5, 2), torch.ones(5, 2)])
    >>> round(icnn_score(rows, torch.arange(10) // 5).score.item(), 3)
    1.0
    """
    embeddings, labels = _labelled(embeddings, labels, k, at_least=3)
    n = len(labels)
    return _of_m(*_neighbours(embeddings, labels, min(k, n - 2) + 1), k, n)


def icnn_quality(embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int = 5) -> Float[Tensor, ""]:
    r"""The older score, of the same authors' earlier paper (arXiv 2107.06992), for reports.

    With $\delta_{ij}$ the distances to row i's neighbours, brought to [0, 1] row by row, and $\lambda_i$ the sum of
    $1 - \delta_{ij}$ over those of the same class and of $\delta_{ij}$ over the others: the mean over the rows of
    $\frac12 \sqrt{\lambda_i / \max \lambda}$ and $\frac12 \sqrt{\text{share of the same class}}$.

    Args:
        embeddings: one row per sample; not normalised here.
        labels: class of each; -1 leaves it out.
        k: how many neighbours are judged, at least 1.

    Raises:
        InputError: for other shapes, NaN, or fewer than k + 1 labelled rows.

    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> round(icnn_quality(rows, torch.tensor([0, 0, 1, 1]), k=2).item(), 3)
    0.854
    """
    check_number("k", k, at_least=1, whole=True)
    distance, same = _neighbours(*_labelled(embeddings, labels, k, at_least=k + 1), k)
    low, high = distance.amin(1, keepdim=True), distance.amax(1, keepdim=True)
    scaled = (distance - low) / (high - low + QUALITY_EPS)
    found = torch.where(same, 1 - scaled, scaled).sum(1)
    return ((found / (found.max() + QUALITY_EPS)).sqrt().mean() + same.double().mean(1).sqrt().mean()) / 2


def _labelled(embeddings: Tensor, labels: Tensor, k: int, at_least: int) -> tuple[Tensor, Tensor]:
    """The rows that have a label, and their labels."""
    check_number("k", k, at_least=1, whole=True)
    check_matrix("embeddings", embeddings)
    labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
    kept = labels >= 0
    if kept.sum() < at_least:
        raise InputError(f"labels: expected at least {at_least} rows with a label, got {int(kept.sum())}")
    return embeddings[kept], labels[kept]


def _neighbours(embeddings: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to the nearest others of each row, and whether they are of its class."""
    n = len(labels)
    distance, index = nearest(embeddings, embeddings, count + 1, metric="euclidean")
    itself = index == torch.arange(n, device=index.device)[:, None]
    itself[~itself.any(1), -1] = True  # equal rows have pushed it out
    distance, index = distance[~itself].view(n, count), index[~itself].view(n, count)
    return soften(distance.double()), labels[index] == labels[:, None]


class ProtoTripletLoss(nn.Module):
    """The mean of `proto_triplet` over the queries of an episode: `loss(queries, targets, prototypes)`.

    Args:
        margin: at least 0.

    >>> rows = torch.tensor([[0.0], [1.0]])
    >>> ProtoTripletLoss()(rows, torch.tensor([0, 0]), torch.tensor([[0.0], [2.0]]))
    tensor(0.2500)
    """

    def __init__(self, margin: float = 0.5):
        super().__init__()
        check_number("margin", margin, at_least=0)
        self.margin = margin

    def forward(
        self,
        queries: Float[Tensor, "queries dim"],
        targets: Int[Tensor, " queries"],
        prototypes: Float[Tensor, "classes dim"],
    ) -> Float[Tensor, ""]:
        """The loss of the queries of all processes.

        Args:
            queries: one row per query; not normalised here.
            targets: which prototype is its own, from 0.
            prototypes: one row per class (see `protonet.prototypes`), the same in all processes.

        Raises:
            InputError: as `proto_triplet`.
        """
        return gather(proto_triplet(queries, targets, prototypes, self.margin)).mean()


class ICNNLoss(nn.Module):
    """Minus the log of `icnn` of all rows of an episode, examples and queries: `loss(embeddings, labels)`.

    The nearest of another class is sought among as many neighbours as the largest class has rows.

    Args:
        k: how many neighbours are judged, at least 1.

    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> round(ICNNLoss()(rows, torch.tensor([0, 0, 1, 1])).item(), 3)
    0.04
    """

    def __init__(self, k: int = 4):
        super().__init__()
        check_number("k", k, at_least=1, whole=True)
        self.k = k

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch of all processes.

        Args:
            embeddings: one row per image; not normalised here.
            labels: class of each, of any integer type; -1 leaves a row out.

        Raises:
            InputError: for other shapes, labels below -1, NaN, fewer than 3 labelled rows, or rows of one class alone,
                whose loss is 0.
        """
        check_matrix("embeddings", embeddings)
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
        embeddings, labels = gather(embeddings), gather(labels)
        embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
        if len(labels.unique()) == 1:
            raise InputError(f"labels: expected at least 2 classes in the batch, got {len(labels)} rows of one")
        return -icnn(embeddings, labels, k=self.k, reach=largest_class(labels)).score.log()


def largest_class(labels: Int[Tensor, " n"]) -> int:
    """How many rows the largest class has.

    Raises:
        InputError: for no row, or labels that are no integers.

    >>> largest_class(torch.tensor([7, -2, 7]))
    2
    """
    labels = check_integers("labels", labels, rows=len(labels))
    if not len(labels):
        raise InputError("labels: expected at least 1, got none")
    return int(labels.unique(return_counts=True)[1].max())


class Episode(NamedTuple):
    """A batch as an episode: its classes, counted from 0 in the order of their labels, with examples and queries."""

    support: Float[Tensor, "examples dim"]
    support_labels: Int[Tensor, " examples"]
    queries: Float[Tensor, "queries dim"]
    targets: Int[Tensor, " queries"]

    @classmethod
    def of(cls, embeddings: Float[Tensor, "batch dim"], labels: Labels, shots: int) -> Episode:
        """The first `shots` rows of each class are examples, its other rows queries.

        Raises:
            InputError: where there is no query.
        """
        _, own = labels.unique(return_inverse=True)
        is_query = (own[:, None] == own).tril(-1).sum(1) >= shots
        if not is_query.any():
            raise InputError(f"labels: expected a class with more than {shots} rows in the batch, got none")
        return cls(embeddings[~is_query], own[~is_query], embeddings[is_query], own[is_query])

    @property
    def ways(self) -> int:
        """How many classes there are."""
        return int(self.support_labels.max()) + 1

    @property
    def prototypes(self) -> Float[Tensor, "ways dim"]:
        """The mean of each class's examples."""
        return prototypes(self.support, self.support_labels, self.ways)


class SuSana(ProtoNet):
    """Prototypical networks with Proto-Triplet and ICNN losses: the mean of the terms that are named.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        terms: of "cross-entropy" (prototypical networks), "proto-triplet", "icnn" (examples and queries together),
            "icnn-support" (examples), "icnn-query" (queries among examples), "icnn-prototypes" (queries among means).
        margin: of Proto-Triplet, at least 0.
        k: how many neighbours ICNN judges, at least 1.
        drop_nearest: leave out a query's nearest example or prototype in ICNN, as the authors' code does.
        **recipe: arguments of `ProtoNet`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        terms: Sequence[str] = ("cross-entropy", "proto-triplet", "icnn"),
        margin: float = 0.5,
        k: int = 4,
        drop_nearest: bool = True,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, **recipe)
        for name in terms:
            if name not in TERMS:
                raise unknown("term", name, TERMS)
        if len(set(terms)) != len(terms) or not terms:
            raise InputError(f"terms: expected one or more, each once, got {list(terms)}")
        check_number("margin", margin, at_least=0)
        check_number("k", k, at_least=1, whole=True)
        self.terms, self.margin, self.k, self.drop_nearest = tuple(terms), margin, k, drop_nearest

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The mean of the terms of the batch as an episode."""
        return torch.stack([self.term(name, embeddings, labels) for name in self.terms]).mean()

    def term(self, name: str, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """One of `TERMS`."""
        if name == "cross-entropy":
            return self.objective.of_all(embeddings, labels)
        part = Episode.of(embeddings, labels, self.objective.shots)
        if name == "proto-triplet":
            return proto_triplet(part.queries, part.targets, part.prototypes, self.margin).mean()
        if name == "icnn":
            found = icnn(embeddings, labels, k=self.k, reach=largest_class(labels))
        elif name == "icnn-support":
            found = icnn(part.support, part.support_labels, k=self.k)
        else:
            among = (part.support, part.support_labels)
            if name == "icnn-prototypes":
                among = (part.prototypes, torch.arange(part.ways, device=labels.device))
            found = icnn(part.queries, part.targets, *among, k=self.k, drop_nearest=self.drop_nearest)
        return -found.score.log()

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """How the images that are judged lie, by the distances that were trained.

        Returns:
            `icnn`: the mean `icnn` score over episodes of 5 classes. `nearest_prototype`: the accuracy of the nearest
            prototype in them. `icnn_rank`: Spearman's correlation of the two over the episodes; without it, if the
            accuracy is the same in all. `icnn_set`: the score of all images together. Nothing where fewer than 2
            classes have an image beyond their examples.
        """
        embeddings = torch.cat([embed(self.encoder, part, to_float) for part in (probe, test)])
        labels = torch.cat([probe.labels, test.labels])
        drawn = episodes(labels, self.objective.shots, EPISODES)
        if not drawn:
            return {}
        found = [self.judge(embeddings[rows], classes) for rows, classes in drawn]
        scores, accuracies = torch.tensor(found, dtype=torch.float64).T
        told = {
            "icnn": float(scores.mean()),
            "nearest_prototype": float(accuracies.mean()),
            "icnn_set": float(icnn_score(embeddings, labels, self.k).score),
        }
        if accuracies.min() < accuracies.max():
            told["icnn_rank"] = float(spearmanr(scores, accuracies).statistic)
        return told

    def judge(self, embeddings: Float[Tensor, "n dim"], labels: Labels) -> tuple[float, float]:
        """Score of an episode, and accuracy of the nearest prototype in it."""
        part = Episode.of(embeddings, labels, self.objective.shots)
        told = distances(part.queries, part.prototypes).argmin(1)
        score = icnn(embeddings, labels, k=self.k, reach=largest_class(labels)).score
        return float(score), float((told == part.targets).double().mean())


def episodes(
    labels: Int[Tensor, " n"], shots: int, count: int, seed: int = 0
) -> list[tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]]:
    """Rows of random episodes of 5 classes (or all), and their classes from 0; the same numbers of rows of each class.

    Each class gives its examples and 15 queries, or as many as all 5 classes that have most can give. There is no
    episode where fewer than 2 classes have more rows than examples.

    Args:
        labels: class of each row, of any integer type; -1 leaves it out.
        shots: examples of each class, at least 1.
        count: how many episodes, at least 0.
        seed: decides what is drawn.

    Raises:
        InputError: for labels below -1, or numbers out of range.

    >>> [(rows, classes)] = episodes(torch.tensor([3, 3, 4, 4, 4]), shots=1, count=1)
    >>> torch.tensor([3, 3, 4, 4, 4])[rows], classes
    (tensor([3, 3, 4, 4]), tensor([0, 0, 1, 1]))
    """
    labels = check_integers("labels", labels, rows=len(labels), low=-1)
    check_number("shots", shots, at_least=1, whole=True)
    check_number("count", count, at_least=0, whole=True)
    check_number("seed", seed, at_least=0, at_most=2**63 - 1, whole=True)
    sizes = labels[labels >= 0].bincount().sort(descending=True).values
    ways = min(WAYS, int((sizes > shots).sum()))
    if ways < 2:
        return []
    size = min(shots + QUERIES, int(sizes[ways - 1]))
    members = [rows for c in range(len(sizes)) if len(rows := (labels == c).nonzero().flatten()) >= size]
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        classes = torch.randperm(len(members), generator=rng)[:ways].tolist()
        drawn = [members[c][torch.randperm(len(members[c]), generator=rng)[:size]] for c in classes]
        found.append((torch.cat(drawn), torch.arange(ways).repeat_interleave(size)))
    return found
