r"""TCM: two absolute margins beside any loss, so that one threshold serves all classes.

Zhang, Xu, Tang, Fang, Wu, Tighe, Xing, "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning",
ICLR 2024, arXiv 2307.04047: the loss; `measure.opis` tells whether one threshold does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.errors import unknown
from counterpoise.learners.method import Labels
from counterpoise.metric.arcface import ArcFace
from counterpoise.metric.contrastive import Contrastive
from counterpoise.metric.learner import MetricLearner, ProxyLearner, check_pairs
from counterpoise.metric.multi_similarity import MultiSimilarity
from counterpoise.metric.proxy_anchor import ProxyAnchor
from counterpoise.metric.triplet import Triplet
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import normalize_rows

Base = Literal["multi-similarity", "contrastive", "triplet", "proxy-anchor", "arcface", "normalized-softmax"]
BASES: dict[str, Callable[..., MetricLearner]] = {
    "multi-similarity": MultiSimilarity,
    "contrastive": Contrastive,
    "triplet": Triplet,
    "proxy-anchor": ProxyAnchor,
    "arcface": ArcFace,
    "normalized-softmax": partial(ArcFace, margin=0.0, scale=20.0),
}


def tcm(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    margin_plus: float = 0.9,
    margin_minus: float = 0.5,
    lambda_plus: float = 1.0,
    lambda_minus: float = 1.0,
) -> Float[Tensor, ""]:
    r"""How far the hard pairs are on the wrong side of their margin, on average.

    $\lambda^+ \frac{\sum_{s \in S^+} (m^+ - s) 1_{s \le m^+}}{\sum_{s \in S^+} 1_{s \le m^+}}
    + \lambda^- \frac{\sum_{s \in S^-} (s - m^-) 1_{s \ge m^-}}{\sum_{s \in S^-} 1_{s \ge m^-}}$

    $S^+$ are the cosines of all pairs of one class, $S^-$ those of all other pairs: batch² numbers. A part without a
    hard pair is 0; where both are, so is the gradient.

    Args:
        embeddings: one row per image; normalised here.
        labels: class of each, of any integer type; -1 leaves a row out.
        margin_plus: $m^+$, the cosine below which a pair of one class is hard, from -1 to 1.
        margin_minus: $m^-$, the cosine above which another pair is, from -1 to 1.
        lambda_plus: weight of the first part, at least 0.
        lambda_minus: weight of the second part, at least 0.

    Raises:
        InputError: for other shapes, labels below -1, NaN, or numbers out of range.

    >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> round(tcm(z, torch.tensor([0, 0, 1])).item(), 6)  # 0.9 - 0.8 of the one pair, 0.6 - 0.5 of another
    0.2
    """
    check_matrix("embeddings", embeddings)
    labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
    _check(margin_plus, margin_minus, lambda_plus, lambda_minus)
    z, label = normalize_rows(embeddings[labels >= 0]), labels[labels >= 0]
    similarity, same = z @ z.T, label[:, None] == label
    pairs = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive, negative = margin_plus - similarity[pairs], similarity[~same] - margin_minus
    return lambda_plus * _hard_mean(positive) + lambda_minus * _hard_mean(negative)


def _check(margin_plus: float, margin_minus: float, lambda_plus: float, lambda_minus: float) -> None:
    check_number("margin_plus", margin_plus, at_least=-1, at_most=1)
    check_number("margin_minus", margin_minus, at_least=-1, at_most=1)
    check_number("lambda_plus", lambda_plus, at_least=0)
    check_number("lambda_minus", lambda_minus, at_least=0)


def _hard_mean(excess: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    hard = excess[excess >= 0]
    return hard.sum() / max(1, len(hard))


class TCMLoss(nn.Module):
    """`tcm` as a module, to be added to any loss of embeddings and labels: `base(z, y) + TCMLoss()(z, y)`.

    Args:
        margin_plus: cosine that pairs of one class should exceed, from -1 to 1.
        margin_minus: cosine that other pairs should stay below, from -1 to 1.
        lambda_plus: weight of the former, at least 0.
        lambda_minus: weight of the latter, at least 0.
    """

    def __init__(
        self,
        margin_plus: float = 0.9,
        margin_minus: float = 0.5,
        lambda_plus: float = 1.0,
        lambda_minus: float = 1.0,
    ):
        super().__init__()
        _check(margin_plus, margin_minus, lambda_plus, lambda_minus)
        self.margin_plus, self.margin_minus = margin_plus, margin_minus
        self.lambda_plus, self.lambda_minus = lambda_plus, lambda_minus

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The penalty of the batch of all processes; see `tcm`.

        Raises:
            InputError: for other shapes, labels below -1, NaN, or a batch without a positive, or a negative pair.
        """
        check_matrix("embeddings", embeddings)
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
        return self.of_all(gather(embeddings), gather(labels))

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """`tcm` of rows that are of all processes already."""
        check_pairs(labels)
        return tcm(embeddings, labels, self.margin_plus, self.margin_minus, self.lambda_plus, self.lambda_minus)


class TCM(ProxyLearner):
    """A loss of metric learning, and beside it TCM's penalty of the pairs that are on the wrong side of two margins.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        classes: how many classes the labels have.
        base: the loss, as the method of this name has it by default; normalized-softmax is ArcFace without margin.
        margin_plus: cosine that pairs of one class should exceed, from -1 to 1.
        margin_minus: cosine that other pairs should stay below, from -1 to 1.
        lambda_plus: weight of the former, at least 0; with both weights at 0 the base loss is left.
        lambda_minus: weight of the latter, at least 0.
        **recipe: arguments of `ProxyLearner`.
    """

    objective: MetricLearner

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        classes: int,
        base: Base = "multi-similarity",
        margin_plus: float = 0.9,
        margin_minus: float = 0.5,
        lambda_plus: float = 1.0,
        lambda_minus: float = 1.0,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, classes, **recipe)
        if base not in BASES:
            raise unknown("base", base, BASES)
        counts = {"classes": classes} if base in ("proxy-anchor", "arcface", "normalized-softmax") else {}
        self.objective = BASES[base](self.encoder, samples, dim=self.features, **counts)
        # What compares embeddings is all that is wanted of it.
        self.objective.encoder = nn.Identity()
        del self.objective.class_of
        self.penalty = TCMLoss(margin_plus, margin_minus, lambda_plus, lambda_minus)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The base loss and the penalty."""
        return self.objective.embedding_loss(embeddings, labels) + self.penalty.of_all(embeddings, labels)
