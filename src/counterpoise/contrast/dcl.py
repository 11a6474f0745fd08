"""Decoupled contrastive learning: the positive leaves InfoNCE's denominator, so that small batches learn too.

Yeh, Hong, Hsu, Liu, Chen, LeCun, "Decoupled Contrastive Learning", ECCV 2022, arXiv 2110.06848: equation 6 (DCL), its
von Mises-Fisher weighted form (DCLW), and the multiplier of Proposition 1 that the loss removes.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.contrast.moco import enqueue
from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
)
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp

Form = Literal["two-way", "one-way", "moco"]


def dcl(
    z1: Float[Tensor, "batch dim"],
    z2: Float[Tensor, "batch dim"],
    temperature: float = 0.1,
    weights: Float[Tensor, " batch"] | None = None,
    normalize: bool = True,
    one_way: bool = False,
) -> Float[Tensor, ""]:
    r"""Decoupled contrastive loss of two views, mean over all 2N anchors.

    Anchor i with positive p(i), the other view of its sample, has the loss
    $-w_i s_{i,p(i)}/T + \log \sum_k e^{s_{ik}/T}$, where k runs over both views of the other samples: 2N-2 terms.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: $T > 0$.
        weights: $w$, one per sample; 1 if not given.
        normalize: scale the rows to unit length first, so that $s$ are cosines; otherwise they are inner products.
        one_way: only the N rows of the first view are anchors; each still has 2N-2 negatives.

    Returns:
        The loss in nats; it may be negative. Cosines and $w = 1$ bound it from below by $\log(2N-2) - 2/T$.

    Raises:
        InputError: for different shapes, fewer than 2 samples, which leaves no negative, NaN, a temperature that is
            not above 0, or, without `normalize`, rows longer than 1e8.

    Examples:
        >>> z = 2 * torch.eye(3)
        >>> round(dcl(z, z, temperature=0.5).item(), 6)  # -1/T + log 4
        -0.613706
    """
    check_number("temperature", temperature, above=0)
    z1, z2 = _rows(z1, z2, normalize)
    if weights is not None:
        _check_weights(weights, z1)
    return _dcl(z1, z2, temperature, weights, one_way)


def _dcl(
    z1: Tensor, z2: Tensor, temperature: float, weights: Tensor | None, one_way: bool = False
) -> Float[Tensor, ""]:
    positive, negatives = _positive_and_negatives(z1, z2, temperature, one_way)
    return _decoupled(positive, negatives, weights)


def _decoupled(positive: Tensor, negatives: Tensor, weights: Tensor | None) -> Float[Tensor, ""]:
    positive = positive if weights is None else weights * positive
    return gather(negatives).mean() - gather(positive).mean()


def queue_dcl(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float = 0.1,
    weights: Float[Tensor, " batch"] | None = None,
    normalize: bool = True,
) -> Float[Tensor, ""]:
    r"""Decoupled contrastive loss of MoCo: each query against its key and a queue that all queries share.

    The mean over the queries of $-w_i s_{i,+}/T + \log \sum_k e^{s_{ik}/T}$, where k runs over the queue alone.

    Args:
        queries: one row per sample; normalised here, as are the others.
        positives: the key of each query.
        negatives: keys of other samples.
        temperature: $T > 0$.
        weights: $w$, one per sample; 1 if not given.
        normalize: scale the rows to unit length first, so that $s$ are cosines; otherwise they are inner products.

    Returns:
        The loss in nats; it may be negative. Cosines and $w = 1$ bound it from below by $\log M - 2/T$ for M negatives.

    Raises:
        InputError: for mismatched shapes, no row, NaN, a temperature that is not above 0, or, without `normalize`, rows
            longer than 1e8.

    Examples:
        >>> key = torch.tensor([[1.0, 0.0]])
        >>> queue_dcl(key, key, torch.tensor([[0.0, 1.0]]), temperature=0.5, weights=torch.ones(1))  # -1/T + log 1
        tensor(-2.)
    """
    check_number("temperature", temperature, above=0)
    queries, positives, negatives = _keyed_rows(queries, positives, negatives, normalize)
    if weights is not None:
        _check_weights(weights, queries)
    return _queue_dcl(queries, positives, negatives, temperature, weights)


def _queue_dcl(
    queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float, weights: Tensor | None
) -> Float[Tensor, ""]:
    # All processes hold the same queue, so that nothing is gathered here.
    logsumexp = similarity_logsumexp(queries, negatives, 1 / temperature)
    return _decoupled(_similarity(queries, positives) / temperature, logsumexp, weights)


def von_mises_fisher_weights(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], sigma: float = 0.5, normalize: bool = True
) -> Float[Tensor, " batch"]:
    r"""DCLW's weights of the positive pairs, $w_i = 2 - e^{s_i/\sigma} / \frac1N \sum_k e^{s_k/\sigma}$.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        sigma: $\sigma > 0$; larger values bring all weights nearer to 1.
        normalize: scale the rows to unit length first, so that $s$ are cosines; otherwise they are inner products.

    Returns:
        One weight per sample: mean 1, smaller for better aligned pairs, from 2-N to 2.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, a sigma not above 0, or, without `normalize`, rows
            longer than 1e8.

    Examples:
        >>> aligned, crossed = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> von_mises_fisher_weights(torch.stack([aligned, aligned]), torch.stack([aligned, crossed]))
        tensor([0.2384, 1.7616])
    """
    check_number("sigma", sigma, above=0)
    return _von_mises_fisher_weights(*_rows(z1, z2, normalize), sigma)


def _von_mises_fisher_weights(z1: Tensor, z2: Tensor, sigma: float) -> Float[Tensor, " batch"]:
    own = _similarity(z1, z2) / sigma
    everyone = gather(own)
    return 2 - len(everyone) * (own - everyone.logsumexp(0)).exp()


def npc_multiplier(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, " anchors"]:
    r"""Negative-positive coupling: the factor $q_i$ in InfoNCE's gradient that DCL's lacks.

    $q_i = 1 - e^{s_{i,p(i)}/T} / \sum_{k \ne i} e^{s_{ik}/T}$, the probability that InfoNCE gives to the negatives.
    Where the positive is easy or negatives are few, it is near 0 and InfoNCE learns nothing from the anchor.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: $T > 0$.

    Returns:
        Numbers from 0 to 1: the anchors of the first view, then those of the second.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, or a temperature that is not above 0.

    Examples:
        >>> npc_multiplier(torch.ones(2, 3), torch.ones(2, 3))  # two negatives, as near as the positive
        tensor([0.6667, 0.6667, 0.6667, 0.6667])
    """
    check_number("temperature", temperature, above=0)
    positive, negatives = _positive_and_negatives(*_rows(z1, z2), temperature)
    return torch.sigmoid(negatives - positive.repeat(2))


class DCLLoss(nn.Module):
    """`dcl` as a module: `loss(z1, z2)`; with a queue of negatives `queue_dcl`: `loss(queries, keys, queue)`.

    Args:
        temperature: above 0.
        weighted: DCLW, which pulls poorly aligned pairs harder.
        sigma: above 0; how slowly DCLW's weights fall with the alignment of a pair.
        reduction: of the two directions between the views: "mean", or "sum" as in the reference training code.
        normalize: scale the rows to unit length first.
        detach_weights: stop the gradient at DCLW's weights.
        one_way: only the rows of the first view are anchors, which is one of the two directions.

    Examples:
        >>> z = torch.eye(2)
        >>> DCLLoss(temperature=0.5)(z, z)  # two negatives at 0: -1/T + log 2
        tensor(-1.3069)
        >>> DCLLoss(temperature=0.5)(z, z, queue=torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))  # one at 0, one at -1
        tensor(-1.8731)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weighted: bool = False,
        sigma: float = 0.5,
        reduction: Literal["mean", "sum"] = "mean",
        normalize: bool = True,
        detach_weights: bool = True,
        one_way: bool = False,
    ):
        super().__init__()
        check_number("temperature", temperature, above=0)
        check_number("sigma", sigma, above=0)
        if reduction not in ("mean", "sum"):
            raise unknown("reduction", reduction, ("mean", "sum"))
        self.temperature, self.weighted, self.sigma = temperature, weighted, sigma
        self.reduction, self.normalize, self.detach_weights = reduction, normalize, detach_weights
        self.one_way = one_way

    def forward(
        self,
        z1: Float[Tensor, "batch dim"],
        z2: Float[Tensor, "batch dim"],
        queue: Float[Tensor, "queue dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of two views of the same samples; see `dcl`.

        Args:
            z1: one row per sample, first view.
            z2: the same samples, second view.
            queue: keys of other samples, which are then the only negatives: rows of `z1` are queries, and those of `z2`
                their keys; see `queue_dcl`.

        Raises:
            InputError: as `dcl` or `queue_dcl`.
        """
        if queue is not None:
            queries, keys, negatives = _keyed_rows(z1, z2, queue, self.normalize, names=("z1", "z2", "queue"))
            return _queue_dcl(queries, keys, negatives, self.temperature, self._weights(queries, keys))
        z1, z2 = _rows(z1, z2, self.normalize)
        loss = _dcl(z1, z2, self.temperature, self._weights(z1, z2), self.one_way)
        return 2 * loss if self.reduction == "sum" and not self.one_way else loss

    def _weights(self, z1: Tensor, z2: Tensor) -> Float[Tensor, " batch"] | None:
        if not self.weighted:
            return None
        weights = _von_mises_fisher_weights(z1, z2, self.sigma)
        return weights.detach() if self.detach_weights else weights


class DCL(ProjectedMethod):
    """SimCLR, or MoCo, with the decoupled loss: less need for large batches and tuned temperatures.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0.
        weighted: DCLW, which pulls poorly aligned pairs harder.
        sigma: above 0; how slowly DCLW's weights fall with the alignment of a pair.
        form: "two-way", both views are anchors; "one-way", only the first is; "moco", the first view is compared with
            the second one's key of a momentum encoder and with a queue of earlier keys.
        queue: of the form "moco", number of keys that serve as negatives; below the number of training images.
        momentum: of the form "moco", share of the key encoder that stays at each step, from 0 to 1.
        detach_weights: stop the gradient at DCLW's weights.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        **recipe: arguments of `ProjectedMethod`.
    """

    queue: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.1,
        weighted: bool = False,
        sigma: float = 0.5,
        form: Form = "two-way",
        queue: int = 4096,
        momentum: float = 0.99,
        detach_weights: bool = True,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, hidden=hidden, dim=dim, **recipe)
        if form not in get_args(Form):
            raise unknown("form", form, get_args(Form))
        check_counts(queue=queue)
        check_number("momentum", momentum, at_least=0, at_most=1)
        self.form, self.momentum = form, momentum
        self.objective = DCLLoss(temperature, weighted, sigma, detach_weights=detach_weights, one_way=form == "one-way")
        if form == "moco":
            # As in MoCo: batch normalisation would let a query find its key by the batch that both are in.
            self.head = mlp(self.features, hidden, dim, batch_norm=False)
            self.key_encoder, self.key_head = momentum_copy(self.encoder), momentum_copy(self.head)
            # The queue starts with random directions, which the first batches replace.
            self.register_buffer("queue", normalize_rows(torch.randn(queue, dim)))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """DCL, or DCLW, of the projections of both views; the form "moco", in training mode, updates keys and queue."""
        if self.form == "moco":
            return self._loss_by_queue(*images)
        z1, z2 = self.projections(images)
        return self.objective(z1, z2)

    def _loss_by_queue(self, first: Tensor, second: Tensor) -> Float[Tensor, ""]:
        queries = self.head(self.encoder(first))
        with torch.no_grad():
            if self.training:
                update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
                update_momentum_encoder(self.head, self.key_head, self.momentum)
            keys = self.key_head(self.key_encoder(second))
        loss = self.objective(queries, keys, self.queue)
        if self.training:
            self.queue, _ = enqueue(self.queue, keys)
        return loss


def _rows(z1: Tensor, z2: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """Check the rows; return them as they are compared."""
    check_same_shape(z1=z1, z2=z2)
    for name, z in (("z1", z1), ("z2", z2)):
        check_matrix(name, z)
        if not normalize:
            check_lengths(name, z)
    global_row_indices(z1, "z1", at_least=2)
    return (normalize_rows(z1), normalize_rows(z2)) if normalize else (z1, z2)


def _keyed_rows(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    normalize: bool,
    names: tuple[str, str, str] = ("queries", "positives", "negatives"),
) -> tuple[Tensor, Tensor, Tensor]:
    """Check queries, their keys and a queue; return them as they are compared."""
    rows = dict(zip(names, (queries, keys, negatives), strict=True))
    check_same_shape(**{name: rows[name] for name in names[:2]})
    for name, x in rows.items():
        check_matrix(name, x)
        if not normalize:
            check_lengths(name, x)
    if negatives.shape[1] != queries.shape[1]:
        widths = f"{queries.shape[1]} and {negatives.shape[1]}"
        raise InputError(f"{names[0]} and {names[2]}: expected the same width, got {widths}")
    if not normalize:
        return queries, keys, negatives
    return normalize_rows(queries), normalize_rows(keys), normalize_rows(negatives)


def _check_weights(weights: Tensor, rows: Tensor) -> None:
    if weights.shape != rows.shape[:1]:
        raise InputError(f"weights: expected one for each of the {len(rows)} samples, got shape {list(weights.shape)}")
    check_finite("weights", weights)


def _positive_and_negatives(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float, one_way: bool = False
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " anchors"]]:
    """The logit of each sample's positive, and the log-sum-exp of the negatives' logits of each of the 2N anchors.

    One way, the anchors are the N rows of the first view.
    """
    sample, z, scale = global_row_indices(z1), torch.cat([z1, z2]), 1 / temperature
    both = sample.repeat(2)
    if one_way:
        negatives = similarity_logsumexp(z1, z, scale, exclude=(sample, both), gather_distributed=True)
    else:
        negatives = similarity_logsumexp(z, scale=scale, exclude=both, gather_distributed=True)
    return _similarity(z1, z2) / temperature, negatives


def _similarity(z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    dtype = torch.promote_types(z1.dtype, torch.float32)
    return (z1.to(dtype) * z2.to(dtype)).sum(1)
