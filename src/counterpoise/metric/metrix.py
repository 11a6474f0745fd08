r"""Metrix: mixup for metric learning, which interpolates the labels of pairs together with the examples.

Venkataramanan, Psomas, Kijak, Amsaleg, Karantzalos, Avrithis, "It Takes Two to Tango: Mixup for Deep Metric Learning",
ICLR 2022, arXiv 2106.04990: the generic loss over pairs, its mixed form, and utilization.

An example is a positive (y = 1) or a negative (y = 0) of an anchor. A mixture $v$ of two examples has the interpolated
label $y = \lambda y_x + (1-\lambda) y_{x'}$. A loss of a sum over positives and a sum over negatives takes mixtures
into both sums: $\sigma^+\big(\sum_V y\, \rho^+(s(a, v))\big) + \sigma^-\big(\sum_V (1-y)\, \rho^-(s(a,
v))\big)$.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.metric.contrastive import ContrastiveLoss
from counterpoise.metric.learner import Embedder, EmbeddingLoss, ProxyLearner, check_pairs, pml
from counterpoise.metric.multi_similarity import MultiSimilarityLoss
from counterpoise.metric.proxy_anchor import ProxyAnchorLoss
from counterpoise.nets import embed
from counterpoise.ops.checks import (
    check_finite,
    check_integers,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
)
from counterpoise.ops.neighbours import nearest
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32, normalize_rows

Base = Literal["contrastive", "contrastive-similarity", "multi-similarity", "proxy-anchor"]
Mixing = Literal["input", "feature", "embedding"]
Kind = Literal["positive-negative", "anchor-negative"]
Drawn = Literal["positive-negative", "anchor-negative", "either"]
Pooling = Literal["mean", "mean+max"]
Preset = Literal["own", "paper"]
Make = Callable[[Int[Tensor, " mixtures"], Int[Tensor, " mixtures"]], Float[Tensor, "mixtures dim"]]

# Constants of each base loss: the argument's name in its mixed form, and in the base loss itself.
NUMBERS: dict[str, dict[str, str]] = {
    "contrastive": {"margin": "margin"},
    "contrastive-similarity": {"margin": "margin"},
    "multi-similarity": {"margin": "base", "alpha": "alpha", "beta": "beta"},
    "proxy-anchor": {"margin": "margin", "alpha": "alpha"},
}
# Constants that only the base loss has: they choose its pairs.
MINING: dict[str, tuple[str, ...]] = {"multi-similarity": ("epsilon",)}
# Constants in the authors' code; of the other base losses they are the defaults here.
PAPER: dict[str, dict[str, float]] = {
    "multi-similarity": {"margin": 0.77, "alpha": 17.97, "beta": 75.66, "epsilon": 0.39}
}
CHUNK = 512  # images that are mixed with each other at a time to measure utilization


class Found(NamedTuple):
    """The pairs of a base loss, as row indices.

    Attributes:
        positive_of: anchor of each positive.
        positives: the positives.
        negative_of: anchor of each negative.
        negatives: the negatives.
    """

    positive_of: Int[Tensor, " positives"]
    positives: Int[Tensor, " positives"]
    negative_of: Int[Tensor, " negatives"]
    negatives: Int[Tensor, " negatives"]


class Triples(NamedTuple):
    """The examples to mix, as row indices.

    Attributes:
        anchor: anchor of each mixture.
        first: a positive of the anchor, or the anchor itself.
        second: a negative of the anchor.
    """

    anchor: Int[Tensor, " mixtures"]
    first: Int[Tensor, " mixtures"]
    second: Int[Tensor, " mixtures"]


def mix(first: Float[Tensor, "..."], second: Float[Tensor, "..."], share: float) -> Float[Tensor, "..."]:
    r"""$\lambda x + (1-\lambda) x'$ of images, maps or embeddings.

    Args:
        first: x.
        second: x', of the same shape.
        share: $\lambda$, from 0 to 1.

    Raises:
        InputError: for different shapes, NaN, or a share out of range.

    Examples:
        >>> mix(torch.tensor([4.0]), torch.tensor([8.0]), 0.25)
        tensor([7.])
    """
    check_same_shape(first=first, second=second)
    check_finite("first", first)
    check_finite("second", second)
    check_number("share", share, at_least=0, at_most=1)
    return share * first + (1 - share) * second


def mixing_pairs(found: Found, kind: Kind = "positive-negative") -> Triples:
    r"""All mixtures of each anchor: each of its positives, or the anchor itself, with each of its negatives.

    Args:
        found: positives and negatives of each anchor.
        kind: "positive-negative"; or "anchor-negative", where the anchors are examples themselves.

    Returns:
        $\sum_a |P(a)| |N(a)|$ or $\sum_a |N(a)|$ mixtures. With weight $\lambda$ on the first, $y = \lambda$ for all.

    Raises:
        InputError: for an unknown kind, or different numbers of rows and anchors.

    Examples:
        >>> mixing_pairs(Found(*(torch.tensor(x) for x in ([0, 1], [1, 0], [0, 0, 1], [2, 3, 3]))))
        Triples(anchor=tensor([0, 0, 1]), first=tensor([1, 1, 0]), second=tensor([2, 3, 3]))
    """
    if kind not in get_args(Kind):
        raise unknown("kind", kind, get_args(Kind))
    found = _checked(found)
    if kind == "anchor-negative":
        return Triples(found.negative_of, found.negative_of, found.negatives)
    order = found.negative_of.argsort(stable=True)
    anchors = int(torch.cat([found.positive_of, found.negative_of]).max()) + 1 if len(order) else 0
    if not anchors:
        return Triples(*[order] * 3)
    many = found.negative_of.bincount(minlength=anchors)
    repeats = many[found.positive_of]
    # `order` sorts negatives by anchor, so each positive takes one contiguous run of it.
    start = (many.cumsum(0) - many)[found.positive_of] - (repeats.cumsum(0) - repeats)
    place = start.repeat_interleave(repeats) + torch.arange(int(repeats.sum()), device=order.device)
    anchor, first = (x.repeat_interleave(repeats) for x in found[:2])
    return Triples(anchor, first, found.negatives[order[place]])


def hardest_negatives(found: Found, similarity: Float[Tensor, " negatives"], count: int) -> Found:
    """Keep at most `count` negatives of each anchor, those most similar to it.

    Args:
        found: positives and negatives of each anchor.
        similarity: of each negative to its anchor.
        count: number of negatives to keep, at least 1.

    Raises:
        InputError: for shapes that do not match, NaN, or a count out of range.

    Examples:
        >>> rows = torch.arange(3)
        >>> hardest_negatives(Found(rows, rows, rows // 2, rows), torch.tensor([0.1, 0.3, 0.2]), 1).negatives
        tensor([1, 2])
    """
    found = _checked(found)
    _check_vectors(similarity=similarity, negatives=found.negatives.to(similarity.dtype))
    check_number("count", count, at_least=1, whole=True)
    order = similarity.argsort(descending=True, stable=True)
    order = order[found.negative_of[order].argsort(stable=True)]
    many = found.negative_of.bincount()
    rank = torch.arange(len(order), device=order.device) - (many.cumsum(0) - many)[found.negative_of[order]]
    kept = order[rank < count].sort().values
    return found._replace(negative_of=found.negative_of[kept], negatives=found.negatives[kept])


def log_one_plus_sum(
    logits: Float[Tensor, " mixtures"],
    weights: Float[Tensor, " mixtures"],
    anchor: Int[Tensor, " mixtures"],
    anchors: int,
) -> Float[Tensor, " anchors"]:
    r"""$\log\big(1 + \sum_{V(a)} w\, e^{x}\big)$ for each anchor, without overflow; 0 for an anchor without mixtures.

    Args:
        logits: x.
        weights: w, from 0 to 1; a mixture of weight 0 adds nothing to the sum or to the gradient.
        anchor: index of each mixture's anchor, from 0.
        anchors: number of anchors, at least 1.

    Raises:
        InputError: for shapes that do not match, NaN, or numbers out of range.

    Examples:
        >>> x = torch.tensor([0.0, 0.0, 200.0])
        >>> log_one_plus_sum(x, torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 0, 1]), anchors=3)
        tensor([  0.6931, 200.0000,   0.0000])
    """
    _check_vectors(logits=logits, weights=weights)
    _check_shares("weights", weights)
    check_number("anchors", anchors, at_least=1, whole=True)
    anchor = check_integers("anchor", anchor, rows=len(logits), low=0, high=anchors)
    logits = logits + weights.log()
    # The 1 in the logarithm is a logit of 0 that every anchor has.
    top = logits.new_zeros(anchors).scatter_reduce(0, anchor, logits.detach(), "amax")
    return top + (-top).exp().index_add(0, anchor, (logits - top[anchor]).exp()).log()


def mixed_contrastive(
    distance: Float[Tensor, " mixtures"], positivity: Float[Tensor, " mixtures"], margin: float = 0.5
) -> Float[Tensor, ""]:
    r"""Contrastive loss of mixtures: the means of $y\, d$ and of $(1-y) [m - d]_+$ over their positive terms.

    Args:
        distance: d, the Euclidean distance of each mixture to its anchor.
        positivity: y, from 0 to 1.
        margin: m > 0.

    Returns:
        At least 0; 0 if no term is above 0.

    Raises:
        InputError: for different shapes, NaN, or numbers out of range.

    Examples:
        >>> mixed_contrastive(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]))  # (0.125 + 0.375) / 2 + 0.125
        tensor(0.3750)
    """
    _check_vectors(distance=distance, positivity=positivity)
    _check_shares("positivity", positivity)
    check_number("margin", margin, above=0)
    return _mean_above_zero(positivity * distance) + _mean_above_zero((1 - positivity) * (margin - distance).relu())


def mixed_contrastive_similarity(
    similarity: Float[Tensor, " mixtures"],
    positivity: Float[Tensor, " mixtures"],
    anchors: int,
    margin: float = 0.5,
) -> Float[Tensor, ""]:
    r"""The paper's contrastive loss of mixtures: sums of $-y\, s$ and of $(1-y) [s - m]_+$, the mean over all anchors.

    With y = 1 for positives and y = 0 for negatives this is the unmixed loss. Sums grow with the number of mixtures.

    Args:
        similarity: s, the similarity of each mixture to its anchor.
        positivity: y, from 0 to 1.
        anchors: number of anchors, including those without mixtures; at least 1.
        margin: m.

    Returns:
        Any number: the sum over positives has no lower bound of its own.

    Raises:
        InputError: for different shapes, NaN, or numbers out of range.

    Examples:
        >>> mixed_contrastive_similarity(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.5]), anchors=1)  # -1 + 0.25
        tensor(-0.7500)
    """
    _check_vectors(similarity=similarity, positivity=positivity)
    _check_shares("positivity", positivity)
    check_number("anchors", anchors, at_least=1, whole=True)
    check_number("margin", margin)
    return ((1 - positivity) * (similarity - margin).relu() - positivity * similarity).sum() / anchors


def mixed_multi_similarity(
    similarity: Float[Tensor, " mixtures"],
    positivity: Float[Tensor, " mixtures"],
    anchor: Int[Tensor, " mixtures"],
    anchors: int,
    margin: float = 0.5,
    alpha: float = 2.0,
    beta: float = 50.0,
) -> Float[Tensor, ""]:
    r"""Multi-similarity loss of mixtures, the mean over all anchors.

    $\frac1\alpha \log\big(1 + \sum_V y\, e^{-\alpha (s - m)}\big) + \frac1\beta \log\big(1 + \sum_V (1-y)\, e^{\beta (s
    - m)}\big)$. With y = 1 for positives and y = 0 for negatives this is the unmixed loss.

    Args:
        similarity: s, the similarity of each mixture to its anchor.
        positivity: y, from 0 to 1.
        anchor: index of each mixture's anchor, from 0.
        anchors: number of anchors, including those without mixtures; at least 1.
        margin: m.
        alpha: sharpness of the positives' weights, above 0.
        beta: sharpness of the negatives' weights, above 0.

    Raises:
        InputError: for shapes that do not match, NaN, or numbers out of range.

    Examples:
        >>> zero = torch.zeros(1)
        >>> mixed_multi_similarity(zero, zero + 0.5, zero.long(), 1, margin=0.0, alpha=1.0, beta=1.0)  # 2 log 1.5
        tensor(0.8109)
    """
    _check_vectors(similarity=similarity, positivity=positivity)
    _check_shares("positivity", positivity)
    for name, value in (("alpha", alpha), ("beta", beta)):
        check_number(name, value, above=0)
    check_number("margin", margin)
    away = similarity - margin
    positive = log_one_plus_sum(-alpha * away, positivity, anchor, anchors) / alpha
    negative = log_one_plus_sum(beta * away, 1 - positivity, anchor, anchors) / beta
    return (positive + negative).mean()


def mixed_proxy_anchor(
    similarity: Float[Tensor, " mixtures"],
    positivity: Float[Tensor, " mixtures"],
    anchor: Int[Tensor, " mixtures"],
    anchors: int,
    margin: float = 0.1,
    alpha: float = 32.0,
) -> Float[Tensor, ""]:
    r"""Proxy-anchor loss of mixtures, with class proxies as anchors.

    $\log\big(1 + \sum_V y\, e^{-\alpha (s - m)}\big)$ and $\log\big(1 + \sum_V (1-y)\, e^{\alpha (s + m)}\big)$,
    each averaged over the proxies that have mixtures with y > 0 or y < 1.

    Args:
        similarity: s, the similarity of each mixture to its proxy.
        positivity: y, from 0 to 1.
        anchor: index of each mixture's proxy, from 0.
        anchors: number of proxies, at least 1.
        margin: m.
        alpha: sharpness, above 0.

    Raises:
        InputError: for shapes that do not match, NaN, or numbers out of range.

    Examples:
        >>> zero = torch.zeros(1)
        >>> mixed_proxy_anchor(zero, zero + 0.5, zero.long(), 7, margin=0.0)  # 2 log 1.5; one proxy has mixtures
        tensor(0.8109)
    """
    _check_vectors(similarity=similarity, positivity=positivity)
    _check_shares("positivity", positivity)
    check_number("margin", margin)
    check_number("alpha", alpha, above=0)
    positive = log_one_plus_sum(-alpha * (similarity - margin), positivity, anchor, anchors)
    negative = log_one_plus_sum(alpha * (similarity + margin), 1 - positivity, anchor, anchors)
    pulled, pushed = (len(anchor[kind].unique()) for kind in (positivity > 0, positivity < 1))
    return positive.sum() / max(pulled, 1) + negative.sum() / max(pushed, 1)


def utilization(
    queries: Float[Tensor, "queries dim"],
    training: Float[Tensor, "examples dim"],
    mixed: Float[Tensor, "mixtures dim"] | None = None,
    normalize: bool = True,
) -> float:
    r"""Utilization, $\frac{1}{|Q|} \sum_q \min_x \lVert f(q) - f(x) \rVert^2$: distance of test from training items.

    Args:
        queries: embeddings of the test items Q.
        training: embeddings of the training examples.
        mixed: embeddings of mixtures used in training.
        normalize: normalise all embeddings here; otherwise they are used as they are.

    Returns:
        From 0, and to 4 of normalised embeddings; lower is nearer. Mixtures can only lower it.

    Raises:
        InputError: for shapes that do not match, NaN, or no rows.

    Examples:
        >>> test, train = torch.tensor([[1.0, 1.0]]), torch.eye(2)
        >>> round(utilization(test, train), 4), utilization(test, train, mix(train[:1], train[1:], 0.5))
        (0.5858, 0.0)
        >>> round(utilization(3 * test, train, normalize=False), 4)  # from (3, 3) to (1, 0)
        13.0
    """
    check_matrix("queries", queries)
    check_matrix("training", training)
    given = {"queries": queries, "training": training}
    if mixed is not None:
        check_matrix("mixed", mixed, at_least=0)
        check_same_shape(training=training[:1], mixed=mixed.new_zeros(1, mixed.shape[1]))
        given["mixed"] = mixed
    for name, rows in given.items():
        if not normalize:
            check_lengths(name, rows)
        given[name] = normalize_rows(rows) if normalize else rows
    queries, *keys = given.values()
    distance, _ = nearest(queries, torch.cat(keys), 1, "euclidean")
    return float(distance.square().mean())


class SimilarityContrastiveLoss(EmbeddingLoss):
    r"""The paper's contrastive loss: `loss(embeddings, labels)`.

    $\sum_{p \in P(a)} -s(a, p) + \sum_{n \in N(a)} [s(a, n) - m]_+$ with cosines s, the mean over all anchors.

    Args:
        margin: m, the cosine below which negatives cost nothing, from -1 to 1.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> round(SimilarityContrastiveLoss()(z, torch.tensor([0, 0, 1])).item(), 4)  # 2 (0 + 0.1 + 0.3) / 3
        0.2667
    """

    def __init__(self, margin: float = 0.5):
        super().__init__()
        check_number("margin", margin, at_least=-1, at_most=1)
        self.margin = margin

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of labelled rows that are already gathered from all processes."""
        check_pairs(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            z = normalize_rows(embeddings)
            similarity = z @ z.T
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        same = (labels[:, None] == labels)[others].to(z.dtype)
        return mixed_contrastive_similarity(similarity[others], same, len(z), self.margin)


class MetrixLoss(nn.Module):
    r"""A metric-learning loss and its mixed form, $L(X) + w\, \tilde L(X)$: `loss(embeddings, labels)`.

    Positives and negatives are those of the base loss, which multi-similarity mines.

    Args:
        base: "contrastive", of distances as in the public code; "contrastive-similarity", the paper's sums of
            similarities; "multi-similarity"; or "proxy-anchor".
        weight: w, at least 0; 0 gives the base loss itself.
        hardest: number of negatives mixed for each anchor, the most similar ones; `None` mixes all.
        margin: margin of the base loss; `None` takes its default, as for `alpha` and `beta`.
        alpha: sharpness of multi-similarity's positives, or of proxy-anchor.
        beta: sharpness of multi-similarity's negatives.
        classes: number of classes; required by proxy-anchor.
        dim: embedding dimension; required by proxy-anchor.
        epsilon: mining margin of multi-similarity, at least 0; `None` takes its default.
        preset: constants that are `None`: the base loss's "own" defaults; or the "paper"'s, which for multi-similarity
            are margin 0.77, alpha 17.97, beta 75.66 and epsilon 0.39, and otherwise the defaults.
    """

    loss: Any

    def __init__(
        self,
        base: Base = "multi-similarity",
        weight: float = 0.4,
        hardest: int | None = None,
        margin: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        classes: int | None = None,
        dim: int | None = None,
        epsilon: float | None = None,
        preset: Preset = "own",
    ):
        super().__init__()
        if base not in NUMBERS:
            raise unknown("base", base, NUMBERS)
        if preset not in get_args(Preset):
            raise unknown("preset", preset, get_args(Preset))
        check_number("weight", weight, at_least=0)
        if hardest is not None:
            check_number("hardest", hardest, at_least=1, whole=True)
        self.base, self.weight, self.hardest, self.classes = base, weight, hardest, classes
        numbers = {"margin": margin, "alpha": alpha, "beta": beta, "epsilon": epsilon}
        chosen = {name: value for name, value in numbers.items() if value is not None}
        self.loss = _base_loss(base, classes, dim, **((PAPER.get(base, {}) if preset == "paper" else {}) | chosen))
        self.constants = {name: getattr(self.loss, own) for name, own in NUMBERS[base].items()}

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Labels,
        share: float = 0.5,
        kind: Kind = "positive-negative",
    ) -> Float[Tensor, ""]:
        r"""The loss of a batch and of mixtures of its embeddings; the batch alone if there is nothing to mix.

        Args:
            embeddings: one row per image.
            labels: class of each row, of any integer type; rows with -1 are left out.
            share: $\lambda$, the same for the whole batch; each mixture's label is $y = \lambda$.
            kind: whether a negative is mixed with a positive or with the anchor; proxies are never mixed.

        Raises:
            InputError: for wrong shapes, labels below -1, NaN, a share out of range, a `kind` that would mix proxies,
                or (unless anchors are proxies) a batch without a positive or a negative pair.
        """
        check_matrix("embeddings", embeddings)
        high = self.classes if self.base == "proxy-anchor" else None
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1, high=high)
        check_number("share", share, at_least=0, at_most=1)
        if kind not in get_args(Kind):
            raise unknown("kind", kind, get_args(Kind))
        if self.base == "proxy-anchor" and kind == "anchor-negative":
            raise InputError("kind: expected positive-negative, since the anchors of proxy-anchor are not images")
        embeddings, labels = gather(embeddings), gather(labels)
        return self.of_all(embeddings[labels >= 0], labels[labels >= 0], share, kind)

    def base_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> tuple[Float[Tensor, ""], Found]:
        """The unmixed loss of the rows of all processes, and the pairs that it uses."""
        embeddings = at_least_float32(embeddings)
        if self.base in ("proxy-anchor", "contrastive-similarity"):
            return self.loss.of_all(embeddings, labels), self.pairs(embeddings, labels)
        check_pairs(labels)
        found = self.pairs(embeddings, labels)  # mined once for both losses
        return self.loss.objective(embeddings, labels, tuple(found)), found

    def of_all(
        self,
        embeddings: Float[Tensor, "batch dim"],
        labels: Labels,
        share: float = 0.5,
        kind: Kind = "positive-negative",
        make: Make | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of rows that are already gathered from all processes.

        Args:
            embeddings: as in `forward`.
            labels: class of each row.
            share: weight of the first example in a mixture.
            kind: as in `forward`.
            make: maps the indices of two rows to the embedding of their mixture, where inputs or features are mixed.
        """
        embeddings = at_least_float32(embeddings)
        loss, found = self.base_loss(embeddings, labels)
        if not self.weight:
            return loss
        rows = normalize_rows(embeddings)
        anchors = normalize_rows(self.loss.proxies) if self.base == "proxy-anchor" else rows
        if self.hardest is not None:
            similarity = (anchors[found.negative_of] * rows[found.negatives]).sum(1).detach()
            found = hardest_negatives(found, similarity, self.hardest)
        triples = mixing_pairs(found, kind)
        if not len(triples.anchor):
            return loss
        make = make or (lambda first, second: mix(rows[first], rows[second], share))
        # Anchors of one class share mixtures; each is made once.
        codes, place = (triples.first * len(rows) + triples.second).unique(return_inverse=True)
        mixtures = normalize_rows(make(codes // len(rows), codes % len(rows)))[place]
        return loss + self.weight * self.mixed(anchors[triples.anchor], mixtures, share, triples.anchor, len(anchors))

    def pairs(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Found:
        """The positives and negatives of the base loss."""
        if self.base == "multi-similarity":
            return Found(*self.loss.miner(embeddings, labels))
        if self.base.startswith("contrastive"):
            return Found(*pml("utils.loss_and_miner_utils").get_all_pairs_indices(labels))
        classes = labels.unique()
        own, negatives = (classes[:, None] != labels).nonzero(as_tuple=True)
        return Found(labels, torch.arange(len(labels), device=labels.device), classes[own], negatives)

    def mixed(
        self,
        anchors: Float[Tensor, "mixtures dim"],
        mixtures: Float[Tensor, "mixtures dim"],
        share: float,
        anchor: Int[Tensor, " mixtures"],
        count: int,
    ) -> Float[Tensor, ""]:
        """The mixed loss of normalised mixtures and their anchors; `anchor` holds indices below `count`."""
        positivity = torch.full_like(mixtures[:, 0], share)
        if self.base == "contrastive":
            distance = torch.linalg.vector_norm(anchors - mixtures, dim=1)
            return mixed_contrastive(distance, positivity, **self.constants)
        if self.base == "contrastive-similarity":
            return mixed_contrastive_similarity((anchors * mixtures).sum(1), positivity, count, **self.constants)
        form = mixed_multi_similarity if self.base == "multi-similarity" else mixed_proxy_anchor
        return form((anchors * mixtures).sum(1), positivity, anchor, count, **self.constants)


class MeanAndMax(nn.Module):
    """Global average pooling plus global max pooling."""

    def forward(self, maps: Float[Tensor, "batch features height width"]) -> Float[Tensor, "batch features 1 1"]:
        return maps.mean((2, 3), keepdim=True) + maps.amax((2, 3), keepdim=True)


class Metrix(ProxyLearner):
    r"""A metric-learning loss, and the same loss of mixed images, features or embeddings with mixed labels.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        classes: number of classes.
        base: base loss: "contrastive", of distances as in the public code; "contrastive-similarity", the paper's sums
            of similarities; "multi-similarity"; or "proxy-anchor".
        mixing: what is mixed: "input", the images; "feature", the convolution maps that the backbone averages, the last
            one or those of its last stages; or "embedding".
        pairs: whether negatives are mixed with positives or with the anchor; "either" draws it for each batch, but
            proxies are never mixed.
        weight: weight of the mixed loss, at least 0; 0 trains with the base loss alone.
        concentration: both parameters of the Beta distribution of the mixing weight, drawn for each batch; above 0.
        hardest: number of negatives mixed for each anchor; `None` mixes 1 for inputs, and otherwise all.
        pooling: of these maps: "mean", the backbone's own, or "mean+max", as in the paper.
        margin: margin of the base loss; `None` takes its default, as for `alpha` and `beta`.
        alpha: sharpness of multi-similarity's positives, or of proxy-anchor.
        beta: sharpness of multi-similarity's negatives.
        epsilon: mining margin of multi-similarity, at least 0; `None` takes its default.
        preset: constants that are `None`: the base loss's "own" defaults; or the "paper"'s, which for multi-similarity
            are margin 0.77, alpha 17.97, beta 75.66 and epsilon 0.39, and otherwise the defaults.
        normalize_utilization: measure utilization between normalised embeddings, on which the losses are defined;
            otherwise between embeddings as the network gives them.
        **recipe: arguments of `ProxyLearner`.
    """

    objective: MetrixLoss
    encoder: Embedder

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        classes: int,
        base: Base = "multi-similarity",
        mixing: Mixing = "feature",
        pairs: Drawn = "either",
        weight: float = 0.4,
        concentration: float = 2.0,
        hardest: int | None = None,
        pooling: Pooling = "mean",
        margin: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        epsilon: float | None = None,
        preset: Preset = "own",
        normalize_utilization: bool = True,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, classes, **recipe)
        for name, value, known in (("mixing", mixing, Mixing), ("pairs", pairs, Drawn), ("pooling", pooling, Pooling)):
            if value not in get_args(known):
                raise unknown(name, value, get_args(known))
        if base == "proxy-anchor" and pairs == "anchor-negative":
            raise InputError("pairs: expected positive-negative, since the anchors of proxy-anchor are not images")
        check_number("concentration", concentration, above=0)
        self.mixing, self.concentration, self.normalize_utilization = mixing, concentration, normalize_utilization
        self.pairs = "positive-negative" if base == "proxy-anchor" else pairs
        hardest = 1 if hardest is None and mixing == "input" else hardest
        self.objective = MetrixLoss(base, weight, hardest, margin, alpha, beta, classes, self.features, epsilon, preset)
        if mixing == "feature" or pooling == "mean+max":
            self.pool = last_pooling(encoder)
        if pooling == "mean+max":
            encoder.set_submodule(self.pool, MeanAndMax())

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The base loss of the batch of all processes plus the weighted mixed loss."""
        if not self.objective.weight:
            return super().loss(images, labels, index)
        embeddings, mixable = self.look(images[0])
        embeddings, mixable, labels = gather(embeddings), gather(mixable), gather(labels)
        known = labels >= 0
        embeddings, mixable, labels = embeddings[known], mixable[known], labels[known]
        share, kind = self.draw(labels.device)

        def make(first: Int[Tensor, " mixtures"], second: Int[Tensor, " mixtures"]) -> Float[Tensor, "mixtures dim"]:
            return self.finish(mix(mixable[first], mixable[second], share))

        return self.objective.of_all(embeddings, labels, share, kind, make)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The base loss, without mixing."""
        return self.objective.base_loss(embeddings, labels)[0]

    def draw(self, device: torch.device) -> tuple[float, Kind]:
        """Draw a batch's mixing weight and kind of mixture, the same in all processes."""
        beta = torch.distributions.Beta(self.concentration, self.concentration).sample()
        share, coin = gather(torch.stack([beta, torch.rand(())])[None].to(device))[0].tolist()
        kinds = get_args(Kind) if self.pairs == "either" else (self.pairs, self.pairs)
        return share, kinds[coin < 0.5]

    def look(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch dim"], Shaped[Tensor, "batch ..."]]:
        """Embeddings, and what is mixed: the images, feature maps or normalised embeddings."""
        if self.mixing == "input":
            return self.encoder(images), images
        if self.mixing == "embedding":
            embeddings = self.encoder(images)
            return embeddings, normalize_rows(embeddings)
        maps: list[Tensor] = []
        pool = self.encoder[0].get_submodule(self.pool)
        handle = pool.register_forward_pre_hook(lambda _, given: maps.append(given[0]))
        try:
            embeddings = self.encoder(images)
        finally:
            handle.remove()
        self.map_shapes = [x.shape[1:] for x in maps]
        return embeddings, torch.cat([x.flatten(1) for x in maps], 1)

    def finish(self, mixed: Shaped[Tensor, "mixtures ..."]) -> Float[Tensor, "mixtures dim"]:
        """The embeddings of mixtures: apply the part of the encoder that follows the mixed layer."""
        if self.mixing == "input":
            return self.encoder(mixed)
        if self.mixing == "embedding":
            return mixed
        pool = self.encoder[0].get_submodule(self.pool)
        maps = mixed.split([shape.numel() for shape in self.map_shapes], 1)
        pooled = [pool(x.unflatten(1, shape)).flatten(1) for x, shape in zip(maps, self.map_shapes, strict=True)]
        return self.encoder[1](torch.cat(pooled, 1))

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`utilization` of the training images by the test images, and `utilization_mixed`, with mixtures added.

        Each training image is mixed with one random other image, if that is of another class.
        """
        queries = embed(self.encoder, test, to_float)
        training, mixed = self.visited(train)
        return {
            "utilization": utilization(queries, training, normalize=self.normalize_utilization),
            "utilization_mixed": utilization(queries, training, mixed, self.normalize_utilization),
        }

    @torch.no_grad()
    def visited(self, train: Images) -> tuple[Float[Tensor, "samples dim"], Float[Tensor, "mixtures dim"]]:
        """Embeddings of the unaugmented training images, and of mixtures of them."""
        device, was_training = self.class_of.device, self.encoder.training
        found, mixtures = [], []
        self.encoder.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for chunk in torch.randperm(len(train)).split(CHUNK):
                pixels, labels, _ = train.__getitems__(chunk.tolist())
                embeddings, mixable = self.look(to_float(pixels.to(device)))
                if self.mixing == "embedding" and not self.normalize_utilization:
                    mixable = embeddings  # else mixtures of length 1 would be measured from embeddings of any length
                other = torch.randperm(len(chunk))
                pairs = (labels != labels[other]) & (labels >= 0) & (labels[other] >= 0)
                share, _ = self.draw(device)
                mixed = mix(mixable[pairs.to(device)], mixable[other[pairs].to(device)], share)
                found.append(embeddings.float().cpu())
                mixtures.append(self.finish(mixed).float().cpu())
        self.encoder.train(was_training)
        return torch.cat(found), torch.cat(mixtures)


def last_pooling(backbone: nn.Module) -> str:
    """The name of the backbone's last global average pooling layer.

    Raises:
        InputError: if there is none, or if layers with parameters follow it.

    Examples:
        >>> from counterpoise.nets import backbone
        >>> last_pooling(backbone("small", channels=1, size=28))
        'model.pool'
    """
    modules = list(backbone.named_modules())
    places = [i for i, (_, m) in enumerate(modules) if isinstance(m, nn.AdaptiveAvgPool2d)]
    after = [p for _, module in modules[places[-1] :] for p in module.parameters()] if places else []
    if not places or after:
        name = type(getattr(backbone, "model", backbone)).__name__
        raise InputError(
            f"mixing: '{name}' does not end with the average pooling of a convolution map, which feature mixing and "
            "pooling 'mean+max' need; mix 'input' or 'embedding'"
        )
    return modules[places[-1]][0]


def _base_loss(base: str, classes: int | None, dim: int | None, **given: float) -> EmbeddingLoss:
    """The base loss with the given constants; refuse constants that it does not take."""
    for name, value in given.items():
        if name not in (*NUMBERS[base], *MINING.get(base, ())):
            raise InputError(f"{name}: the base loss '{base}' has none, got {value}")
    own = {NUMBERS[base].get(name, name): value for name, value in given.items()}
    if base == "contrastive":
        return ContrastiveLoss(**own)
    if base == "contrastive-similarity":
        return SimilarityContrastiveLoss(**own)
    if base == "multi-similarity":
        if "margin" in given:
            check_number("margin", given["margin"], at_least=-1, at_most=1)  # the base loss calls it `base`
        return MultiSimilarityLoss(**own)
    if classes is None or dim is None:
        raise InputError("classes and dim: expected numbers for the proxies of proxy-anchor, got none")
    return ProxyAnchorLoss(classes, dim, **own)


def _checked(found: Found) -> Found:
    """The pairs as int64; refuse different numbers of anchors and rows."""
    whole = []
    for anchors, rows in (("positive_of", "positives"), ("negative_of", "negatives")):
        count = len(getattr(found, rows))
        whole += [check_integers(f"found.{name}", getattr(found, name), rows=count, low=0) for name in (anchors, rows)]
    return Found(*whole)


def _check_vectors(**vectors: Tensor) -> None:
    """Refuse vectors of different lengths, or with NaN."""
    for name, x in vectors.items():
        if x.ndim != 1:
            raise InputError(f"{name}: expected a vector, got shape {list(x.shape)}")
        check_finite(name, x)
    check_same_shape(**vectors)


def _check_shares(name: str, x: Tensor) -> None:
    if len(x) and not 0 <= float(x.min()) <= float(x.max()) <= 1:
        raise InputError(f"{name}: expected numbers from 0 to 1, got {float(x.min()):g} to {float(x.max()):g}")


def _mean_above_zero(terms: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return terms.sum() / (terms > 0).sum().clamp(min=1)
