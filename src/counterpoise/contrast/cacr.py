"""CACR: contrast positives with positives and negatives with negatives, each weighted by its distance to the query.

Zheng et al., "Contrastive Attraction and Contrastive Repulsion for Representation Learning", TMLR 2023,
arXiv 2105.03746.

InfoNCE puts one positive and many negatives into one softmax. Here far positives are pulled harder than near ones, near
negatives are pushed harder than far ones, and the two groups share no normaliser. D is the squared Euclidean distance.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.moco import enqueue
from counterpoise.contrast.negatives import Exclude, check_negatives
from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops import processes
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_lengths,
    check_matrix,
    check_number,
)
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32, normalize_rows, similarity_logsumexp, similarity_softmax

Weights = Literal["both", "positive", "negative", "none"]
Cost = Literal["euclidean", "rbf"]
Form = Literal["batch", "queue", "momentum"]


def attraction(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch positives dim"],
    t_pos: float = 1.0,
    detach_weights: bool = False,
) -> Float[Tensor, " batch"]:
    r"""Mean squared distance to the positives, far ones weighted more: $\sum_k w_k D_k$, $w_k \propto e^{t^+ D_k}$.

    Args:
        queries: one anchor a row; used as it is, as are the positives.
        positives: the other views of each anchor.
        t_pos: $t^+$, per unit of squared distance; 0 weights all equally, large values only the farthest.
        detach_weights: stop the gradient at the weights.

    Returns:
        One value per query, from 0 to 4 for unit vectors; at least float32.

    Raises:
        InputError: for mismatched shapes, no positive, NaN, rows longer than 1e8, or a sharpness below 0.

    Examples:
        >>> round(attraction(torch.zeros(1, 1), torch.tensor([[[1.0], [2.0]]]), t_pos=0).item(), 4)
        2.5
        >>> round(attraction(torch.zeros(1, 1), torch.tensor([[[1.0], [2.0]]]), t_pos=1).item(), 4)
        3.8577
    """
    check_number("t_pos", t_pos, at_least=0)
    check_matrix("queries", queries, at_least=0)
    check_finite("positives", positives)
    _check_positives(queries, positives)
    if len(queries):
        check_lengths("queries", queries)
        check_lengths("positives", positives)
    return _attraction(at_least_float32(queries), at_least_float32(positives), t_pos, detach_weights)


def _attraction(queries: Tensor, positives: Tensor, t_pos: float, detach_weights: bool) -> Float[Tensor, " batch"]:
    distance = (queries[:, None] - positives).square().sum(-1)
    weights = torch.softmax(t_pos * distance, dim=-1)
    return torch.einsum("bk,bk->b", weights.detach() if detach_weights else weights, distance)


def repulsion(
    queries: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    t_neg: float = 2.0,
    exclude: Exclude | None = None,
    detach_weights: bool = False,
    gather_distributed: bool = False,
) -> Float[Tensor, " batch"]:
    r"""Minus the mean squared distance to the negatives, near ones weighted more: $w_j \propto e^{-t^- D_j}$.

    Args:
        queries: one anchor a row; used as it is, as are the negatives.
        negatives: shared by all queries.
        t_neg: $t^-$, per unit of squared distance; 0 weights all equally, large values only the nearest.
        exclude: IDs of queries and negatives; pairs with equal IDs are excluded.
        detach_weights: stop the gradient at the weights.
        gather_distributed: compare with the negatives of all processes.

    Returns:
        One value per query, from -4 to 0 for unit vectors.

    Raises:
        InputError: if a query has no negative left; for mismatched shapes, no row, NaN, rows longer than 1e8, or a
            sharpness below 0.

    Examples:
        >>> round(repulsion(torch.zeros(1, 1), torch.tensor([[1.0], [2.0]]), t_neg=0).item(), 4)
        -2.5
        >>> round(repulsion(torch.zeros(1, 1), torch.tensor([[1.0], [2.0]]), t_neg=1).item(), 4)
        -1.1423
    """
    check_number("t_neg", t_neg, at_least=0)
    exclude = _check_negatives(queries, negatives, exclude)
    queries, negatives = at_least_float32(queries), at_least_float32(negatives)
    return _repulsion(queries, negatives, t_neg, exclude, detach_weights, gather_distributed)


def _repulsion(
    queries: Tensor,
    negatives: Tensor,
    t_neg: float,
    exclude: Exclude | None,
    detach_weights: bool,
    gather_distributed: bool,
) -> Float[Tensor, " batch"]:
    log_sum, distance = _distance_softmax(queries, negatives, t_neg, exclude, gather_distributed)
    if detach_weights and t_neg > 0:
        # d/dD of log sum exp(-t D) is -t w: divided by -t it carries the gradient of sum w D with w held fixed.
        distance = _with_gradient_of(distance, -log_sum / t_neg)
    return -distance


def rbf_repulsion(
    queries: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    t_neg: float = 2.0,
    t_rbf: float = 2.0,
    exclude: Exclude | None = None,
    detach_weights: bool = False,
    gather_distributed: bool = False,
) -> Float[Tensor, " batch"]:
    r"""Log of the weighted mean of a radial basis function: $\log \sum_j w_j e^{-t D_j}$, weights as in `repulsion`.

    Args:
        queries: one anchor a row; used as it is, as are the negatives.
        negatives: shared by all queries.
        t_neg: $t^-$ of the weights, per unit of squared distance.
        t_rbf: $t > 0$ of the function, per unit of squared distance.
        exclude: IDs of queries and negatives; pairs with equal IDs are excluded.
        detach_weights: stop the gradient at the weights.
        gather_distributed: compare with the negatives of all processes.

    Returns:
        One value per query, at most 0.

    Raises:
        InputError: if a query has no negative left; for mismatched shapes, no row, NaN, rows longer than 1e8, or
            numbers out of range.

    Examples:
        >>> round(rbf_repulsion(torch.zeros(1, 1), torch.tensor([[1.0], [1.0]]), t_rbf=3.0).item(), 4)
        -3.0
    """
    check_number("t_neg", t_neg, at_least=0)
    check_number("t_rbf", t_rbf, above=0)
    exclude = _check_negatives(queries, negatives, exclude)
    queries, negatives = at_least_float32(queries), at_least_float32(negatives)
    return _rbf_repulsion(queries, negatives, t_neg, t_rbf, exclude, detach_weights, gather_distributed)


def _rbf_repulsion(
    queries: Tensor,
    negatives: Tensor,
    t_neg: float,
    t_rbf: float,
    exclude: Exclude | None,
    detach_weights: bool,
    gather_distributed: bool,
) -> Float[Tensor, " batch"]:
    weights, _ = _distance_softmax(queries, negatives, t_neg, exclude, gather_distributed)
    weighted, _ = _distance_softmax(queries, negatives, t_neg + t_rbf, exclude, gather_distributed)
    value = weighted - weights
    return _with_gradient_of(value, weighted * t_rbf / (t_neg + t_rbf)) if detach_weights else value


def _distance_softmax(
    queries: Tensor, negatives: Tensor, t: float, exclude: Exclude | None, gather_distributed: bool
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The log-sum-exp of -t D of each query, and the mean of D under its softmax."""
    # <(q, 1), (2k, -|k|^2)> = |q|^2 - D, and |q|^2 does not change a softmax over the keys.
    square = queries.square().sum(1)
    keys = torch.cat([2 * negatives, -negatives.square().sum(1, keepdim=True)], dim=1)
    moments = similarity_softmax(
        F.pad(queries, (0, 1), value=1.0), keys, t, exclude=exclude, gather_distributed=gather_distributed
    )
    return moments.logsumexp - t * square, square - moments.mean


def _with_gradient_of(value: Tensor, carrier: Tensor) -> Tensor:
    return value.detach() + (carrier - carrier.detach())


class CACRLoss(nn.Module):
    r"""CACR among K+1 views of a batch: `loss(views)`.

    Attraction is averaged over every view as the query; repulsion over every pair of views x < y, with queries in x and
    negatives in y. The order of the views can therefore change repulsion, but not attraction.

    Args:
        t_pos: sharpness of the positives' weights, at least 0.
        t_neg: sharpness of the negatives' weights, at least 0; the authors take 0.9 (CIFAR-10) or 2 (larger sets).
        alpha: factor of the attraction.
        beta: factor of the repulsion.
        weights: which samples are weighted by their distance; the others are weighted equally.
        cost: of the repulsion: minus the distance ("euclidean"), or the log of a mean of e^(-t D) ("rbf").
        t_rbf: t of the "rbf" cost, above 0.
        class_prior: probability that a negative has the query's class, from 0 to below 1; above 0 corrects the
            "euclidean" repulsion for it. The authors take 0.1.
        detach_weights: stop the gradient at the weights.
        normalize: scale every row to length 1 first, as the authors' network does.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> CACRLoss()(torch.stack([z, z]))  # attraction 0; the one negative is at squared distance 2
        tensor(-2.)
    """

    def __init__(
        self,
        t_pos: float = 1.0,
        t_neg: float = 2.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        weights: Weights = "both",
        cost: Cost = "euclidean",
        t_rbf: float = 2.0,
        class_prior: float = 0.0,
        detach_weights: bool = False,
        normalize: bool = True,
    ):
        super().__init__()
        for name, value in {"t_pos": t_pos, "t_neg": t_neg, "alpha": alpha, "beta": beta}.items():
            check_number(name, value, at_least=0)
        check_number("t_rbf", t_rbf, above=0)
        if weights not in get_args(Weights):
            raise unknown("weights", weights, get_args(Weights))
        if cost not in get_args(Cost):
            raise unknown("cost", cost, get_args(Cost))
        check_number("class_prior", class_prior, at_least=0)
        if class_prior >= 1:
            raise InputError(f"class_prior: expected a number from 0 to below 1, got {class_prior:g}")
        if class_prior > 0 and cost == "rbf":
            raise InputError("class_prior: is defined for the 'euclidean' cost only, got cost 'rbf'")
        # Weights of sharpness 0 are uniform.
        self.t_pos = t_pos if weights in ("both", "positive") else 0.0
        self.t_neg = t_neg if weights in ("both", "negative") else 0.0
        self.alpha, self.beta, self.t_rbf, self.class_prior = alpha, beta, t_rbf, class_prior
        self.cost, self.detach_weights, self.normalize = cost, detach_weights, normalize

    def forward(self, views: Float[Tensor, "views batch dim"]) -> Float[Tensor, ""]:
        """The loss; may be negative.

        Args:
            views: embeddings of K+1 views of the same samples; at least two views and two samples.

        Raises:
            InputError: for fewer than two views or samples, wrong shapes, and NaN.
        """
        _check_views(views, least=2)
        if not self.normalize:
            check_lengths("views", views)
        z = normalize_rows(views) if self.normalize else at_least_float32(views)
        row, numbers = global_row_indices(z[0], "views", at_least=2), range(len(z))
        attractions = [
            _attraction(z[x], z[[v for v in numbers if v != x]].transpose(0, 1), self.t_pos, self.detach_weights)
            for x in numbers
        ]
        repulsions = [self._repulsion(z[x], z[y], row) for x, y in itertools.combinations(numbers, 2)]
        return self.alpha * gather(torch.stack(attractions, dim=1)).mean() + torch.stack(repulsions).mean()

    def _repulsion(self, queries: Tensor, others: Tensor, row: Tensor) -> Float[Tensor, ""]:
        rest: Any = ((row, row), self.detach_weights, True)
        if self.cost == "rbf":
            logs = gather(_rbf_repulsion(queries, others, self.t_neg, self.t_rbf, *rest))
            return self.beta * (logs.logsumexp(0) - math.log(len(logs)))
        repelled = self.beta * gather(_repulsion(queries, others, self.t_neg, *rest)).mean()
        own = gather((queries - others).square().sum(1)).mean()
        return (repelled - self.class_prior * own) / (1 - self.class_prior)


class CACRQueueLoss(nn.Module):
    """CACR against a queue of earlier keys, for one view as the query: `loss(queries, positives, negatives)`.

    Positives and the queue come from a momentum encoder and get no gradient; the other queries of the batch are
    negatives too, unless `in_batch` is false. Average it over the views. With `detach_weights` its gradient is not the
    derivative of its value.

    Args:
        t_pos: sharpness of the positives' weights, at least 0.
        t_neg: sharpness of the negatives' weights, at least 0.
        alpha: factor of the attraction.
        beta: factor of the repulsion.
        detach_weights: stop the gradient at the weights.
        in_batch: the batch's other queries are negatives, beside the queue.

    Examples:
        >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> CACRQueueLoss()(one, one[:, None], other)
        tensor(-2.)
    """

    surrogate = True

    def __init__(
        self,
        t_pos: float = 1.0,
        t_neg: float = 2.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        detach_weights: bool = True,
        in_batch: bool = True,
    ):
        super().__init__()
        for name, value in {"t_pos": t_pos, "t_neg": t_neg, "alpha": alpha, "beta": beta}.items():
            check_number(name, value, at_least=0)
        self.t_pos, self.t_neg, self.alpha, self.beta = t_pos, t_neg, alpha, beta
        self.detach_weights, self.in_batch = detach_weights, in_batch

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        positives: Float[Tensor, "batch *positives dim"],
        negatives: Float[Tensor, "queue dim"],
    ) -> Float[Tensor, ""]:
        """The loss; may be negative.

        Args:
            queries: embeddings of one view, with gradient; normalised here, as are the others.
            positives: momentum embeddings of the other view, [batch, dim], or views, [batch, positives, dim].
            negatives: the queue.

        Raises:
            InputError: for mismatched shapes, and NaN.
        """
        check_matrix("queries", queries)
        check_matrix("negatives", negatives)
        check_finite("positives", positives)
        batch, dim = queries.shape
        _check_positives(queries, positives if positives.ndim != 2 else positives[:, None])
        if negatives.shape[1] != dim:
            raise InputError(f"queries and negatives: expected the same width, got {dim} and {negatives.shape[1]}")
        q, k, queue = (
            normalize_rows(queries),
            normalize_rows(positives).detach().reshape(batch, -1, dim),
            normalize_rows(negatives).detach(),
        )
        attracted = _attraction(q, k, self.t_pos, self.detach_weights)
        return gather(self.alpha * attracted + self.beta * self._repulsion(q, queue)).mean()

    def _repulsion(self, queries: Tensor, queue: Tensor) -> Float[Tensor, " batch"]:
        if not self.in_batch:
            return _repulsion(queries, queue, self.t_neg, None, self.detach_weights, gather_distributed=False)
        row = global_row_indices(queries)
        queue = queue if processes.is_first() else queue[:0]  # all processes hold the queue, but it counts once
        identities = torch.cat([row.new_full((len(queue),), -1), row])
        negatives = torch.cat([queue, queries])
        return _repulsion(
            queries, negatives, self.t_neg, (row, identities), self.detach_weights, gather_distributed=True
        )


class CACRMomentumLoss(nn.Module):
    """CACR between predictions and one view's output of a momentum encoder: `loss(views, keys)`.

    The predictions of all other views are the positives of their sample's key, far ones weighted more; the keys of the
    other samples are negatives. Average it over the views that serve as keys. Keys and weights get no gradient, so the
    gradient is not the derivative of the value.

    Args:
        temperature: divides distances in all weights, above 0; the authors take 1 for a ResNet and 0.2 for a ViT.
        cost: "rbf", a cross-entropy over the keys, or "euclidean", the plain distances.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> CACRMomentumLoss(cost="euclidean")(z[None], z)
        tensor(-1.)
    """

    surrogate = True

    def __init__(self, temperature: float = 1.0, cost: Cost = "rbf"):
        super().__init__()
        check_number("temperature", temperature, above=0)
        if cost not in get_args(Cost):
            raise unknown("cost", cost, get_args(Cost))
        self.temperature, self.cost = temperature, cost

    def forward(self, views: Float[Tensor, "views batch dim"], keys: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """The loss, a mean over the batch.

        Args:
            views: predictions for the other views, with gradient; normalised here, as are the keys.
            keys: outputs of the momentum encoder for one view of the same samples.

        Raises:
            InputError: for no view, fewer than two samples, mismatched shapes, and NaN.
        """
        _check_views(views, least=1)
        check_matrix("keys", keys)
        if views.shape[1:] != keys.shape:
            got = f"{list(views.shape)} and {list(keys.shape)}"
            raise InputError(f"views and keys: expected [views, batch, dim] and [batch, dim], got {got}")
        queries, key, temperature = normalize_rows(views), normalize_rows(keys).detach(), self.temperature
        distance = (queries - key).square().sum(-1)
        weights = torch.softmax(distance / temperature, dim=0).detach()
        row = global_row_indices(key, "views", at_least=2)
        if self.cost == "rbf":
            sums = torch.stack(
                [similarity_logsumexp(q, key, 1 / temperature, gather_distributed=True) for q in queries]
            )
            # For unit vectors the similarity to the own key is 1 - D/2.
            terms = 2 * temperature * (sums - (1 - distance / 2) / temperature)
        else:
            t = 1 / (2 * temperature)
            repelled = [
                _repulsion(q, key, t, (row, row), detach_weights=True, gather_distributed=True) for q in queries
            ]
            terms = (distance + torch.stack(repelled)) / 2
        return gather((weights * terms).sum(0)).mean()


class CACR(ProjectedMethod):
    """Contrastive pretraining from several views; weights positives and negatives by their distance to the query.

    Args:
        encoder: images to features; what a run keeps.
        views: random views of each image, at least 2; the time of a step grows with it.
        t_pos: sharpness of the positives' weights, at least 0; not of the form "momentum".
        t_neg: sharpness of the negatives' weights, at least 0; the authors take 0.9 (CIFAR-10) or 2 (larger sets); not
            of the form "momentum".
        weights: which samples are weighted by their distance; the others are weighted equally.
        cost: of the repulsion: minus the distance, or the log of a mean of radial basis functions. In the form
            "momentum", where the authors take "rbf", that is a cross-entropy over the keys.
        alpha: factor of the attraction, at least 0.
        beta: factor of the repulsion, at least 0.
        t_rbf: of the form "batch", sharpness of the radial basis functions, above 0.
        class_prior: of the form "batch", probability that a negative has the query's class, from 0 to below 1; above 0
            corrects the "euclidean" repulsion for it. The authors take 0.1.
        detach_weights: of the form "batch", stop the gradient at the weights; the other forms always do.
        form: what a view is compared with: "batch", the other views as they are; "queue", keys of the other views from
            a momentum encoder, and a queue of earlier keys; "momentum", as in MoCo v3, predictions for the other views
            with each view's key.
        in_batch: of the form "queue", the batch's other queries are negatives, beside the queue.
        queue: of the form "queue", number of keys that serve as negatives; below the number of training images.
        momentum: of the forms "queue" and "momentum", share of the key encoder that stays at each step, from 0 to 1.
        temperature: of the form "momentum", divides distances in all weights, above 0; the authors take 1 for a ResNet
            and 0.2 for a ViT.
        hidden: width of the hidden layer of the projection head, and of the predictor of the form "momentum".
        dim: width of the projection.
        **recipe: arguments of `ProjectedMethod`.
    """

    queue: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        views: int = 5,
        t_pos: float = 1.0,
        t_neg: float = 2.0,
        weights: Weights = "both",
        cost: Cost = "euclidean",
        alpha: float = 1.0,
        beta: float = 1.0,
        t_rbf: float = 2.0,
        class_prior: float = 0.0,
        detach_weights: bool = False,
        form: Form = "batch",
        in_batch: bool = True,
        queue: int = 4096,
        momentum: float = 0.99,
        temperature: float = 1.0,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, hidden=hidden, dim=dim, **recipe)
        check_number("views", views, at_least=2, whole=True)
        if form not in get_args(Form):
            raise unknown("form", form, get_args(Form))
        check_counts(queue=queue)
        check_number("momentum", momentum, at_least=0, at_most=1)
        self.views, self.form, self.momentum = views, form, momentum
        among_views = CACRLoss(t_pos, t_neg, alpha, beta, weights, cost, t_rbf, class_prior, detach_weights)
        in_momentum = CACRMomentumLoss(temperature, cost)
        self.objective: nn.Module = among_views
        if form == "queue":
            _only_in_batches(form, cost=(cost, "euclidean"), class_prior=(class_prior, 0.0))
            # `among_views` has set the sharpness of equal weights to 0.
            self.objective = CACRQueueLoss(among_views.t_pos, among_views.t_neg, alpha, beta, in_batch=in_batch)
            # As in MoCo: batch normalisation would let a query find its key by the batch that both are in.
            self.head = mlp(self.features, hidden, dim, batch_norm=False)
            # The queue starts with random directions, which the first batches replace.
            self.register_buffer("queue", normalize_rows(torch.randn(queue, dim)))
        elif form == "momentum":
            _only_in_batches(
                form, weights=(weights, "both"), alpha=(alpha, 1.0), beta=(beta, 1.0), class_prior=(class_prior, 0.0)
            )
            self.objective = in_momentum
            self.head = mlp(self.features, hidden, dim, last_norm=True)
            self.predictor = mlp(dim, hidden, dim)
        if form != "batch":
            self.key_encoder, self.key_head = momentum_copy(self.encoder), momentum_copy(self.head)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """CACR of the projections of all views; in training mode, updates the momentum encoder and the queue."""
        z = torch.stack(self.projections(images))
        if self.form == "batch":
            return self.objective(z)
        keys, numbers = self._keys(images), range(len(z))
        others = [[v for v in numbers if v != x] for x in numbers]
        if self.form == "momentum":
            predicted = torch.stack([self.predictor(view) for view in z])
            return torch.stack([self.objective(predicted[others[x]], keys[x]) for x in numbers]).mean()
        losses = [self.objective(z[x], keys[others[x]].transpose(0, 1), self.queue) for x in numbers]
        if self.training:
            self.queue, _ = enqueue(self.queue, keys[-1])  # as the authors: of one view alone
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _keys(self, images: ImageViews) -> Float[Tensor, "views batch dim"]:
        if self.training:
            update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
            update_momentum_encoder(self.head, self.key_head, self.momentum)
        return torch.stack([self.key_head(self.key_encoder(view)) for view in images])


def _only_in_batches(form: str, **values: tuple[object, object]) -> None:
    """Refuse values that a form does not have, rather than pass them over."""
    for name, (value, expected) in values.items():
        if value != expected:
            raise InputError(f"{name}: expected {expected!r} in the form '{form}', got {value!r}")


def _check_views(views: Tensor, least: int) -> None:
    if views.ndim != 3:
        raise InputError(f"views: expected [views, batch, dim], got shape {list(views.shape)}")
    if len(views) < least:
        raise InputError(f"views: expected at least {least} views, got {len(views)}")
    check_finite("views", views)


def _check_positives(queries: Tensor, positives: Tensor) -> None:
    batch, dim = queries.shape
    if positives.ndim != 3 or (positives.shape[0], positives.shape[-1]) != (batch, dim) or not positives.shape[1]:
        got = f"{list(queries.shape)} and {list(positives.shape)}"
        raise InputError(f"queries and positives: expected [batch, dim] and [batch, k, dim], got {got}")


def _check_negatives(queries: Tensor, negatives: Tensor, exclude: Exclude | None) -> Exclude | None:
    """Check all arguments; return `exclude` as int64."""
    exclude = check_negatives(queries, negatives, exclude)
    check_lengths("queries", queries)
    check_lengths("negatives", negatives)
    return exclude
