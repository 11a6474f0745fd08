"""Multistage contrastive learning: each stage contrasts within the clusters of the earlier ones; all are kept.

Zhang, Lan, Qu, Cheng, Feng, Hooi, "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning",
ECCV 2024, arXiv 2402.11816: feature-aware negative sampling and cross-stage representation integration.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Integer
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.contrast.simclr import NTXentLoss
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError, unknown
from counterpoise.learners.learner import warmup_cosine
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.nets import embed
from counterpoise.nets.growing import growing
from counterpoise.nets.text import sentence_encoder
from counterpoise.ops.checks import check_counts, check_integers, check_matrix, check_number, check_same_shape
from counterpoise.ops.chunking import map_row_chunks
from counterpoise.ops.clusters import kmeans
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows

LEFTOVERS = ("pool", "drop")
ABSENT = -1e30  # logit of a key that is no negative


def next_pseudo_labels(
    pseudo_labels: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], clusters: int
) -> Int64[Tensor, " n"]:
    r"""Append the clusters of one more stage as a digit: $P_s = K P_{s-1} + l_s$, with $P_{-1} = 0$.

    Two images have the same pseudo-label if and only if they share the clusters of all stages so far;
    $\lfloor P_s / K^{s-t} \rfloor$ is the pseudo-label after stage t.

    Args:
        pseudo_labels: $P_{s-1}$ of each image.
        labels: $l_s$, its cluster in this stage's features, from 0 to K - 1.
        clusters: $K$.

    Raises:
        InputError: for labels that are not integers from 0 to K - 1, pseudo-labels below 0, or no cluster.

    Examples:
        >>> next_pseudo_labels(torch.tensor([2, 0]), torch.tensor([1, 2]), clusters=3)
        tensor([7, 2])
    """
    check_counts(clusters=clusters)
    pseudo_labels = check_integers("pseudo_labels", pseudo_labels, pseudo_labels.numel(), low=0)
    labels = check_integers("labels", labels, len(pseudo_labels), low=0, high=clusters)
    return clusters * pseudo_labels + labels


def cluster_batches(
    pseudo_labels: Integer[Tensor, " n"], order: Int64[Tensor, " some"], batch_size: int
) -> list[list[int]]:
    """Batches of one pseudo-label each, from the clusters in turn; images that do not fill a batch are left out.

    There are $\\sum_c \\lfloor n_c / B \\rfloor$ of them.

    Args:
        pseudo_labels: pseudo-label of each image.
        order: the indices to divide into batches, in random order.
        batch_size: B.

    Returns:
        The indices of each batch; clusters take turns, smallest label first, until all are used up.

    Raises:
        InputError: for indices out of range, labels that are not integers, or a batch size below 1.

    Examples:
        >>> cluster_batches(torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.arange(7), batch_size=2)
        [[0, 1], [4, 5], [2, 3]]
    """
    check_counts(batch_size=batch_size)
    pseudo_labels = check_integers("pseudo_labels", pseudo_labels, pseudo_labels.numel())
    order = check_integers("order", order, order.numel(), low=0, high=len(pseudo_labels))
    if not len(order):
        return []
    labels = pseudo_labels[order]
    sizes = labels.unique(return_counts=True)[1].tolist()
    clusters = order[labels.argsort(stable=True)].split(sizes)
    full = [cluster[: len(cluster) // batch_size * batch_size].view(-1, batch_size).tolist() for cluster in clusters]
    return [batch for turn in itertools.zip_longest(*full) for batch in turn if batch is not None]


def pooled_batches(
    pseudo_labels: Integer[Tensor, " n"], order: Int64[Tensor, " n"], batch_size: int, clusters: int, stages: int
) -> list[list[int]]:
    """`cluster_batches`, then batches of the images left out, grouped by one digit less at a time, down to none.

    So no more images are left out than with random batches, and each shares a batch with its closest relatives.

    Args:
        pseudo_labels: pseudo-label of each image, one digit for each of `stages`.
        order: all indices, in random order.
        batch_size: images a batch.
        clusters: K, the base of the digits.
        stages: number of digits, from 0.

    Raises:
        InputError: for indices out of range, labels that are not integers, or a number out of range.

    Examples:
        >>> pooled_batches(torch.tensor([0, 0, 0, 1, 2, 2]), torch.arange(6), batch_size=2, clusters=2, stages=2)
        [[0, 1], [4, 5], [2, 3]]
    """
    check_counts(clusters=clusters)
    check_number("stages", stages, at_least=0, whole=True)
    pseudo_labels = check_integers("pseudo_labels", pseudo_labels, pseudo_labels.numel())
    order = check_integers("order", order, order.numel(), low=0, high=len(pseudo_labels))
    found: list[list[int]] = []
    for _ in range(stages + 1):
        batches = cluster_batches(pseudo_labels, order, batch_size)
        found += batches
        left = torch.ones(len(pseudo_labels), dtype=torch.bool)
        left[[index for batch in batches for index in batch]] = False
        order = order[left[order]]
        pseudo_labels = pseudo_labels // clusters
    return found


def image_text_loss(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "batch dim"],
    captions: Integer[Tensor, " batch"] | None = None,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    r"""CLIP's loss: each image finds its text among those of the batch, and each text its image.

    Half of the mean over the pairs of $-\log \frac{e^{s_{ii}/T}}{e^{s_{ii}/T} + \sum_n e^{s_{in}/T}}$ with cosines
    $s_{ij}$ of image i and text j, and half of the same with $s_{ni}$, n over the pairs with another text.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
    arXiv 2103.00020.

    Args:
        images: one row per image; normalised here.
        texts: the text of each image; normalised here.
        captions: number of each text; pairs with equal ones are no negatives of each other, and one with -1, for none,
            does not count. If not given, all texts differ.
        temperature: T > 0.

    Returns:
        The loss in nats, at least 0; 0 where no text differs from another.

    Raises:
        InputError: for different shapes, no row, NaN, captions below -1, or a temperature that is not above 0.

    Examples:
        >>> z = torch.eye(3)
        >>> round(image_text_loss(z, z, temperature=1.0).item(), 6)  # log(1 + 2/e)
        0.551445
    """
    check_number("temperature", temperature, above=0)
    check_same_shape(images=images, texts=texts)
    check_matrix("images", images, at_least=0)
    check_matrix("texts", texts, at_least=0)
    rows = global_row_indices(images, "images", at_least=1)
    captions = rows if captions is None else check_integers("captions", captions, len(images), low=-1)
    images, texts = normalize_rows(images), normalize_rows(texts)
    own = (images * texts).sum(1) / temperature
    losses = -F.logsigmoid(own - _negatives(images, texts, captions, temperature))
    losses = losses - F.logsigmoid(own - _negatives(texts, images, captions, temperature))
    counted = (captions >= 0).to(own.dtype)
    total, pairs = gather(torch.stack([losses * counted / 2, counted], dim=1)).sum(0)
    return total / pairs.clamp(min=1)


def _negatives(
    queries: Float[Tensor, "batch dim"],
    keys: Float[Tensor, "batch dim"],
    captions: Int64[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, " batch"]:
    """The log-sum-exp of each query's scaled similarities to the keys with another text."""
    keys, numbers = gather(keys), gather(captions)
    part = partial(_negatives_of, temperature=temperature)
    return map_row_chunks(part, [queries, captions], [keys, numbers], columns=len(keys))


def _negatives_of(queries: Tensor, captions: Tensor, keys: Tensor, numbers: Tensor, temperature: float) -> Tensor:
    none = (captions[:, None] == numbers) | (numbers < 0)
    return (queries @ keys.T / temperature).masked_fill(none, ABSENT).logsumexp(1)


class Stages(nn.Module):
    """The encoders of all stages as one encoder, which concatenates their features unchanged.

    Only one encoder is trained at a time; a stage that has not begun yields zeros.

    Args:
        encoder: encoder of the first stage.
        stages: number of stages.
        redraw: give later stages new random weights, as in `redrawn`, instead of those of the first.

    Attributes:
        current: encoder of the current stage.
        others: encoders of the other stages, the finished ones first.
        features: width of the concatenated features.
        stage: number of finished stages; a buffer.

    Examples:
        >>> linear = nn.Linear(3, 2)
        >>> linear.features = 2
        >>> Stages(linear, stages=2)(torch.ones(1, 3)).shape
        torch.Size([1, 4])
    """

    stage: Tensor

    def __init__(self, encoder: nn.Module, stages: int, redraw: bool = True):
        super().__init__()
        check_counts(stages=stages)
        self.current = encoder
        copies = (redrawn(encoder) if redraw else copy.deepcopy(encoder) for _ in range(stages - 1))
        self.others = nn.ModuleList(other.requires_grad_(False) for other in copies)
        self.features = stages * int(encoder.features)  # type: ignore[arg-type]
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch {self.features}"]:
        """Features of the finished stages and the current one, and zeros for those that have not begun."""
        others = [other(images) * (number < self.stage) for number, other in enumerate(self.others)]
        return torch.cat([*others, self.current(images)], 1)

    def advance(self) -> None:
        """Move the current encoder to the finished ones, and make the next one current."""
        waiting = self.others[int(self.stage)]
        finished = copy.deepcopy(self.current.state_dict())
        self.current.load_state_dict(waiting.state_dict())
        waiting.load_state_dict(finished)
        self.stage += 1


@torch.no_grad()
def redrawn(encoder: nn.Module) -> nn.Module:
    """A copy of an untrained network with new weights: each tensor's entries randomly permuted.

    The random weights of a tensor are identically distributed, so this is a new draw from any distribution; a constant
    tensor stays.
    """
    twin = copy.deepcopy(encoder)
    for weights in twin.parameters():
        weights.copy_(weights.flatten()[torch.randperm(weights.numel()).to(weights.device)].view_as(weights))
    return twin


class MCL(ProjectedMethod):
    """SimCLR in stages: each stage's negatives share the clusters of all earlier stages, whose features are kept.

    The epochs of a run are divided evenly among the stages. Each has a new encoder, head and optimiser, and its own
    learning-rate schedule.

    Args:
        encoder: images to features, of one stage; a run keeps the concatenated features of all stages.
        samples: how many training images there are.
        stages: number of stages; a run needs at least as many epochs.
        clusters: K of the k-means that follows each stage but the last; 1 makes the stages independent runs of SimCLR.
        leftovers: treatment of images that do not fill a batch of their own cluster: "pool" groups them with those that
            share the clusters of fewer stages; "drop", as in the authors' code, leaves them out for the epoch.
        redraw: start each stage from new random weights; if not, from the given ones, as for a pretrained encoder.
        temperature: above 0.
        texts: contrast images with the names of their classes as CLIP does, in place of two views with each other:
            name of a frozen text encoder, "words", "minilm" or "hf:FOLDER". This reads the labels; the projection head
            is then as wide as the texts' vectors. Images without a label only serve the clusters.
        **recipe: arguments of `ProjectedMethod`.
    """

    encoder: Stages
    names: Tensor
    pseudo_labels: Tensor
    first_step: Tensor
    pure: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        stages: int = 3,
        clusters: int = 10,
        leftovers: Literal["pool", "drop"] = "pool",
        redraw: bool = True,
        temperature: float = 0.1,
        texts: str | None = None,
        **recipe: Any,
    ):
        if texts is not None:
            if "dim" in recipe:
                raise InputError("dim: expected none, since projections are as wide as the vectors of the texts")
            recipe["dim"] = sentence_encoder(texts)(["a text"]).shape[1]
        super().__init__(encoder, **recipe)
        check_counts(samples=samples, clusters=clusters, stages=stages)
        if leftovers not in LEFTOVERS:
            raise unknown("leftovers", leftovers, LEFTOVERS)
        self.stages, self.clusters, self.leftovers = stages, clusters, leftovers
        self.encoder = Stages(encoder, stages, redraw)
        self.features = self.encoder.features
        self.objective = NTXentLoss(temperature)
        self.batches_an_epoch = 0
        self.register_buffer("pseudo_labels", torch.zeros(samples, dtype=torch.int64))
        self.register_buffer("first_step", torch.zeros((), dtype=torch.int64))  # of the current stage
        self.register_buffer("pure", torch.zeros(stages))
        self.texts = texts
        if texts is not None:
            self.register_buffer("names", torch.zeros(0, recipe["dim"]))
            growing(self, "names")

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """NT-Xent of both views' projections by the current stage's encoder; or CLIP's loss of each and the names."""
        z1, z2 = (self.head(self.encoder.current(view)) for view in images)
        if self.texts is None:
            return self.objective(z1, z2)
        texts = self.names[labels.clamp(min=0)].to(z1.dtype)
        return torch.stack([image_text_loss(z, texts, labels, self.objective.temperature) for z in (z1, z2)]).mean()

    def on_train_start(self) -> None:
        """Warn of stages for which there is no epoch."""
        if self._epochs() < self.stages:
            warnings.warn(f"epochs: {self._epochs()} are too few for {self.stages} stages; the others give zeros")

    def start_epoch(self, images: Images, epoch: int) -> None:
        """Before the first epoch of each later stage, cluster the features of the last one and restart training."""
        if self.texts is not None and epoch == 0:
            self._encode_names(images)
        if epoch > 0 and self._stage_of(epoch) > int(self.encoder.stage):
            self._cluster(images)
            self.encoder.advance()
            for layer in self.head:
                if isinstance(layer, (nn.Linear, nn.BatchNorm1d)):
                    layer.reset_parameters()
            self.trainer.optimizers[0].state.clear()
            self.first_step.fill_(self.global_step)

    def _encode_names(self, images: Images) -> None:
        if not (images.labels >= 0).any():
            raise InputError(
                f"texts: expected classes with names, but none of {len(images)} training images has a label"
            )
        assert self.texts is not None
        self.names = sentence_encoder(self.texts)(list(images.classes)).to(self.names)

    def _cluster(self, images: Images) -> None:
        features = embed(self.encoder.current, images, to_float)
        labels = kmeans(normalize_rows(features), self.clusters, restarts=5).labels.to(self.device)
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(labels, 0)  # batch statistics differ between processes, which have seen different images
        if self.clusters > 1 and len(labels.unique()) == 1:
            warnings.warn(f"stage {int(self.encoder.stage)}: all images are in one cluster, as if it had not been")
        self.pseudo_labels.copy_(next_pseudo_labels(self.pseudo_labels, labels, self.clusters))

    def batches(self, order: Integer[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """Batches within the clusters of all earlier stages; see `leftovers`.

        Raises:
            InputError: if no cluster fills a batch, and leftovers are dropped.
        """
        pseudo_labels, stage = self.pseudo_labels.cpu(), int(self.encoder.stage)
        pure = cluster_batches(pseudo_labels, order, batch_size)
        self.pure[stage] = len(pure) * batch_size / len(order)
        found = pure
        if self.leftovers == "pool":
            found = pooled_batches(pseudo_labels, order, batch_size, self.clusters, stage)
        if not found:
            largest = int(pseudo_labels.unique(return_counts=True)[1].max())
            raise InputError(
                f"batch_size: expected at most the {largest} images of stage {stage}'s largest cluster, got "
                f"{batch_size}; use fewer clusters or stages, or pooled leftovers"
            )
        self.batches_an_epoch = len(found)
        return found

    def lr_factor(self, step: int, steps: int) -> float:
        """`warmup_cosine` over each stage; a stage's first step, its length still unknown, uses the last one's."""
        each = math.ceil(self.batches_an_epoch / self.trainer.accumulate_grad_batches) or steps // self._epochs()
        stage = int(self.encoder.stage)
        length = each * sum(self._stage_of(epoch) == stage for epoch in range(self._epochs()))
        if self.max_steps and stage == self._stage_of(self._epochs() - 1):  # the last stage has all steps that are left
            length = max(1, self.max_steps - int(self.first_step))
        return warmup_cosine((step - int(self.first_step)) % length, length, self.warmup)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """For each stage: `pure N`, the share of images in batches of one pseudo-label; `nmi FACTOR N` of its clusters.

        The latter is the normalised mutual information of clusters and a known factor, from 0 to 1.
        """
        last = int(self.encoder.stage)
        found = {f"pure {stage}": float(self.pure[stage]) for stage in range(last + 1)}
        pseudo_labels = self.pseudo_labels.cpu()
        for stage in range(last):
            clusters = pseudo_labels // self.clusters ** (last - 1 - stage) % self.clusters
            for name, values in train.factors.items():
                found[f"nmi {name} {stage}"] = float(normalized_mutual_info_score(values, clusters))
        return found

    def _epochs(self) -> int:
        return int(self.trainer.max_epochs or 1)

    def _stage_of(self, epoch: int) -> int:
        return epoch * min(self.stages, self._epochs()) // self._epochs()
