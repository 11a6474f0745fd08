"""Hydra (later SimLAP): any two classes are a positive pair, but only in a subspace that a gate opens for that pair.

Wu, Atito, Feng, Mo, Kittler, Awais, "Rethinking Positive Pairs in Contrastive Learning", 2024, arXiv 2410.18200: the
feature filter, the similarity behind it, and the contrast of class pairs.

Each image gets a random partner class. It is trained to be similar to the images of that class, and dissimilar to those
of all others but its own, by the cosine of only those features that the filter passes for the two classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.constants import ExactConstants
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import (
    check_counts,
    check_finite,
    check_integers,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp

Similarity = Literal["cosine", "dot"]
Gate = Literal["joint", "product", "open", "gumbel", "stochastic"]
Noise = Literal["none", "gumbel", "stochastic"]
Partners = Literal["arbitrary", "distinct", "identical"]
Reduction = Literal["pairs", "rows"]
FilterLabels = Literal["own", "shuffled"]

ABSENT = -1e30  # logit of an excluded key


def gated_similarity(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"],
    gates: Float[Tensor, "n dim"],
    similarity: Similarity = "cosine",
) -> Float[Tensor, "n m"]:
    r"""Similarity of each query to each key, both multiplied by the query's gate.

    "cosine" is $S_{ij} = \cos(g_i \odot q_i, g_i \odot k_j)$, which does not depend on the scale of a gate. "dot" is
    $S_{ij} = \sum_d g_{id}^2 \hat q_{id} \hat k_{jd}$ of unit rows, which shrinks as a gate closes.

    Args:
        queries: one row per anchor, of any length.
        keys: one row per candidate, of any length.
        gates: $g$, one per anchor.
        similarity: "cosine" or "dot".

    Returns:
        float32, or float64 for float64. No tensor of size n·m·dim is formed. If a gate passes nothing of a row, the
        cosine is 0.

    Raises:
        InputError: for mismatched shapes, NaN, or an unknown similarity.

    Examples:
        >>> queries, keys = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
        >>> gated_similarity(queries, keys, torch.ones(1, 2))  # orthogonal, but equal in the first coordinate
        tensor([[0.]])
        >>> gated_similarity(queries, keys, torch.tensor([[0.5, 0.0]]))
        tensor([[1.]])
        >>> gated_similarity(queries, keys, torch.tensor([[0.5, 0.0]]), "dot")  # (1/2)² · 1/2
        tensor([[0.1250]])
    """
    _check_gated(queries, keys, gates, similarity)
    return _gated_similarity(queries, keys, gates, similarity)


def _gated_similarity(queries: Tensor, keys: Tensor, gates: Tensor, similarity: Similarity) -> Float[Tensor, "n m"]:
    z, k = normalize_rows(queries), normalize_rows(keys)
    gates = gates.to(z.dtype)
    if similarity == "dot":
        return (gates.square() * z) @ k.T
    gates = normalize_rows(gates)
    lengths = gates.square() @ k.square().T
    return (gates * normalize_rows(gates * z)) @ k.T / lengths.where(lengths > 0, 1).sqrt()


def hydra(
    queries: Float[Tensor, "batch dim"],
    keys: Float[Tensor, "batch dim"],
    labels: Integer[Tensor, " batch"],
    partners: Integer[Tensor, " batch"] | None = None,
    gates: Float[Tensor, "batch dim"] | None = None,
    scale: float | Float[Tensor, ""] = 10.0,
    similarity: Similarity = "cosine",
    reduction: Reduction = "pairs",
    subtract: float | Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    r"""Contrastive loss of each image with its partner class, through its gate: the mean over all positive pairs (i, j)
    of $-\log \frac{e^{a S_{ij}}}{e^{a S_{ij}} + \sum_{n \in N(i)} e^{a S_{in}}}$.

    Positives of image i are the keys of its partner class. The negatives N(i) are the keys of neither its partner class
    nor its own; keys of its own class are left out, unless that is its partner class.

    Args:
        queries: one row per image, the anchors.
        keys: the same images, another view or another encoder; a row's own key is not treated specially.
        labels: class of each image. An image with -1, for none, is no anchor, but a negative of all anchors.
        partners: partner class of each image, its own class if not given; with -1 the image is no anchor.
        gates: $g$ of `gated_similarity`, one per image; if not given, all features pass.
        scale: $a > 0$, the inverse temperature.
        similarity: "cosine" or "dot"; see `gated_similarity`.
        reduction: "pairs" is the mean over all positive pairs; "rows" the mean over the anchors of the mean over an
            anchor's positives, which is 0 if there is none, so that large classes count no more than small ones.
        subtract: share of the plain cosine that is subtracted from each similarity; none if not given.

    Returns:
        The loss in nats, at least 0; 0 if no partner class is in the batch, or no negatives are left.

    Raises:
        InputError: for mismatched shapes, labels or partners below -1, NaN, or a scale not above 0.

    Examples:
        >>> z, labels = torch.eye(3), torch.tensor([0, 1, 2])
        >>> round(hydra(z, z, labels, scale=1.0).item(), 6)  # its own key against two orthogonal ones: log(1 + 2/e)
        0.551445
        >>> round(hydra(z, z, labels, torch.tensor([1, 2, 0])).item(), 6)  # one positive, one negative: log 2
        0.693147
    """
    partners = labels if partners is None else partners
    gates = torch.ones_like(queries) if gates is None else gates
    labels, partners = _check(queries, keys, labels, partners, gates, similarity)
    _check_scale(scale)
    if reduction not in get_args(Reduction):
        raise unknown("reduction", reduction, get_args(Reduction))
    keys, key_labels = gather(keys), gather(labels)
    scale = _as_number(scale, queries)
    share = None if subtract is None else _as_number(_checked_share(subtract), queries)
    rows, shared = [queries, gates, labels, partners], [keys, key_labels, scale, share]
    sums = map_row_chunks(partial(_sums, similarity=similarity), rows, shared, columns=len(keys))
    if reduction == "rows":
        anchors = ((labels >= 0) & (partners >= 0)).to(sums.dtype)
        sums = torch.stack([sums[:, 0] / sums[:, 1].clamp(min=1), anchors], dim=1)
    losses, count = gather(sums).sum(0)
    return losses / count.clamp(min=1)


def _as_number(value: float | Tensor, like: Tensor) -> Float[Tensor, ""]:
    return torch.as_tensor(value, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _sums(
    queries: Float[Tensor, "n dim"],
    gates: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    partners: Integer[Tensor, " n"],
    keys: Float[Tensor, "m dim"],
    key_labels: Integer[Tensor, " m"],
    scale: Float[Tensor, ""],
    share: Float[Tensor, ""] | None,
    similarity: Similarity,
) -> Float[Tensor, "n 2"]:
    """The sum of the losses of each anchor's positives, and the number of its positives."""
    similarities = _gated_similarity(queries, keys, gates, similarity)
    if share is not None:
        similarities = similarities - share * (normalize_rows(queries) @ normalize_rows(keys).T)
    logits = scale * similarities
    own, partner = labels[:, None] == key_labels, partners[:, None] == key_labels
    negatives = logits.masked_fill(own | partner, ABSENT).logsumexp(1, keepdim=True)
    positive = partner & ((labels >= 0) & (partners >= 0))[:, None]
    losses = torch.where(positive, -F.logsigmoid(logits - negatives), 0)
    return torch.stack([losses.sum(1), positive.sum(1).to(losses.dtype)], 1)


def _check(
    queries: Tensor, keys: Tensor, labels: Tensor, partners: Tensor, gates: Tensor, similarity: Similarity
) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """Check all arguments; return labels and partners as int64."""
    check_same_shape(queries=queries, keys=keys)
    _check_gated(queries, keys, gates, similarity)
    global_row_indices(queries, "queries", at_least=1)
    return (
        check_integers("labels", labels, rows=len(queries), low=-1),
        check_integers("partners", partners, rows=len(queries), low=-1),
    )


def _check_gated(queries: Tensor, keys: Tensor, gates: Tensor, similarity: Similarity) -> None:
    check_same_shape(queries=queries, gates=gates)
    check_matrix("queries", queries, at_least=0)
    check_matrix("keys", keys, at_least=0)
    check_matrix("gates", gates, at_least=0)
    if queries.shape[1] != keys.shape[1]:
        raise InputError(f"queries and keys: expected the same width, got {queries.shape[1]} and {keys.shape[1]}")
    if similarity not in get_args(Similarity):
        raise unknown("similarity", similarity, get_args(Similarity))
    if similarity == "dot" and len(gates):
        check_lengths("gates", gates)


def _check_scale(scale: float | Tensor) -> None:
    if not isinstance(scale, Tensor):
        check_number("scale", scale, above=0)
        return
    if scale.ndim:
        raise InputError(f"scale: expected one number, got shape {list(scale.shape)}")
    check_values("scale", scale, above=0)


def _checked_share(share: float | Tensor) -> float | Tensor:
    if isinstance(share, Tensor) and share.ndim:
        raise InputError(f"subtract: expected one number, got shape {list(share.shape)}")
    if isinstance(share, Tensor):
        check_finite("subtract", share)
    else:
        check_number("subtract", share)
    return share


class HydraLoss(ExactConstants):
    """`hydra` as a module with a learnable scale: `loss(queries, keys, labels, partners, gates)`.

    Args:
        temperature: above 0; the scale starts as its inverse. 0.1 in SimLAP, 0.05 in Hydra.
        learn_scale: make the scale a parameter.
        similarity: "cosine" of the gated rows, or "dot", their plain inner product.
        reduction: mean over positive "pairs", or over "rows"; see `hydra`.
        subtract: initial value of a learnt share of the plain cosine that is subtracted, at least 0; 0 has none.
    """

    log_scale: nn.Parameter
    share: nn.Parameter | None

    def __init__(
        self,
        temperature: float = 0.1,
        learn_scale: bool = True,
        similarity: Similarity = "cosine",
        reduction: Reduction = "pairs",
        subtract: float = 0.0,
    ):
        super().__init__()
        check_number("subtract", subtract, at_least=0)
        if reduction not in get_args(Reduction):
            raise unknown("reduction", reduction, get_args(Reduction))
        check_number("temperature", temperature, above=0)
        if similarity not in get_args(Similarity):
            raise unknown("similarity", similarity, get_args(Similarity))
        self.register_exact("log_scale", -torch.tensor(temperature, dtype=torch.float64).log(), learn=learn_scale)
        self.similarity: Similarity = similarity
        self.reduction: Reduction = reduction
        self.share = nn.Parameter(torch.tensor(float(subtract))) if subtract else None

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        keys: Float[Tensor, "batch dim"],
        labels: Integer[Tensor, " batch"],
        partners: Integer[Tensor, " batch"] | None = None,
        gates: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch; see `hydra`."""
        scale = self.log_scale.exp()
        return hydra(queries, keys, labels, partners, gates, scale, self.similarity, self.reduction, self.share)


class Filter(nn.Module):
    r"""The gate of a pair of classes, $g(y, p) = \sigma(MLP((e_y + e_p) / 2))$ with learnt embeddings $e$ of classes.

    Args:
        classes: number of classes.
        dim: width of the gate.
        joint: one gate from the mean embedding of both classes; otherwise the product of the two classes' gates.
        width: width of the embedding of a class.
        hidden: width of the MLP's hidden layer.
        noise: of each number of a gate in training; without it in evaluation mode. "gumbel" adds Gumbel noise before
            the sigmoid; "stochastic" replaces the sigmoid by $\min(1, \max(0, x + 1/2 + \varepsilon))$ with
            $\varepsilon \sim N(0, 1/4)$, whose numbers may be 0 or 1.

    Examples:
        >>> gates = Filter(classes=10, dim=4)(torch.tensor([3, 7]), torch.tensor([7, 3]))
        >>> gates.shape, torch.equal(gates[0], gates[1])  # the order of the two does not matter
        (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        joint: bool = True,
        width: int = 512,
        hidden: int = 1024,
        noise: Noise = "none",
    ):
        super().__init__()
        check_counts(classes=classes, dim=dim, width=width, hidden=hidden)
        if noise not in get_args(Noise):
            raise unknown("noise", noise, get_args(Noise))
        self.classes, self.joint, self.noise = classes, joint, noise
        self.embedding = nn.Embedding(classes, width)
        self.mlp = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, dim),
        )

    def forward(
        self, labels: Integer[Tensor, " batch"], partners: Integer[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The gates of pairs of classes, each number between 0 and 1.

        Raises:
            InputError: for values that are not classes.
        """
        labels = check_integers("labels", labels, labels.numel(), low=0, high=self.classes)
        partners = check_integers("partners", partners, len(labels), low=0, high=self.classes)
        own, other = self.embedding(labels), self.embedding(partners)
        if self.joint:
            return self._gate(self.mlp((own + other) / 2))
        return self._gate(self.mlp(own)) * self._gate(self.mlp(other))

    def _gate(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        if self.noise == "stochastic":
            noise = torch.randn_like(x) / 2 if self.training else 0
            return (x + 0.5 + noise).clamp(0, 1)
        if self.noise == "gumbel" and self.training:
            x = x - torch.empty_like(x).exponential_().log()  # minus the logarithm of an exponential: Gumbel noise
        return x.sigmoid()


def info_nce(
    queries: Float[Tensor, "batch dim"], keys: Float[Tensor, "batch dim"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Cross-entropy of each query's own key among all keys of the batch, by their cosines.

    Raises:
        InputError: for different shapes, fewer than 2 rows, NaN, or a temperature that is not above 0.

    Examples:
        >>> z = torch.eye(3)
        >>> round(info_nce(z, z).item(), 6)  # log(1 + 2/e)
        0.551445
    """
    check_number("temperature", temperature, above=0)
    check_same_shape(queries=queries, keys=keys)
    check_matrix("queries", queries, at_least=0)
    check_matrix("keys", keys, at_least=0)
    global_row_indices(queries, "queries", at_least=2)
    queries, keys = normalize_rows(queries), normalize_rows(keys)
    everyone = similarity_logsumexp(queries, keys, 1 / temperature, gather_distributed=True)
    return gather(everyone - (queries * keys).sum(1) / temperature).mean()


class Hydra(Method):
    """Contrastive pretraining with labels, in which images of any two classes attract through a gate for that pair.

    The defaults are SimLAP: only the contrast of class pairs. Hydra adds an instance contrast, keys of a momentum
    encoder, and epochs in which the class pairs train only the filter: `--instance 1 --momentum 0.99 --warm-epochs 1`.

    Args:
        encoder: images to features; what a run keeps.
        samples: how many training images there are.
        classes: number of classes in the labels.
        partners: "arbitrary" takes the class of another image of the batch, "distinct" another class, which may be
            absent from the batch, "identical" the image's own.
        gate: "joint" for both classes, the "product" of the two classes' gates, or "open", which disables the filter.
            "gumbel" and "stochastic" are joint gates with noise, as in `Filter`.
        similarity: "cosine" of the gated rows, or "dot", their plain inner product.
        temperature: above 0; inverse of the initial value of the learnable scale.
        same_class: weight of the contrast with the image's own class, at least 0; that with the partner class has
            weight 1.
        instance: weight of the contrast with the image's other view, at least 0.
        instance_temperature: temperature of that contrast, above 0.
        momentum: from 0 to 1; share of the key encoder that stays at each step. None: keys come from the encoder
            itself.
        warm_epochs: epochs in which only the instance contrast trains the encoder, and the others train only the
            filter.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        reduction: mean over all positive "pairs"; or over "rows", the anchors, of the mean over an anchor's positives.
        learn_scale: learn the scale; otherwise it stays the inverse of the temperature.
        subtract: initial value of a learnt share of the plain cosine that is subtracted from each similarity; 0 has
            none.
        filter_labels: classes that the filter sees: an image's "own"; or those of all images, "shuffled" once among
            them, a control whose gates have nothing to do with the classes that are contrasted.
        **recipe: arguments of `Method`.
    """

    shuffle: Tensor
    warming: Tensor
    seen_labels: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        classes: int,
        partners: Partners = "arbitrary",
        gate: Gate = "joint",
        similarity: Similarity = "cosine",
        temperature: float = 0.1,
        same_class: float = 0.0,
        instance: float = 0.0,
        instance_temperature: float = 1.0,
        momentum: float | None = None,
        warm_epochs: int = 0,
        hidden: int = 256,
        dim: int = 64,
        reduction: Reduction = "pairs",
        learn_scale: bool = True,
        subtract: float = 0.0,
        filter_labels: FilterLabels = "own",
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(samples=samples, classes=classes)
        check_number("same_class", same_class, at_least=0)
        check_number("instance", instance, at_least=0)
        check_number("instance_temperature", instance_temperature, above=0)
        check_number("warm_epochs", warm_epochs, at_least=0, whole=True)
        if warm_epochs and not instance:
            raise InputError("instance: expected a weight above 0, or nothing trains the encoder in the warm_epochs")
        if partners not in get_args(Partners):
            raise unknown("partners", partners, get_args(Partners))
        if gate not in get_args(Gate):
            raise unknown("gate", gate, get_args(Gate))
        if filter_labels not in get_args(FilterLabels):
            raise unknown("filter_labels", filter_labels, get_args(FilterLabels))
        if gate == "open" and filter_labels == "shuffled":
            raise InputError("filter_labels: expected 'own', since an open gate has no filter, got 'shuffled'")
        self.filter_labels = filter_labels
        self.classes, self.partners = classes, partners
        self.same_class, self.instance, self.instance_temperature = same_class, instance, instance_temperature
        self.momentum, self.warm_epochs = momentum, warm_epochs
        # Batch normalisation at the end would undo the gates.
        self.head = nn.Sequential(mlp(self.features, hidden, dim), nn.LayerNorm(dim))
        noise: Noise = gate if gate == "gumbel" or gate == "stochastic" else "none"
        self.filter = None if gate == "open" else Filter(classes, dim, joint=gate != "product", noise=noise)
        self.objective = HydraLoss(temperature, learn_scale, similarity, reduction, subtract)
        if momentum is not None:
            check_number("momentum", momentum, at_least=0, at_most=1)
            self.predictor = mlp(dim, hidden, dim)
            self.key_encoder = momentum_copy(self.encoder)
            self.key_head = momentum_copy(self.head)
        self.register_buffer("shuffle", torch.randperm(samples))
        self.register_buffer("warming", torch.tensor(warm_epochs > 0))
        if filter_labels == "shuffled":
            self.register_buffer("seen_labels", torch.full((samples,), -1))

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Draw the order that pairs the images of a batch with their partners in this epoch."""
        if not (images.labels >= 0).any():
            raise InputError(f"labels: Hydra needs labels, but none of the {len(images)} training images has one")
        if len(images.labels.unique()) == 1:
            raise InputError(f"labels: Hydra contrasts classes, but all {len(images)} training images have one")
        self.shuffle.copy_(torch.randperm(len(self.shuffle)))
        self.warming.fill_(epoch < self.warm_epochs)
        if self.filter_labels == "shuffled" and epoch == 0:
            labelled = (images.labels >= 0).nonzero()[:, 0]
            order = labelled[torch.randperm(len(labelled))]
            self.seen_labels[labelled.to(self.device)] = images.labels[order].to(self.seen_labels)

    def partners_of(self, labels: Labels, index: Index) -> Int64[Tensor, " batch"]:
        """The partner class of each image, drawn from the batch of all processes."""
        if self.partners == "identical":
            return labels
        if self.partners == "distinct":
            return (labels + 1 + self.shuffle[index] % max(self.classes - 1, 1)) % self.classes
        return gather(labels)[self.shuffle[gather(index)].argsort()][global_row_indices(labels)]

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The contrast with the partner classes, and the weighted others; in training mode, updates the key encoder."""
        queries = [self.head(self.encoder(view)) for view in images]
        keys = queries
        if self.momentum is not None:
            queries = [self.predictor(z) for z in queries]
            with torch.no_grad():
                if self.training:
                    update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
                    update_momentum_encoder(self.head, self.key_head, self.momentum)
                keys = [self.key_head(self.key_encoder(view)) for view in images]
        seen = self.seen_labels[index] if self.filter_labels == "shuffled" else None
        pair = None if seen is None else (seen, self.partners_of(seen, index))
        loss = self.contrast(queries, keys, labels, self.partners_of(labels, index), pair)
        if self.same_class:
            pair = None if seen is None else (seen, seen)
            loss = loss + self.same_class * self.contrast(queries, keys, labels, labels, pair)
        if self.instance:
            pairs = zip(queries, reversed(keys), strict=True)
            losses = [info_nce(query, key, self.instance_temperature) for query, key in pairs]
            loss = loss + self.instance * torch.stack(losses).mean()
        return loss / (1 + self.same_class + self.instance)

    def contrast(
        self,
        queries: list[Float[Tensor, "batch dim"]],
        keys: list[Float[Tensor, "batch dim"]],
        labels: Labels,
        partners: Labels,
        seen: tuple[Labels, Labels] | None = None,
    ) -> Float[Tensor, ""]:
        """Hydra's loss between each view's queries and the other view's keys.

        Args:
            queries: of each view.
            keys: of each view.
            labels: class of each image.
            partners: partner class of each image.
            seen: what the filter takes for these two; themselves if not given.
        """
        if self.warming:
            queries, keys = [z.detach() for z in queries], [z.detach() for z in keys]
        # An image without a label is no anchor, so that its gate does not matter.
        own, other = (classes.clamp(min=0) for classes in seen or (labels, partners))
        gates = self.filter(own, other) if self.filter is not None else None
        pairs = zip(queries, reversed(keys), strict=True)
        return torch.stack([self.objective(query, key, labels, partners, gates) for query, key in pairs]).mean()
