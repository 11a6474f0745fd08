"""Composed image retrieval: queries of an image and a text that modifies it, with coarse-to-fine matching.

Chen, Zheng, Ji, Qu, Chua, "Composed Image Retrieval with Text Feedback via Multi-grained Uncertainty Regularization",
ICLR 2024, arXiv 2211.07394: uncertainty modelling (the jittered targets) and uncertainty regularisation (the loss), in
the form of the authors' code. Image and text are composed by the gated residual of Vo, Jiang, Sun, Murphy, Li,
Fei-Fei, Hays, "Composing Text and Image for Image Retrieval", CVPR 2019, arXiv 1812.07119.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.composed import WORDS, Composed, read
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets import embed
from counterpoise.nets.heads import linear, mlp
from counterpoise.ops.checks import check_matrix, check_number, check_same_shape
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp


def info_nce(queries: Float[Tensor, "batch dim"], keys: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    r"""InfoNCE, the mean over queries of $-\log \frac{e^{q_i \cdot k_i}}{\sum_j e^{q_i \cdot k_j}}$; not normalised.

    Raises:
        InputError: for different shapes, NaN, or fewer than 2 rows, where the loss is always 0.

    Examples:
        >>> round(info_nce(torch.eye(2), torch.eye(2)).item(), 6)  # log(1 + 1/e)
        0.313262
    """
    check_same_shape(queries=queries, keys=keys)
    check_matrix("queries", queries)
    check_matrix("keys", keys)
    global_row_indices(queries, "queries", at_least=2)
    own = (queries * keys).sum(1)
    return gather(similarity_logsumexp(queries, keys, gather_distributed=True) - own).mean()


def jitter(
    targets: Float[Tensor, "batch dim"],
    scale_draws: Float[Tensor, "batch dim"],
    shift_draws: Float[Tensor, "batch dim"],
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Float[Tensor, "batch dim"]:
    r"""Coarse targets, $\hat t = \alpha\, a \odot \bar t + \beta\, b$, with Gaussian noise of the row's own statistics.

    $a \sim N(1, \sigma)$ and $b \sim N(\mu, \sigma)$ are drawn for each number, where $\mu$ and $\sigma$ are the row's
    mean and (unbiased) standard deviation. $\bar t$ is the row standardised to mean 0 and deviation 1; the gradient
    flows through it alone.

    Args:
        targets: one row per sample, of at least 2 columns.
        scale_draws: standard normal numbers from which $a$ is made.
        shift_draws: the same for $b$.
        alpha: factor of the first term, at least 0.
        beta: factor of the second, at least 0.

    Raises:
        InputError: for different shapes, one column, NaN, or numbers out of range.

    Examples:
        >>> jitter(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), torch.zeros(1, 2))  # no noise: (-1, 1) + 2
        tensor([[1.0000, 3.0000]])
    """
    given = {"targets": targets, "scale_draws": scale_draws, "shift_draws": shift_draws}
    check_same_shape(**given)
    for name, x in given.items():
        check_matrix(name, x)
    _check_columns("targets", targets)
    check_number("alpha", alpha, at_least=0)
    check_number("beta", beta, at_least=0)
    deviation, mean = torch.std_mean(targets.detach(), dim=1, keepdim=True)
    scale, shift = 1 + deviation * scale_draws.detach(), mean + deviation * shift_draws.detach()
    return alpha * scale * nn.functional.layer_norm(targets, targets.shape[1:], eps=1e-5) + beta * shift


def uncertainty(queries: Float[Tensor, "batch dim"], coarse: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    r"""The coarse matching loss, $L_u = \frac12 (e^{-u} L(q, \hat t) + u)$, with `info_nce` as $L$.

    $u$ is one number a batch, the standard deviation over all entries of the coarse targets; it has a gradient.

    Raises:
        InputError: as `info_nce`.

    Examples:
        >>> round(uncertainty(torch.zeros(2, 2), torch.tensor([[1.0, -1.0], [1.0, -1.0]])).item(), 6)
        0.686574
    """
    check_same_shape(queries=queries, coarse=coarse)
    check_matrix("coarse", coarse)
    fluctuation = gather(coarse).std()
    return (torch.exp(-fluctuation) * info_nce(queries, coarse) + fluctuation) / 2


def coarse_share(epoch: int, epochs: int, gamma: float = 1.0) -> float:
    r"""The weight of coarse matching in an epoch: $e^{-\gamma_0 \cdot \text{epoch} / \text{epochs}}$.

    Args:
        epoch: from 0.
        epochs: number of epochs, at least 1.
        gamma: $\gamma_0$, at least 0.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> [round(coarse_share(epoch, 10), 3) for epoch in (0, 5, 9)]
        [1.0, 0.607, 0.407]
    """
    check_number("epoch", epoch, at_least=0, whole=True)
    check_number("epochs", epochs, at_least=1, whole=True)
    check_number("gamma", gamma, at_least=0)
    return math.exp(-gamma * epoch / epochs)


class Jitter(nn.Module):
    """Coarse targets of a batch: `jitter(targets)` with new noise at each call.

    Rows are first scaled to the same norm. The noise is about norm / √columns, which is 0.18 in the paper.

    Args:
        norm: norm to which rows are scaled, above 0.
        alpha: factor of the scaled rows, at least 0.
        beta: factor of their shift, at least 0.
    """

    def __init__(self, norm: float = 4.0, alpha: float = 1.0, beta: float = 1.0):
        super().__init__()
        check_number("norm", norm, above=0)
        check_number("alpha", alpha, at_least=0)
        check_number("beta", beta, at_least=0)
        self.norm, self.alpha, self.beta = norm, alpha, beta

    def forward(self, targets: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Coarse targets, which are not normalised; see `jitter`.

        Args:
            targets: one row per target, of at least 2 columns.

        Raises:
            InputError: for a wrong shape, or NaN.
        """
        check_matrix("targets", targets)
        _check_columns("targets", targets)
        rows = self.norm * normalize_rows(targets)
        return jitter(rows, torch.randn_like(rows), torch.randn_like(rows), self.alpha, self.beta)


class UncertaintyLoss(nn.Module):
    r"""Coarse and fine matching: `loss(queries, positives, coarse, share)` is $g L_u + (1 - g) L(q, t)$.

    Args:
        norm: norm to which the rows of queries and positives are scaled, above 0.
    """

    def __init__(self, norm: float = 4.0):
        super().__init__()
        check_number("norm", norm, above=0)
        self.norm = norm

    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        positives: Float[Tensor, "batch dim"],
        coarse: Float[Tensor, "batch dim"] | None,
        share: float = 0.5,
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            queries: one row per composed query.
            positives: the embedding of each query's target.
            coarse: coarse targets, made from the positives by `Jitter`; `None` only where the share is 0.
            share: g, from 0 (fine matching alone: InfoNCE) to 1; see `coarse_share`.

        Raises:
            InputError: for different shapes, NaN, fewer than 2 rows, coarse targets of one column, or a share out of
                range.
        """
        check_number("share", share, at_least=0, at_most=1)
        if coarse is None and share > 0:
            raise InputError(f"coarse: expected coarse targets where their share is {share:g}, got none")
        given = {"queries": queries, "positives": positives, **({} if coarse is None else {"coarse": coarse})}
        check_same_shape(**given)
        for name, x in given.items():
            check_matrix(name, x)
        q, t = self.norm * normalize_rows(queries), self.norm * normalize_rows(positives)
        if coarse is None or share == 0:
            return info_nce(q, t)
        _check_columns("coarse", coarse)
        return share * uncertainty(q, coarse.to(q.dtype)) + (1 - share) * info_nce(q, t)


class Searcher(nn.Module):
    """Embeds images, and queries of an image and a text.

    Image features x and text features t (a sum over words) are composed as σ(gate(x, t)) ⊙ x + change(x, t). One linear
    layer projects composed and plain features alike to embeddings.

    Args:
        backbone: maps images to features.
        features: number of features.
        dim: embedding dimension.
    """

    def __init__(self, backbone: nn.Module, features: int, dim: int):
        super().__init__()
        self.backbone, self.features = backbone, dim
        self.words = linear(len(WORDS), features)
        self.gate = mlp(2 * features, features, features, batch_norm=False)
        self.change = mlp(2 * features, features, features, batch_norm=False)
        self.project = linear(features, dim)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of images."""
        return self.project(self.backbone(images))

    def query(
        self, x: Float[Tensor, "batch features"], words: Shaped[Tensor, "batch words"]
    ) -> Float[Tensor, "batch dim"]:
        """Embeddings of queries, from the backbone's features of their images and the word counts from `read`."""
        joint = torch.cat([x, self.words(words.to(x.dtype))], 1)
        return self.project(torch.sigmoid(self.gate(joint)) * x + self.change(joint))


class ComposedRetrieval(Method):
    """Composed image retrieval: a contrastive loss between queries and targets, which starts with coarse matching.

    Args:
        encoder: maps images to features; a run keeps it with the modules that embed queries.
        samples: number of training queries, one for each training image.
        uncertain: add coarse matching to fine matching; off is the baseline, InfoNCE alone.
        gamma: how fast the weight of coarse matching decays, at least 0.
        dim: embedding dimension, at least 2.
        norm: norm of embeddings in the loss, above 0; the noise of coarse targets is norm / √dim.
        alpha: factor of the scaled rows in the coarse targets, at least 0.
        beta: factor of their shift, at least 0.
        **recipe: arguments of `Method`.
    """

    views = 1
    encoder: Searcher
    answer_of: Tensor
    words_of: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        uncertain: bool = True,
        gamma: float = 1.0,
        dim: int = 512,
        norm: float = 4.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("samples", samples, at_least=2, whole=True)
        check_number("gamma", gamma, at_least=0)
        check_number("dim", dim, at_least=2, whole=True)
        self.encoder = Searcher(self.encoder, self.features, dim)
        self.features, self.gamma, self.uncertain = dim, gamma, uncertain
        self.jitter, self.objective = Jitter(norm, alpha, beta), UncertaintyLoss(norm)
        self.share = float(uncertain)
        self.register_buffer("answer_of", torch.zeros(samples, dtype=torch.int64))
        self.register_buffer("words_of", torch.zeros(samples, len(WORDS), dtype=torch.uint8))

    def start_epoch(self, images: Composed, epoch: int) -> None:
        """Store the queries' targets and texts, and set the weight of coarse matching for this epoch."""
        if not isinstance(images, Composed):
            raise InputError(
                f"images: expected composed queries, got {type(images).__name__}; the task compose has them"
            )
        self.answer_of.copy_(images.answers)
        self.words_of.copy_(read(images.texts))
        if self.uncertain:
            self.share = coarse_share(epoch, int(self.trainer.max_epochs or 1), self.gamma) if epoch else 1.0

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """An epoch's batches of `batch_size` queries: first the query images, then their target images."""
        references = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
        return torch.cat([references, self.answer_of.cpu()[references]], 1).tolist()

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of a batch of query and target images, as `batches` orders them."""
        references, answers = self.encoder.backbone(images[0]).chunk(2)
        queries = self.encoder.query(references, self.words_of[index[: len(references)]])
        targets = self.encoder.project(answers)
        return self.objective(queries, targets, self.jitter(targets) if self.share else None, self.share)

    @torch.no_grad()
    def ask(self, images: Images, texts: Sequence[str]) -> Float[Tensor, "queries dim"]:
        """Embeddings of queries, for comparison by cosine with the encoder's embeddings of images.

        Args:
            images: the image of each query.
            texts: how each image should be changed.

        Raises:
            InputError: for an unknown word, or a number of texts that differs from that of the images.
        """
        if len(texts) != len(images):
            raise InputError(f"texts: expected one for each of the {len(images)} images, got {len(texts)}")
        words, device = read(texts), self.answer_of.device
        features = embed(self.encoder.backbone, images, to_float)
        return self.encoder.query(features.to(device), words.to(device)).float().cpu()


def _check_columns(name: str, rows: Tensor) -> None:
    """Refuse rows of one number, which have no standard deviation."""
    if rows.shape[1] < 2:
        raise InputError(f"{name}: expected at least 2 columns, got {rows.shape[1]}")
