r"""Proto-Triplet and ICNN: two losses on the distances within an episode, and the score behind the second.

Mendez-Ruiz, Gonzalez-Zapata, Reyes-Amezcua, Flores-Araiza, Lopez-Tiro, Mendez-Vazquez, Ochoa-Ruiz, "SuSana Distancia is
all you need: Enforcing class separability in metric learning via two novel distance-based loss functions for few-shot
image classification", 2023, arXiv 2305.09062; in the form of the authors' code.
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
EPS = 1e-7  # added to every denominator of the score
QUALITY_EPS = 1e-6  # the same for the older score
TERMS = ("cross-entropy", "proto-triplet", "icnn", "icnn-support", "icnn-query", "icnn-prototypes")
WAYS, QUERIES, EPISODES = 5, 15, 300  # of the diagnostics


def distances(rows: Float[Tensor, "n dim"], others: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Euclidean distances, in float32 at least, computed from differences, so that near rows lose no digits.

    Raises:
        InputError: for rows of different lengths, or NaN.

    Examples:
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
    """sqrt(d² + 1e-6), without forming squares that could overflow.

    Examples:
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
    r"""Triplet loss of each query with its prototype as the positive and the nearest other one as the negative.

    $\max(0, d(q, p_y) - \min_{c \ne y} d(q, p_c) + m)$ for each query.

    Args:
        queries: one row per query; neither queries nor prototypes are normalised.
        targets: index of each query's prototype, from 0.
        prototypes: one row per class, at least 2.
        margin: m, at least 0.

    Raises:
        InputError: for wrong shapes, NaN, a target without a prototype, or fewer than 2 prototypes.

    Examples:
        >>> proto_triplet(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]), torch.tensor([[0.0], [2.0]]))
        tensor([0.0000, 0.5000])
    """
    check_matrix("queries", queries)
    check_matrix("prototypes", prototypes, at_least=2)
    if queries.shape[1] != prototypes.shape[1]:
        raise InputError(f"prototypes: expected {queries.shape[1]} columns, as queries, got {prototypes.shape[1]}")
    targets = check_integers("targets", targets, rows=len(queries), low=0, high=len(prototypes))
    check_number("margin", margin, at_least=0)
    _check_far("queries", queries)
    _check_far("prototypes", prototypes)
    apart = soften(distances(queries, prototypes))
    own = torch.arange(len(prototypes), device=targets.device) == targets[:, None]
    other = apart.masked_fill(own, torch.inf).amin(1)
    return (apart.gather(1, targets[:, None])[:, 0] - other + margin).clamp(min=0)


def _check_far(name: str, rows: Float[Tensor, "n dim"]) -> None:
    """Refuse rows so far from 0 that the square of a distance between two of them could overflow float32."""
    check_finite(f"{name}, as squared distances", 4 * rows.detach().float().square().sum(1))


class ICNN(NamedTuple):
    """The inter- and intra-class nearest neighbours score and its parts; each from 0 to 1, larger is better.

    Attributes:
        intra: 1 minus the distance of neighbours of the same class, relative to the nearest of another class.
        inter: distance of neighbours of other classes, relative to the farthest of them.
        gamma: share of the k neighbours that are of the same class; no gradient flows through it.
    """

    intra: Float[Tensor, ""]
    inter: Float[Tensor, ""]
    gamma: Float[Tensor, ""]

    @property
    def score(self) -> Float[Tensor, ""]:
        """Half the mean of `intra` and `inter`, and half `gamma`."""
        return ((self.intra + self.inter) / 2 + self.gamma) / 2


def icnn_of_neighbours(distance: Float[Tensor, "n reach"], same: Bool[Tensor, "n reach"], k: int) -> ICNN:
    """The score from the distances and classes of each row's neighbours.

    Args:
        distance: distances from each row to its neighbours, nearest first, above 0.
        same: whether a neighbour is of the row's class.
        k: number of neighbours to score, at least 1; further ones only serve to find the nearest of another class.

    Raises:
        InputError: for different shapes, NaN, distances of 0 or less, or k out of range.

    Examples:
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
    """The mean of the chosen values of each row, averaged over the rows that have any."""
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
    """The score of an episode's rows among themselves or among the rows of a gallery; differentiable.

    At most m - 2 of m gallery rows are scored. If k reaches that limit, the share of the same class says nothing, and
    `gamma` is 1.

    Args:
        rows: one row per sample; neither rows nor gallery are normalised.
        labels: class of each row, from 0.
        gallery: rows to search for neighbours; without it, all other rows.
        gallery_labels: class of each gallery row, from 0.
        k: number of neighbours to score, at least 1.
        reach: number of neighbours among which to find the nearest of another class, at least 1; k + 1 by default.
        drop_nearest: leave out the nearest row of a gallery, as the authors' code does even there.

    Raises:
        InputError: for wrong shapes, NaN, numbers out of range, fewer than 3 rows to search, or a gallery without
            labels.

    Examples:
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
    _check_far("rows", rows)
    _check_far("gallery", gallery)
    apart = distances(rows, gallery)
    if itself:
        apart = apart.masked_fill(torch.eye(m, dtype=torch.bool, device=apart.device), torch.inf)
    skipped = int(drop_nearest and not itself)
    near, index = apart.topk(min(reach, m - itself - skipped) + skipped, largest=False)
    return _of_m(soften(near[:, skipped:]), gallery_labels[index[:, skipped:]] == labels[:, None], k, m)


def _of_m(distance: Float[Tensor, "n reach"], same: Bool[Tensor, "n reach"], k: int, m: int) -> ICNN:
    """`icnn_of_neighbours` after a search among m rows: scores at most m - 2, and then sets `gamma` to 1."""
    found = icnn_of_neighbours(distance, same, min(k, m - 2))
    return found if k + 2 < m else found._replace(gamma=torch.ones_like(found.gamma))


def icnn_score(embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int = 4) -> ICNN:
    """The `icnn` score of a whole set of embeddings of any size, in float64 and without a gradient.

    Args:
        embeddings: one row per sample; not normalised.
        labels: class of each row; rows with -1 are left out.
        k: number of neighbours to score, at least 1.

    Raises:
        InputError: for wrong shapes, NaN, or fewer than 3 labelled rows.

    Examples:
        >>> rows = torch.cat([torch.zeros(5, 2), torch.ones(5, 2)])
        >>> round(icnn_score(rows, torch.arange(10) // 5).score.item(), 3)
        1.0
    """
    embeddings, labels = _labelled(embeddings, labels, k, at_least=3)
    n = len(labels)
    return _of_m(*_neighbours(embeddings, labels, min(k, n - 2) + 1), k, n)


def icnn_quality(embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int = 5) -> Float[Tensor, ""]:
    r"""The score of the same authors' earlier paper (arXiv 2107.06992), for reports.

    The mean over rows i of $\frac12 \sqrt{\lambda_i / \max \lambda} + \frac12 \sqrt{\text{share of the same class}}$.
    $\lambda_i$ is the sum of $1 - \delta_{ij}$ over neighbours of the same class and of $\delta_{ij}$ over the others,
    with the distances $\delta_{ij}$ to row i's neighbours scaled to [0, 1] in each row.

    Args:
        embeddings: one row per sample; not normalised.
        labels: class of each row; rows with -1 are left out.
        k: number of neighbours to score, at least 1.

    Raises:
        InputError: for wrong shapes, NaN, or fewer than k + 1 labelled rows.

    Examples:
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
    """Distances from each row to its nearest other rows, and whether these are of its class."""
    n = len(labels)
    distance, index = nearest(embeddings, embeddings, count + 1, metric="euclidean")
    itself = index == torch.arange(n, device=index.device)[:, None]
    itself[~itself.any(1), -1] = True  # equal rows took its place
    distance, index = distance[~itself].view(n, count), index[~itself].view(n, count)
    return soften(distance.double()), labels[index] == labels[:, None]


class ProtoTripletLoss(nn.Module):
    """The mean of `proto_triplet` over the queries of an episode: `loss(queries, targets, prototypes)`.

    Args:
        margin: at least 0.

    Examples:
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
            queries: one row per query; not normalised.
            targets: index of each query's prototype, from 0.
            prototypes: one row per class (see `protonet.prototypes`), the same in all processes.

        Raises:
            InputError: as `proto_triplet`.
        """
        return gather(proto_triplet(queries, targets, prototypes, self.margin)).mean()

    def of_all(self, episode: Episode) -> Float[Tensor, ""]:
        """The loss of an episode that is already gathered from all processes."""
        return proto_triplet(episode.queries, episode.targets, episode.prototypes, self.margin).mean()


class ICNNLoss(nn.Module):
    """The negative logarithm of `icnn` over an episode's examples and queries: `loss(embeddings, labels)`.

    Searches as many neighbours for the nearest of another class as the largest class has rows.

    Args:
        k: number of neighbours to score, at least 1.
        drop_nearest: leave out the nearest row of a gallery, as the authors' code does; see `of_all`.

    Examples:
        >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> round(ICNNLoss()(rows, torch.tensor([0, 0, 1, 1])).item(), 3)
        0.04
    """

    def __init__(self, k: int = 4, drop_nearest: bool = True):
        super().__init__()
        check_number("k", k, at_least=1, whole=True)
        self.k, self.drop_nearest = k, drop_nearest

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch of all processes.

        Args:
            embeddings: one row per image; not normalised.
            labels: class of each row, of any integer type; rows with -1 are left out.

        Raises:
            InputError: for wrong shapes, labels below -1, NaN, fewer than 3 labelled rows, or rows of a single class,
                whose loss is 0.
        """
        check_matrix("embeddings", embeddings)
        _check_far("embeddings", embeddings)
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
        embeddings, labels = gather(embeddings), gather(labels)
        embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
        if len(labels.unique()) == 1:
            raise InputError(f"labels: expected at least 2 classes in the batch, got {len(labels)} rows of one")
        return self.of_all(embeddings, labels, reach=largest_class(labels))

    def of_all(
        self,
        rows: Float[Tensor, "n dim"],
        labels: Labels,
        gallery: Float[Tensor, "m dim"] | None = None,
        gallery_labels: Int[Tensor, " m"] | None = None,
        reach: int | None = None,
    ) -> Float[Tensor, ""]:
        """The negative logarithm of `icnn`, of rows that are already gathered from all processes."""
        found = icnn(rows, labels, gallery, gallery_labels, self.k, reach, self.drop_nearest)
        return -found.score.log()


def largest_class(labels: Int[Tensor, " n"]) -> int:
    """The number of rows of the largest class.

    Raises:
        InputError: for no rows, or labels that are not integers.

    Examples:
        >>> largest_class(torch.tensor([7, -2, 7]))
        2
    """
    labels = check_integers("labels", labels, rows=len(labels))
    if not len(labels):
        raise InputError("labels: expected at least 1, got none")
    return int(labels.unique(return_counts=True)[1].max())


class Episode(NamedTuple):
    """A batch as an episode; classes are renumbered from 0 in label order.

    Attributes:
        support: embeddings of the examples.
        support_labels: class of each example.
        queries: embeddings of the queries.
        targets: class of each query.
    """

    support: Float[Tensor, "examples dim"]
    support_labels: Int[Tensor, " examples"]
    queries: Float[Tensor, "queries dim"]
    targets: Int[Tensor, " queries"]

    @classmethod
    def of(cls, embeddings: Float[Tensor, "batch dim"], labels: Labels, shots: int) -> Episode:
        """Divide a batch: the first `shots` rows of each class are examples, its other rows queries.

        Raises:
            InputError: if there is no query.
        """
        _, own = labels.unique(return_inverse=True)
        is_query = (own[:, None] == own).tril(-1).sum(1) >= shots
        if not is_query.any():
            raise InputError(f"labels: expected a class with more than {shots} rows in the batch, got none")
        return cls(embeddings[~is_query], own[~is_query], embeddings[is_query], own[is_query])

    @property
    def ways(self) -> int:
        """The number of classes."""
        return int(self.support_labels.max()) + 1

    @property
    def prototypes(self) -> Float[Tensor, "ways dim"]:
        """The mean of each class's examples."""
        return prototypes(self.support, self.support_labels, self.ways)


class SuSana(ProtoNet):
    """Prototypical networks with Proto-Triplet and ICNN losses; the loss is the mean of the named terms.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        terms: any of "cross-entropy" (prototypical networks), "proto-triplet", "icnn" (examples and queries together),
            "icnn-support" (examples), "icnn-query" (queries among examples), "icnn-prototypes" (queries among means).
        margin: margin of Proto-Triplet, at least 0.
        k: number of neighbours that ICNN scores, at least 1.
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
        self.terms = tuple(terms)
        self.proto_triplet, self.icnn = ProtoTripletLoss(margin), ICNNLoss(k, drop_nearest)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The mean of the terms, with the batch as an episode."""
        return torch.stack([self.term(name, embeddings, labels) for name in self.terms]).mean()

    def term(self, name: str, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """One of `TERMS`."""
        if name == "cross-entropy":
            return self.objective.of_all(embeddings, labels)
        part = Episode.of(embeddings, labels, self.objective.shots)
        if name == "proto-triplet":
            return self.proto_triplet.of_all(part)
        if name == "icnn":
            return self.icnn.of_all(embeddings, labels, reach=largest_class(labels))
        if name == "icnn-support":
            return self.icnn.of_all(part.support, part.support_labels)
        if name == "icnn-query":
            return self.icnn.of_all(part.queries, part.targets, part.support, part.support_labels)
        classes = torch.arange(part.ways, device=labels.device)
        return self.icnn.of_all(part.queries, part.targets, part.prototypes, classes)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """Scores of the probe and test images' embeddings.

        Returns:
            `icnn`: the mean `icnn` score over episodes of 5 classes. `nearest_prototype`: the accuracy of the nearest
            prototype in these episodes. `icnn_rank`: Spearman's correlation of the two over the episodes, absent if all
            accuracies are equal. `icnn_set`: the score of all images together. Empty if fewer than 2 classes have more
            than `shots` images.
        """
        embeddings = torch.cat([embed(self.encoder, part, to_float) for part in (probe, test)])
        labels = torch.cat([probe.labels, test.labels])
        drawn = episodes(labels, self.objective.shots, EPISODES)
        if not drawn:
            return {}
        found = [self.judge(embeddings[rows], classes) for rows, classes in drawn]
        scores, accuracies = torch.tensor(found, dtype=torch.float64).T
        figures = {
            "icnn": float(scores.mean()),
            "nearest_prototype": float(accuracies.mean()),
            "icnn_set": float(icnn_score(embeddings, labels, self.icnn.k).score),
        }
        if accuracies.min() < accuracies.max():
            figures["icnn_rank"] = float(spearmanr(scores, accuracies).statistic)
        return figures

    def judge(self, embeddings: Float[Tensor, "n dim"], labels: Labels) -> tuple[float, float]:
        """An episode's ICNN score, and its accuracy by the nearest prototype."""
        part = Episode.of(embeddings, labels, self.objective.shots)
        predicted = distances(part.queries, part.prototypes).argmin(1)
        score = icnn(embeddings, labels, k=self.icnn.k, reach=largest_class(labels)).score
        return float(score), float((predicted == part.targets).double().mean())


def episodes(
    labels: Int[Tensor, " n"], shots: int, count: int, seed: int = 0
) -> list[tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]]:
    """Draw episodes of 5 classes (or all): row indices and classes from 0, with equally many rows of each class.

    Each class contributes its examples and 15 queries, or as many as each of the 5 largest classes has. There are no
    episodes if fewer than 2 classes have more rows than `shots`.

    Args:
        labels: class of each row, of any integer type; rows with -1 are left out.
        shots: examples of each class, at least 1.
        count: number of episodes, at least 0.
        seed: seed of the draws.

    Raises:
        InputError: for labels below -1, or numbers out of range.

    Examples:
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
