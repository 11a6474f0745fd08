"""The effect of the temperature on a contrastive loss, and explicit selection of hard negatives in its place.

Wang & Liu, "Understanding the Behaviour of Contrastive Loss", CVPR 2021, arXiv 2012.09740, equations 1 to 9. Its
measures uniformity and tolerance (equations 10 and 11) are in `measure.geometry`.

The softmax of InfoNCE pushes negatives away in proportion to e^{s/T}: the smaller T, the more the push concentrates on
the nearest ones. Small temperatures spread the embeddings uniformly but tear classes apart, large ones tolerate
neighbours but crowd the sphere. Using only the hardest negatives makes the embeddings uniform at any temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.negatives import Exclude, check_negatives
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.measure import tolerance, uniformity
from counterpoise.nets import embed
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_counts, check_matrix, check_number, check_same_shape
from counterpoise.ops.chunking import reduce_similarities
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp, similarity_softmax

HARD = 0.0819  # of 50,000 images: the paper's 4,095 hard negatives on CIFAR


def relative_penalty(
    similarity: Float[Tensor, "*queries negatives"], temperature: float
) -> Float[Tensor, "*queries negatives"]:
    r"""How InfoNCE weights the negatives: $r_{ij} = e^{s_{ij}/T} / \sum_k e^{s_{ik}/T}$, equation 5.

    It is the gradient on a negative divided by that on the positive, and does not depend on the positive.

    Args:
        similarity: of the queries to their negatives; $-\infty$ for an excluded pair.
        temperature: $T > 0$.

    Returns:
        Shares that sum to 1 for each query.

    Raises:
        InputError: for a query without a negative, NaN, or a temperature that is not above 0.

    Examples:
        >>> relative_penalty(torch.tensor([1.0, 0.5, 0.0]), temperature=0.25)
        tensor([0.8668, 0.1173, 0.0159])
    """
    check_number("temperature", temperature, above=0)
    _check_similarity(similarity)
    return torch.softmax(similarity / temperature, dim=-1)


def penalty_entropy(
    queries: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    temperature: float,
    exclude: Exclude | None = None,
) -> Float[Tensor, " batch"]:
    r"""Entropy of each query's `relative_penalty`, $H(r_i) = \log \sum_k e^{s_{ik}/T} - \frac1T \sum_k r_{ik} s_{ik}$.

    It rises with the temperature, unless all negatives are equally near. The similarity matrix is not stored.

    Args:
        queries: one row per sample; normalised here, as are the others.
        negatives: keys of other samples.
        temperature: $T > 0$.
        exclude: numbers of the queries and of the negatives; pairs with equal numbers are excluded.

    Returns:
        Nats, from 0 (the nearest negative takes all) to the log of the number of negatives (all are pushed equally).

    Raises:
        InputError: for mismatched shapes, no row, a query without a negative, NaN, or a temperature that is not above
            0.

    Examples:
        >>> penalty_entropy(torch.eye(2), torch.eye(2), temperature=1e6)  # log 2
        tensor([0.6931, 0.6931])
    """
    check_number("temperature", temperature, above=0)
    exclude = check_negatives(queries, negatives, exclude)
    moments = similarity_softmax(normalize_rows(queries), normalize_rows(negatives), 1 / temperature, exclude=exclude)
    return moments.logsumexp - moments.mean / temperature


def hard_negatives(
    similarity: Float[Tensor, "batch negatives"], alpha: float = HARD, num_hard: int | None = None
) -> Bool[Tensor, "batch negatives"]:
    r"""Mask of each query's hardest negatives: those in its upper $\alpha$-quantile.

    Args:
        similarity: of the queries to their negatives; $-\infty$ for an excluded pair.
        alpha: share of each query's negatives that count, above 0, at most 1; rounded, but to at least one.
        num_hard: number that count, in place of `alpha`; all if there are fewer.

    Returns:
        True for that many of the most similar negatives; all ties at the threshold are kept. It carries no gradient.

    Raises:
        InputError: for a query without a negative, NaN, or a number out of range.

    Examples:
        >>> hard_negatives(torch.tensor([[0.1, 0.9, 0.5, 0.5]]), num_hard=2)
        tensor([[False,  True,  True,  True]])
    """
    _check_share(alpha, num_hard)
    if similarity.ndim != 2:
        raise InputError(f"similarity: expected a matrix [batch, negatives], got shape {list(similarity.shape)}")
    if not len(similarity):
        raise InputError("similarity: expected at least 1 query, got none")
    _check_similarity(similarity)
    return _hard_negatives(similarity, alpha, num_hard)


def _hard_negatives(similarity: Tensor, alpha: float, num_hard: int | None) -> Bool[Tensor, "batch negatives"]:
    similarity = similarity.detach()
    counts = (similarity > -torch.inf).sum(1)
    _check_counts(counts)
    kept = (alpha * counts.double()).round().long().clamp(min=1) if num_hard is None else counts.clamp(max=num_hard)
    ranked = similarity.topk(int(kept.max()), dim=1).values
    return similarity >= ranked.gather(1, kept[:, None] - 1)


def hard_contrastive(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    temperature: float = 0.3,
    alpha: float = HARD,
    num_hard: int | None = None,
    exclude: Exclude | None = None,
) -> Float[Tensor, ""]:
    r"""InfoNCE against only each query's hardest negatives: equations 8 and 9; with `alpha` 1, equation 1.

    With cosines $s$, the mean over the queries of $-\log \frac{e^{s_+/T}}{e^{s_+/T} + \sum_k e^{s_k/T}}$, k over the
    negatives whose similarity is in the upper $\alpha$-quantile of the query's. The positive always stays in the
    denominator.

    Args:
        queries: one row per sample; normalised here, as are the others.
        positives: the key of each query.
        negatives: keys of other samples, such as a queue or a memory bank; every process holds all of them.
        temperature: $T > 0$.
        alpha: share of each query's negatives that count, above 0, at most 1.
        num_hard: how many of them count, in place of `alpha`.
        exclude: numbers of the queries and of the negatives; pairs with equal numbers are excluded, such as the query's
            own entry in a bank.

    Returns:
        The loss in nats, above 0; $\log(1+M)$ for M negatives where all rows are equal.

    Raises:
        InputError: for mismatched shapes, no row, a query without a negative, NaN, or a number out of range.

    Examples:
        >>> query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> round(hard_contrastive(query, query, negatives, temperature=1.0, alpha=0.5).item(), 6)  # log(1 + 1/e)
        0.313262
    """
    check_number("temperature", temperature, above=0)
    _check_share(alpha, num_hard)
    exclude = _check(queries, positives, negatives, exclude)
    queries, positives, negatives = normalize_rows(queries), normalize_rows(positives), normalize_rows(negatives)
    positive = (queries * positives).sum(1) / temperature
    if alpha == 1 and num_hard is None:
        negative = similarity_logsumexp(queries, negatives, 1 / temperature, exclude=exclude)
    else:

        def log_sum(similarity: Tensor) -> Tensor:
            hard = _hard_negatives(similarity, alpha, num_hard)
            return (similarity / temperature).masked_fill(~hard, -torch.inf).logsumexp(1)

        negative = reduce_similarities(log_sum, queries, negatives, exclude)
    return -gather(F.logsigmoid(positive - negative)).mean()


def simple_contrastive(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    alpha: float = 1.0,
    num_hard: int | None = None,
    weight: float | None = None,
    exclude: Exclude | None = None,
) -> Float[Tensor, ""]:
    r"""The loss without a softmax, $-s_+ + \lambda \sum_k s_k$, mean over the queries: equation 3.

    With `alpha` below 1, k runs over the hardest negatives only: the paper's hard-simple loss.

    Args:
        queries: one row per sample; normalised here, as are the others.
        positives: the key of each query.
        negatives: keys of other samples; every process holds all of them.
        alpha: share of each query's negatives that count, above 0, at most 1; 1 needs no similarity matrix.
        num_hard: how many of them count, in place of `alpha`.
        weight: $\lambda \ge 0$; `None` takes one over the number of negatives that count, the limit of InfoNCE, scaled
            and shifted, as its temperature grows.
        exclude: numbers of the queries and of the negatives; pairs with equal numbers are excluded.

    Returns:
        The loss; from -2 to 2 without a `weight`.

    Raises:
        InputError: for mismatched shapes, no row, a query without a negative, NaN, or a number out of range.

    Examples:
        >>> query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [-1.0, 0.0]])
        >>> simple_contrastive(query, query, negatives), simple_contrastive(query, query, negatives, num_hard=1)
        (tensor(-1.2000), tensor(-0.4000))
    """
    _check_share(alpha, num_hard)
    if weight is not None:
        check_number("weight", weight, at_least=0)
    exclude = _check(queries, positives, negatives, exclude)
    queries, positives, negatives = normalize_rows(queries), normalize_rows(positives), normalize_rows(negatives)
    if alpha == 1 and num_hard is None:
        negative = _mean_of_all(queries, negatives, exclude, weight)
    else:

        def mean(similarity: Tensor) -> Tensor:
            hard = _hard_negatives(similarity, alpha, num_hard)
            return _mean(similarity.masked_fill(~hard, 0).sum(1), hard.sum(1), weight)

        negative = reduce_similarities(mean, queries, negatives, exclude)
    return gather(negative - (queries * positives).sum(1)).mean()


class HardContrastiveLoss(nn.Module):
    """`hard_contrastive` as a module: `loss(queries, positives, negatives)`.

    Args:
        temperature: above 0; the paper finds 0.2 to 0.3 best with all negatives, and little difference with hard ones.
        alpha: share of each query's negatives that count, above 0, at most 1; 1 is InfoNCE.
        num_hard: how many of them count, in place of `alpha`.
    """

    def __init__(self, temperature: float = 0.3, alpha: float = HARD, num_hard: int | None = None):
        super().__init__()
        check_number("temperature", temperature, above=0)
        _check_share(alpha, num_hard)
        self.temperature, self.alpha, self.num_hard = temperature, alpha, num_hard

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        positives: Float[Tensor, "batch dim"],
        negatives: Float[Tensor, "negatives dim"],
        exclude: Exclude | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of each query's positive against its hardest negatives; see `hard_contrastive`."""
        return hard_contrastive(
            queries, positives, negatives, self.temperature, self.alpha, self.num_hard, exclude=exclude
        )


class SimpleContrastiveLoss(nn.Module):
    """`simple_contrastive` as a module: `loss(queries, positives, negatives)`.

    Args:
        alpha: share of each query's negatives that count, above 0, at most 1; below 1 it is the hard-simple loss.
        num_hard: how many of them count, in place of `alpha`.
        weight: of the sum over the negatives, at least 0; `None` takes one over the number of negatives that count.
    """

    def __init__(self, alpha: float = 1.0, num_hard: int | None = None, weight: float | None = None):
        super().__init__()
        _check_share(alpha, num_hard)
        if weight is not None:
            check_number("weight", weight, at_least=0)
        self.alpha, self.num_hard, self.weight = alpha, num_hard, weight

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        positives: Float[Tensor, "batch dim"],
        negatives: Float[Tensor, "negatives dim"],
        exclude: Exclude | None = None,
    ) -> Float[Tensor, ""]:
        """The linear loss of each query; see `simple_contrastive`."""
        return simple_contrastive(
            queries, positives, negatives, self.alpha, self.num_hard, self.weight, exclude=exclude
        )


class HardContrastive(Method):
    """Instance discrimination: each image's embedding against the hardest entries of a memory bank of all images.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        simple: use the loss without a softmax, which has no temperature.
        temperature: above 0; with all negatives, small values spread embeddings evenly and large ones tolerate
            neighbours.
        alpha: share of the negatives that count, above 0, at most 1; 1 uses all, which is the ordinary loss.
        momentum: from 0 to 1; share of a bank's entry that stays when its image is seen.
        dim: width of the embedding, one linear layer from the features.
        **recipe: arguments of `Method`.
    """

    views = 1
    bank: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        simple: bool = False,
        temperature: float = 0.3,
        alpha: float = HARD,
        momentum: float = 0.5,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(dim=dim)
        check_number("samples", samples, at_least=2, whole=True)
        check_number("temperature", temperature, above=0)
        check_number("momentum", momentum, at_least=0, at_most=1)
        self.momentum = momentum
        self.head = linear(self.features, dim)
        self.objective = SimpleContrastiveLoss(alpha) if simple else HardContrastiveLoss(temperature, alpha)
        # Random initial directions, as in instance discrimination; the first epoch replaces them.
        self.register_buffer("bank", normalize_rows(torch.randn(samples, dim)))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of each embedding against the bank, its own entry the positive; training mode updates the bank."""
        z = self.head(self.encoder(images[0]))
        everyone = torch.arange(len(self.bank), device=index.device)
        value = self.objective(z, self.bank[index], self.bank, exclude=(index, everyone))
        if self.training:
            self.remember(z, index)
        return value

    @torch.no_grad()
    def remember(self, z: Float[Tensor, "batch dim"], index: Index) -> None:
        """Move the bank entries of these images, from all processes, towards their newest embeddings."""
        z, index = gather(normalize_rows(z)), gather(index)
        entries = normalize_rows(z.lerp(self.bank[index].to(z.dtype), self.momentum)).to(self.bank.dtype)
        # Not in place: the backward pass of this step still needs the bank as it was.
        self.bank = self.bank.index_copy(0, index, entries)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """`embedding_uniformity`, lower is more uniform, and `embedding_tolerance`, of the unit embeddings.

        The tolerance is missing if no class has two test images.
        """
        z = embed(nn.Sequential(self.encoder, self.head), test, to_float)
        found = {"embedding_uniformity": float(uniformity(z))}
        if (test.counts() > 1).any():
            found["embedding_tolerance"] = float(tolerance(z, test.labels))
        return found


def _check(queries: Tensor, positives: Tensor, negatives: Tensor, exclude: Exclude | None) -> Exclude | None:
    """Check all arguments; return `exclude` as int64."""
    check_same_shape(queries=queries, positives=positives)
    check_matrix("positives", positives)
    return check_negatives(queries, negatives, exclude)


def _check_similarity(similarity: Tensor) -> None:
    """Refuse a query without a negative, NaN, and infinity: a query's largest similarity shows all of them."""
    if not similarity.shape[-1:].numel():
        raise InputError(f"similarity: expected at least 1 negative, got shape {list(similarity.shape)}")
    if not similarity.is_floating_point():
        raise InputError(f"similarity: expected floating-point numbers, got {similarity.dtype}")
    if not torch.isfinite(similarity.detach().amax(-1)).all():
        raise InputError("similarity: expected finite numbers, -infinity for no pair, and one negative for each query")


def _check_share(alpha: float, num_hard: int | None) -> None:
    check_number("alpha", alpha, above=0, at_most=1)
    if num_hard is not None:
        check_counts(num_hard=num_hard)


def _mean_of_all(
    queries: Tensor, negatives: Tensor, exclude: Exclude | None, weight: float | None
) -> Float[Tensor, " batch"]:
    """The mean similarity of each query to its negatives, computed from sums of rows."""
    total, counts = negatives.sum(0), torch.full((len(queries),), len(negatives), device=queries.device)
    if exclude is not None:
        groups, group = torch.cat(exclude).unique(return_inverse=True)
        own, others = group.split([len(queries), len(negatives)])
        total = total - negatives.new_zeros(len(groups), negatives.shape[1]).index_add(0, others, negatives)[own]
        counts = counts - others.bincount(minlength=len(groups))[own]
        _check_counts(counts)
    return _mean((queries * total).sum(1), counts, weight)


def _mean(
    total: Float[Tensor, " batch"], counts: Integer[Tensor, " batch"], weight: float | None
) -> Float[Tensor, " batch"]:
    return total / counts if weight is None else weight * total


def _check_counts(counts: Integer[Tensor, " batch"]) -> None:
    if not counts.all():
        raise InputError(f"negatives: query {int((counts == 0).nonzero()[0])} has none left to compare with")
