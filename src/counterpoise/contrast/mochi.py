"""MoCHi: MoCo with synthetic hard negatives, mixed from the hardest ones with each other and with the query.

Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus, "Hard Negative Mixing for Contrastive Learning", NeurIPS 2020,
arXiv 2010.01028, section 4: MoCHi(N, s, s').

With strong views and a long queue, most negatives are too easy to teach anything, and a longer queue adds few that do.
So new ones are synthesised for each query: s mixtures of two of its N hardest negatives, and s' mixtures of one of them
with the query, which is always the smaller part. They join the queue's in the denominator, for one step only, and carry
no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.moco import MoCo
from counterpoise.contrast.negatives import Exclude, check_negatives
from counterpoise.data import Images
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets import embed
from counterpoise.nets.momentum import update_momentum_encoder
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.chunking import reduce_similarities
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp

Kept = Literal["all", "other-images", "other-classes"]

NOBODY = -2  # owner of a queue entry that belongs to no query


class Draws(NamedTuple):
    """Negatives to mix, by rank among the query's hardest, from 0, and their mixing weights.

    Attributes:
        pairs: the two negatives of each mixture of negatives.
        alpha: share of the first, from 0 to 1.
        partners: the negative of each mixture with the query.
        beta: share of the query, from 0 to 1/2.
    """

    pairs: Integer[Tensor, "batch pairs 2"]
    alpha: Float[Tensor, "batch pairs"]
    partners: Integer[Tensor, "batch query_pairs"]
    beta: Float[Tensor, "batch query_pairs"]


def draw(
    counts: Integer[Tensor, " batch"],
    pairs: int,
    query_pairs: int,
    generator: Generator | None = None,
    replace: bool = True,
) -> Draws:
    """Independent uniform draws for each query.

    Args:
        counts: number of hard negatives of each query.
        pairs: s, number of mixtures of two negatives.
        query_pairs: s', number of mixtures of a negative with the query.
        generator: source of the random numbers, on the device of `counts`; torch's global one if not given.
        replace: draw the two negatives of a pair with replacement, so that one in `counts` pairs is a negative alone;
            otherwise they always differ. Mixtures are drawn independently of each other in both cases.

    Raises:
        InputError: for a query without a negative, or with one where a pair needs two, or a number below 0.

    Examples:
        >>> draw(torch.tensor([4, 4]), pairs=3, query_pairs=2).pairs.shape
        torch.Size([2, 3, 2])
    """
    check_number("pairs", pairs, at_least=0, whole=True)
    check_number("query_pairs", query_pairs, at_least=0, whole=True)
    counts, device = check_integers("counts", counts, counts.numel(), low=1), counts.device
    if not replace and pairs and (counts < 2).any():
        query = int((counts < 2).nonzero()[0])
        raise InputError(
            f"counts: expected at least 2 negatives for pairs without replacement, got 1 for query {query}"
        )
    first, second, alpha, partners, beta = torch.rand(
        len(counts), 3 * pairs + 2 * query_pairs, generator=generator, device=device
    ).split([pairs] * 3 + [query_pairs] * 2, dim=1)
    ranks = (torch.stack([first, second], dim=2) * counts[:, None, None]).long()
    if not replace:  # the second is so many places after the first, around the end
        steps = 1 + (second * (counts - 1)[:, None]).long()
        ranks[..., 1] = (ranks[..., 0] + steps) % counts[:, None]
    return Draws(ranks, alpha, (partners * counts[:, None]).long(), beta / 2)


def hardest_indices(
    queries: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    num_hard: int,
    exclude: Exclude | None = None,
) -> tuple[Integer[Tensor, "batch hard"], Integer[Tensor, " batch"]]:
    """The indices of each query's most similar negatives, nearest first.

    Args:
        queries: one row per sample; normalised here.
        negatives: keys of other samples; normalised here.
        num_hard: N, their number; all if there are fewer.
        exclude: numbers of the queries and of the negatives; pairs with equal numbers are excluded.

    Returns:
        Their indices, and how many of them are valid for each query; the rest are excluded pairs.

    Raises:
        InputError: for a query without a negative, mismatched shapes, NaN, or a number below 1.

    Examples:
        >>> negatives = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
        >>> hardest_indices(torch.eye(2)[:1], negatives, num_hard=2)
        (tensor([[2, 0]]), tensor([2]))
    """
    check_counts(num_hard=num_hard)
    exclude = check_negatives(queries, negatives, exclude)
    return _hardest_indices(normalize_rows(queries), normalize_rows(negatives), num_hard, exclude)


def _hardest_indices(
    queries: Tensor, negatives: Tensor, num_hard: int, exclude: Exclude | None
) -> tuple[Integer[Tensor, "batch hard"], Integer[Tensor, " batch"]]:
    many = min(num_hard, len(negatives))
    index = reduce_similarities(lambda similarity: similarity.topk(many).indices, queries, negatives, exclude)
    if exclude is None:
        return index, index.new_full((len(index),), many)
    counts = (exclude[0][:, None] != exclude[1][index]).sum(1)
    if not counts.all():
        raise InputError(f"negatives: query {int((counts == 0).nonzero()[0])} has none left to mix")
    return index, counts


def mix(
    first: Float[Tensor, "*rows dim"], second: Float[Tensor, "*rows dim"], share: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows dim"]:
    r"""$h = \tilde h / \lVert \tilde h \rVert$ with $\tilde h = a\, x + (1-a)\, y$, for unit rows; 0 if they cancel.

    Args:
        first: x; normalised here.
        second: y; normalised here.
        share: a, from 0 to 1.

    Raises:
        InputError: for mismatched shapes, NaN, or shares out of range.

    Examples:
        >>> mix(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor(0.5))
        tensor([0.7071, 0.7071])
    """
    check_same_shape(first=first, second=second)
    if share.shape != first.shape[:-1]:
        raise InputError(f"share: expected one for each row, {list(first.shape[:-1])}, got {list(share.shape)}")
    check_finite("first", first)
    check_finite("second", second)
    check_values("share", share, at_least=0, at_most=1)
    return _mix(normalize_rows(first), normalize_rows(second), share)


def _mix(first: Tensor, second: Tensor, share: Tensor) -> Float[Tensor, "*rows dim"]:
    return normalize_rows(second.lerp(first, share[..., None].to(second.dtype)))


def mixed_nce(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    synthetic: Float[Tensor, "batch mixtures dim"] | None = None,
    temperature: float = 0.2,
    exclude: Exclude | None = None,
) -> Float[Tensor, ""]:
    r"""InfoNCE of each query's positive against shared negatives and the query's synthetic ones.

    With cosines $s$, the mean over the queries of $-\log \frac{e^{s_+/T}}{e^{s_+/T} + \sum_k e^{s_k/T} + \sum_h
    e^{s_h/T}}$, k over the negatives and h over the query's mixtures.

    Args:
        queries: one row per sample; normalised here, as are the others.
        positives: the key of each query.
        negatives: keys of other samples; every process holds all of them.
        synthetic: mixtures of each query; without any, this is MoCo's loss.
        temperature: $T > 0$.
        exclude: numbers of the queries and of the negatives; pairs with equal numbers are excluded.

    Returns:
        The loss in nats, above 0; $\log(1+M+H)$ for M negatives and H mixtures where all rows are equal.

    Raises:
        InputError: for mismatched shapes, no row, a query without a negative, NaN, or a temperature that is not above
            0.

    Examples:
        >>> one = torch.ones(1, 2)
        >>> round(mixed_nce(one, one, torch.ones(3, 2), torch.ones(1, 4, 2)).item(), 4)  # log 8
        2.0794
    """
    check_number("temperature", temperature, above=0)
    exclude = check_negatives(queries, negatives, exclude)
    check_same_shape(queries=queries, positives=positives)
    check_finite("positives", positives)
    queries, positives, negatives = normalize_rows(queries), normalize_rows(positives), normalize_rows(negatives)
    with torch.autocast(queries.device.type, enabled=False):
        positive = torch.einsum("nd,nkd->nk", queries, positives[:, None])[:, 0] / temperature
    negative = similarity_logsumexp(queries, negatives, 1 / temperature, exclude=exclude)
    if synthetic is not None:
        if synthetic.ndim != 3 or synthetic.shape[::2] != queries.shape:
            batch, dim = queries.shape
            raise InputError(f"synthetic: expected [{batch}, mixtures, {dim}], got {list(synthetic.shape)}")
        check_finite("synthetic", synthetic)
        with torch.autocast(queries.device.type, enabled=False):
            mixed = torch.einsum("nd,nsd->ns", queries, normalize_rows(synthetic)) / temperature
        negative = torch.logaddexp(negative, mixed.logsumexp(1))
    return -gather(F.logsigmoid(positive - negative)).mean()


class HardNegativeMixing(nn.Module):
    """Makes the synthetic negatives of a batch: `mixing(queries, negatives)`.

    Args:
        num_hard: N, number of each query's most similar negatives that are mixed; all if there are fewer.
        pairs: s, mixtures of two of them, with weights uniform in (0, 1).
        query_pairs: s', mixtures of one of them with the query, whose weight is uniform in (0, 1/2).
        replace: draw the two of a pair with replacement; otherwise they differ, which takes two negatives a query.
    """

    def __init__(self, num_hard: int = 1024, pairs: int = 512, query_pairs: int = 256, replace: bool = True):
        super().__init__()
        check_counts(num_hard=num_hard)
        check_number("pairs", pairs, at_least=0, whole=True)
        check_number("query_pairs", query_pairs, at_least=0, whole=True)
        self.num_hard, self.pairs, self.query_pairs, self.replace = num_hard, pairs, query_pairs, replace

    @torch.no_grad()
    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        negatives: Float[Tensor, "queue dim"],
        exclude: Exclude | None = None,
        draws: Draws | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch mixtures dim"]:
        """First the mixtures of negatives, then those with the query; unit rows, without a gradient.

        Args:
            queries: one row per sample; normalised here.
            negatives: keys of other samples; normalised here.
            exclude: numbers of the queries and of the negatives; pairs with equal numbers are never mixed.
            draws: what to mix; drawn if not given, jointly for the queries of all processes.
            generator: source of the random numbers, on the device of the queries; torch's global one if not given.

        Raises:
            InputError: for mismatched shapes, no row, a query without a negative, NaN, or `draws` of negatives that a
                query does not have.
        """
        exclude = check_negatives(queries, negatives, exclude)
        queries, negatives = normalize_rows(queries), normalize_rows(negatives)
        if draws is None and not self.pairs + self.query_pairs:
            return queries.new_zeros(len(queries), 0, queries.shape[1])
        index, counts = _hardest_indices(queries, negatives, self.num_hard, exclude)
        if draws is None:
            own = global_row_indices(queries)
            drawn = draw(gather(counts), self.pairs, self.query_pairs, generator, self.replace)
            draws = Draws(*(x[own] for x in drawn))
        else:
            draws = _checked(draws, counts)
        first, second, partners = (
            negatives[index.gather(1, ranks)] for ranks in (*draws.pairs.unbind(2), draws.partners)
        )
        of_negatives = _mix(first, second, draws.alpha)
        with_query = _mix(queries[:, None].expand_as(partners), partners, draws.beta)
        return torch.cat([of_negatives, with_query], dim=1)


class MixedNCELoss(nn.Module):
    """`mixed_nce` as a module: `loss(queries, positives, negatives, mixing(queries, negatives))`.

    Args:
        temperature: above 0; MoCo v2 takes 0.2.
    """

    def __init__(self, temperature: float = 0.2):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        positives: Float[Tensor, "batch dim"],
        negatives: Float[Tensor, "queue dim"],
        synthetic: Float[Tensor, "batch mixtures dim"] | None = None,
        exclude: Exclude | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of each query's positive against shared and synthetic negatives; see `mixed_nce`."""
        return mixed_nce(queries, positives, negatives, synthetic, self.temperature, exclude)


def shuffled_groups(
    encode: Callable[[Float[Tensor, "some ..."]], Float[Tensor, "some dim"]], images: Tensor, groups: int
) -> Float[Tensor, "batch dim"]:
    """Keys of a batch that is encoded in random groups, each with batch statistics of its own: shuffled BN.

    A query and its key otherwise share the statistics of one batch, the queue's keys have others; a network can then
    recognise the positive by them. He et al., "Momentum Contrast", section 3.3, shuffle images between processors.

    Args:
        encode: images to keys; called for each group.
        images: the batch.
        groups: how many, of sizes that differ by at most 1; 1 encodes the batch as it is.

    Returns:
        The keys in the order of the images.

    Raises:
        InputError: for NaN, or if a group would have fewer than 2 images.

    Examples:
        >>> images = torch.arange(6.0)[:, None]
        >>> shuffled_groups(lambda some: some - some, images, groups=3).shape
        torch.Size([6, 1])
    """
    check_counts(groups=groups)
    check_finite("images", images)
    if groups == 1:
        return encode(images)
    if len(images) < 2 * groups:
        raise InputError(
            f"groups: expected at most {len(images) // 2} for {len(images)} images a process, got {groups}"
        )
    order = torch.randperm(len(images), device=images.device)
    keys = torch.cat([encode(images[some]) for some in order.tensor_split(groups)])
    return keys[order.argsort()]


class MoCHi(MoCo):
    """MoCo with synthetic negatives: the hardest of the queue, mixed with each other and with the query.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0.
        queue: number of keys that serve as negatives; below the number of training images.
        num_hard: number of each query's most similar negatives that are mixed.
        pairs: mixtures of two of them; 0 makes none.
        query_pairs: mixtures of one of them with the query; 0 makes none.
        plain_epochs: epochs before the first mixtures are made: the paper's warm-up.
        negatives: "all" of the queue; "other-images", without older keys of the query's own image; or "other-classes",
            without those of the query's class: this reads labels, to show the cost of false negatives.
        momentum: from 0 to 1; share of the key encoder that stays at each step.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        replace: draw the two negatives of a mixture with replacement; otherwise they always differ.
        query_plain_epochs: epochs before the first mixtures with the query are made; as many as `plain_epochs` if not
            given.
        key_groups: random groups of the batch that the key encoder normalises separately in training, against batch
            statistics that betray the positive; 1 leaves the batch whole.
        **recipe: arguments of `Method`.
    """

    owners: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.2,
        queue: int = 4096,
        num_hard: int = 256,
        pairs: int = 128,
        query_pairs: int = 64,
        plain_epochs: int = 0,
        negatives: Kept = "all",
        momentum: float = 0.99,
        hidden: int = 256,
        dim: int = 64,
        replace: bool = True,
        query_plain_epochs: int | None = None,
        key_groups: int = 1,
        **recipe: Any,
    ):
        super().__init__(encoder, temperature, queue, momentum, hidden, dim, **recipe)
        check_counts(key_groups=key_groups)
        check_number("plain_epochs", plain_epochs, at_least=0, whole=True)
        query_plain_epochs = plain_epochs if query_plain_epochs is None else query_plain_epochs
        check_number("query_plain_epochs", query_plain_epochs, at_least=0, whole=True)
        if negatives not in get_args(Kept):
            raise unknown("negatives", negatives, get_args(Kept))
        self.plain_epochs, self.query_plain_epochs = plain_epochs, query_plain_epochs
        self.negatives, self.key_groups = negatives, key_groups
        self.mixing = HardNegativeMixing(num_hard, pairs, query_pairs, replace)
        self.objective = MixedNCELoss(temperature)  # type: ignore[assignment]
        self.register_buffer("owners", torch.full((queue,), NOBODY))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Store the epoch, since the first ones may use no mixtures."""
        self.epoch.fill_(epoch)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the first view against the second's keys; in training mode, updates key encoder and queue."""
        queries = self.head(self.encoder(images[0]))
        with torch.no_grad():
            if self.training:
                update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
                update_momentum_encoder(self.head, self.key_head, self.momentum)
            keys = self.keys(images[1])
        own = labels if self.negatives == "other-classes" else index
        exclude = None if self.negatives == "all" else (own, self.owners)
        loss = self.objective(queries, keys, self.queue, self.mixtures(queries, exclude), exclude)
        if self.training:
            self.note(own)
            self.enqueue(keys)
        return loss

    def keys(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The momentum encoder's keys; in training mode, each group of the batch has its own statistics."""
        groups = self.key_groups if self.training else 1
        return shuffled_groups(lambda some: self.key_head(self.key_encoder(some)), images, groups)

    def mixtures(
        self, queries: Float[Tensor, "batch dim"], exclude: Exclude | None
    ) -> Float[Tensor, "batch mixtures dim"] | None:
        """Those of the kinds that have begun by this epoch."""
        begun = (bool(self.epoch >= self.plain_epochs), bool(self.epoch >= self.query_plain_epochs))
        if not any(begun):
            return None
        mixtures = self.mixing(queries, self.queue, exclude)
        if all(begun):
            return mixtures
        return mixtures[:, : self.mixing.pairs] if begun[0] else mixtures[:, self.mixing.pairs :]

    def note(self, own: Integer[Tensor, " batch"]) -> None:
        """Record the owners, images or classes, of the keys about to enter the queue; unlabelled images own none."""
        own = gather(own)[-len(self.queue) :]
        slots = (self.pointer + torch.arange(len(own), device=own.device)) % len(self.queue)
        self.owners = self.owners.index_copy(0, slots, own.where(own >= 0, NOBODY))

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`proxy_accuracy`: share of test images with one view nearer to the other's key than to any negative.

        The negatives are those of the queue and the mixtures: this is the accuracy on the pretext task.
        """
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            queries = normalize_rows(embed(nn.Sequential(self.encoder, self.head), test, self.view))
            keys = normalize_rows(embed(nn.Sequential(self.key_encoder, self.key_head), test, self.view))
            first = 0
            for query, key in zip(queries.to(self.queue).split(512), keys.to(self.queue).split(512), strict=True):
                mixtures = torch.einsum("nd,nsd->ns", query, self.mixing(query, self.queue))
                negative = torch.cat([query @ self.queue.T, mixtures], dim=1).amax(1)
                first += int(((query * key).sum(1) > negative).sum())
        return {"proxy_accuracy": first / len(test)}


def _checked(draws: Draws, counts: Integer[Tensor, " batch"]) -> Draws:
    """Check the draws, since a query may have fewer negatives than others; return them with ranks as int64."""
    rows, (pairs, partners) = len(counts), (draws.pairs, draws.partners)
    if pairs.shape != (rows, *draws.alpha.shape[1:], 2) or len(draws.alpha) != rows:
        raise InputError(f"draws.pairs: expected [{rows}, pairs, 2] as alpha has pairs, got shape {list(pairs.shape)}")
    if partners.shape != draws.beta.shape or partners.ndim != 2 or len(partners) != rows:
        got = list(partners.shape)
        raise InputError(f"draws.partners: expected [{rows}, query_pairs] as beta has, got shape {got}")
    check_values("draws.alpha", draws.alpha, at_least=0, at_most=1)
    check_values("draws.beta", draws.beta, at_least=0, at_most=1)
    pairs, partners = (
        check_integers(name, ranks.flatten(), ranks.numel(), low=0).view(ranks.shape)
        for name, ranks in (("draws.pairs", pairs), ("draws.partners", partners))
    )
    for name, ranks in (("draws.pairs", pairs), ("draws.partners", partners)):
        beyond = ranks.flatten(1) >= counts[:, None]
        if beyond.any():
            query = int(beyond.any(1).nonzero()[0])
            rank = int(ranks[query].max())
            raise InputError(
                f"{name}: expected ranks below {int(counts[query])}, the negatives of query {query}, got {rank}"
            )
    return draws._replace(pairs=pairs, partners=partners)
