"""MoCo v2: contrast against a queue of keys from a slowly moving copy of the encoder.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv 1911.05722, equations 1 and 2 and algorithm 1; with the head and the temperature of Chen, Fan, Girshick, He,
"Improved Baselines with Momentum Contrastive Learning", 2020, arXiv 2003.04297.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.heads import mlp
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import check_counts, check_finite, check_integers, check_matrix, check_number
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


def enqueue(
    queue: Float[Tensor, "queue *heads dim"],
    keys: Float[Tensor, "batch *heads dim"],
    pointer: Integer[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "queue *heads dim"], Int64[Tensor, ""]]:
    """The queue with the newest keys of all processes in place of the oldest ones; without a gradient.

    Every process must hold the same queue, and then holds the same one again. The given queue stays as it was, since
    the backward pass of a step that has compared with it still needs it.

    Args:
        queue: keys of earlier batches, one or one per head in each slot; used as it is.
        keys: new keys of this process, the oldest first; normalised here. Of more keys than slots the last stay.
        pointer: the slot of the oldest key, from which on the new keys are written, beyond the last slot into the first
            ones. If not given, the slots are in order of age, the oldest key first: all keys move towards the front.

    Returns:
        The new queue, of the given one's dtype, and the slot of its oldest key.

    Raises:
        InputError: for mismatched shapes, no row, no column, NaN, or a pointer that is no slot of the queue.

    Examples:
        >>> queue, key = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, -2.0]])
        >>> enqueue(queue, key, torch.tensor(1))
        (tensor([[ 1.,  0.], [ 0., -1.]]), tensor(0))
        >>> enqueue(queue, key)
        (tensor([[ 0.,  1.], [ 0., -1.]]), tensor(0))
    """
    _check_queue(queue, keys)
    slot = _slot(pointer, queue)
    size, queue = len(queue), queue.detach()
    newest = normalize_rows(gather(keys.detach())).to(queue.dtype)[-size:]
    if pointer is None:
        return torch.cat([queue[len(newest) :], newest]), slot
    slots = (slot + torch.arange(len(newest), device=queue.device)) % size
    return queue.index_copy(0, slots, newest), (slot + len(newest)) % size


def _check_queue(queue: Tensor, keys: Tensor) -> None:
    if queue.ndim < 2 or queue.shape[1:] != keys.shape[1:] or not queue.numel() or not keys.numel():
        raise InputError(
            "queue and keys: expected [queue, *heads, dim] and [batch, *heads, dim], at least 1 of each, got "
            f"{list(queue.shape)} and {list(keys.shape)}"
        )
    check_finite("queue", queue)
    check_finite("keys", keys)


def _slot(pointer: Tensor | None, queue: Tensor) -> Int64[Tensor, ""]:
    """The slot of the oldest key, checked."""
    if pointer is None:
        return torch.zeros((), dtype=torch.int64, device=queue.device)
    if pointer.ndim:
        raise InputError(f"pointer: expected a single integer, got shape {list(pointer.shape)}")
    return check_integers("pointer", pointer.reshape(1), rows=1, low=0, high=len(queue))[0]


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

    def enqueue(self, keys: Float[Tensor, "batch dim"]) -> None:
        """Replace the oldest keys in the queue with the newest ones of all processes."""
        self.queue, self.pointer = enqueue(self.queue, keys, self.pointer)
