"""MoCo v2: contrast against a queue of keys from a slowly moving copy of the encoder.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv 1911.05722, equations 1 and 2 and algorithm 1; with the head and the temperature of Chen, Fan, Girshick, He,
"Improved Baselines with Momentum Contrastive Learning", 2020, arXiv 2003.04297.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import check_counts, check_finite, check_matrix, check_number
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp


def queue_nce(
    queries: Float[Tensor, "batch dim"],
    positives: Float[Tensor, "batch *positive dim"],
    negatives: Float[Tensor, "queue dim"],
    temperature: float = 0.2,
) -> Float[Tensor, ""]:
    r"""InfoNCE of each query's positive against negatives that all queries share.

    With cosines $s$, the mean over the queries of $-\log \frac{e^{s_+/T}}{e^{s_+/T} + \sum_k e^{s_k/T}}$, k over the
    negatives.

    Args:
        queries: one row per sample; normalised here, as are the others.
        positives: the key of each query, [batch, dim]; or several, [batch, positives, dim], each of which is contrasted
            separately with the negatives.
        negatives: keys of other samples.
        temperature: $T > 0$.

    Returns:
        The loss in nats, above 0; $\log(1+M)$ for M negatives where all rows are equal.

    Raises:
        InputError: for mismatched shapes, no row, NaN, or a temperature that is not above 0.

    Examples:
        >>> key = torch.tensor([[1.0, 0.0]])
        >>> round(queue_nce(key, key, torch.tensor([[0.0, 1.0]]), temperature=1.0).item(), 6)  # log(1 + 1/e)
        0.313262
    """
    check_number("temperature", temperature, above=0)
    _check_keys(queries, positives, negatives)
    queries, positives, negatives = normalize_rows(queries), normalize_rows(positives), normalize_rows(negatives)
    positive = torch.einsum("nd,nkd->nk", queries, positives.reshape(len(queries), -1, queries.shape[1])) / temperature
    negative = similarity_logsumexp(queries, negatives, 1 / temperature)
    return -gather(F.logsigmoid(positive - negative[:, None])).mean()


def _check_keys(queries: Tensor, positives: Tensor, negatives: Tensor) -> None:
    check_matrix("queries", queries)
    check_matrix("negatives", negatives)
    check_finite("positives", positives)
    batch, dim = queries.shape
    like_queries = positives.ndim in (2, 3) and (positives.shape[0], positives.shape[-1]) == (batch, dim)
    if not like_queries or not positives.numel() or negatives.shape[1] != dim:
        raise InputError(
            "queries, positives and negatives: expected [batch, dim], the same or [batch, at least 1, dim], and "
            f"[queue, dim], got {list(queries.shape)}, {list(positives.shape)} and {list(negatives.shape)}"
        )


class QueueNCELoss(nn.Module):
    """`queue_nce` as a module: `loss(queries, positives, negatives)`.

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
        positives: Float[Tensor, "batch *positive dim"],
        negatives: Float[Tensor, "queue dim"],
    ) -> Float[Tensor, ""]:
        """The loss of each query's positives against the shared negatives; see `queue_nce`."""
        return queue_nce(queries, positives, negatives, self.temperature)


class MoCo(Method):
    """Contrastive pretraining without labels whose number of negatives does not depend on the batch size.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0.
        queue: number of keys that serve as negatives; below the number of training images, or an image meets its own
            older keys as negatives.
        momentum: from 0 to 1; share of the key encoder that stays at each step. The paper's 0.999 is for runs of
            100,000 steps and more; 0.99 suits thousands.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        **recipe: arguments of `Method`.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.2,
        queue: int = 4096,
        momentum: float = 0.99,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_counts(queue=queue, hidden=hidden, dim=dim)
        check_number("momentum", momentum, at_least=0, at_most=1)
        self.momentum = momentum
        self.head = mlp(self.features, hidden, dim, batch_norm=False)
        self.key_encoder = momentum_copy(self.encoder)
        self.key_head = momentum_copy(self.head)
        self.objective = QueueNCELoss(temperature)
        # As in the paper, the queue starts with random directions, which the first batches replace.
        self.register_buffer("queue", normalize_rows(torch.randn(queue, dim)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of the first view against the second's keys; in training mode, updates key encoder and queue."""
        queries = self.head(self.encoder(images[0]))
        with torch.no_grad():
            if self.training:
                update_momentum_encoder(self.encoder, self.key_encoder, self.momentum)
                update_momentum_encoder(self.head, self.key_head, self.momentum)
            keys = self.key_head(self.key_encoder(images[1]))
        loss = self.objective(queries, keys, self.queue)
        if self.training:
            self.enqueue(keys)
        return loss

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "batch dim"]) -> None:
        """Replace the oldest keys in the queue with the newest ones of all processes."""
        size, keys = len(self.queue), gather(keys)
        keys = normalize_rows(keys).to(self.queue.dtype)[-size:]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        # Not in place: the backward pass of this step still needs the queue as it was.
        self.queue = self.queue.index_copy(0, slots, keys)
        self.pointer = (self.pointer + len(keys)) % size
