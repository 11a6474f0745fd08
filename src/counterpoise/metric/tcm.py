r"""TCM: adds two absolute margins to any loss, so that one distance threshold serves all classes.

Zhang, Xu, Tang, Fang, Wu, Tighe, Xing, "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning",
ICLR 2024, arXiv 2307.04047: the loss; `measure.opis` measures whether one threshold serves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import unknown
from counterpoise.learners.method import Labels
from counterpoise.measure.opis import check_distances, opis, utility_curves
from counterpoise.metric.arcface import ArcFaceLoss
from counterpoise.metric.contrastive import ContrastiveLoss
from counterpoise.metric.learner import EmbeddingLoss, ProxyLearner, ProxyLoss, check_pairs
from counterpoise.metric.multi_similarity import MultiSimilarityLoss
from counterpoise.metric.proxy_anchor import ProxyAnchorLoss
from counterpoise.metric.triplet import TripletLoss
from counterpoise.nets import embed
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.similarity import normalize_rows

Base = Literal["multi-similarity", "contrastive", "triplet", "proxy-anchor", "arcface", "normalized-softmax"]
PAIRS: dict[str, Callable[[], EmbeddingLoss]] = {
    "multi-similarity": MultiSimilarityLoss,
    "contrastive": ContrastiveLoss,
    "triplet": TripletLoss,
}
PROXIES: dict[str, Callable[[int, int], ProxyLoss]] = {  # from (classes, embedding dimension)
    "proxy-anchor": ProxyAnchorLoss,
    "arcface": ArcFaceLoss,
    "normalized-softmax": partial(ArcFaceLoss, margin=0.0, scale=20.0),
}
BASES = (*PAIRS, *PROXIES)


def tcm(
    embeddings: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    margin_plus: float = 0.9,
    margin_minus: float = 0.5,
    lambda_plus: float = 1.0,
    lambda_minus: float = 1.0,
) -> Float[Tensor, ""]:
    r"""The mean distance of hard pairs beyond their margin.

    $\lambda^+ \frac{\sum_{s \in S^+} (m^+ - s) 1_{s \le m^+}}{\sum_{s \in S^+} 1_{s \le m^+}}
    + \lambda^- \frac{\sum_{s \in S^-} (s - m^-) 1_{s \ge m^-}}{\sum_{s \in S^-} 1_{s \ge m^-}}$

    $S^+$ are the cosines of all pairs of one class, $S^-$ those of all other pairs: batch² numbers. A term without hard
    pairs is 0; if both are 0, so is the gradient.

    Args:
        embeddings: one row per image; normalised here.
        labels: class of each row, of any integer type; rows with -1 are left out.
        margin_plus: $m^+$, the cosine below which a pair of one class is hard, from -1 to 1.
        margin_minus: $m^-$, the cosine above which a pair of two classes is hard, from -1 to 1.
        lambda_plus: weight of the first term, at least 0.
        lambda_minus: weight of the second term, at least 0.

    Raises:
        InputError: for wrong shapes, labels below -1, NaN, or numbers out of range.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> round(tcm(z, torch.tensor([0, 0, 1])).item(), 6)  # positives 0.9 - 0.8, negatives 0.6 - 0.5
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


class TCMLoss(EmbeddingLoss):
    """`tcm` as a module, to add to any loss of embeddings and labels: `base(z, y) + TCMLoss()(z, y)`.

    Args:
        margin_plus: cosine that pairs of one class should exceed, from -1 to 1.
        margin_minus: cosine that pairs of two classes should stay below, from -1 to 1.
        lambda_plus: weight of the pairs of one class, at least 0.
        lambda_minus: weight of the pairs of two classes, at least 0.
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

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """`tcm` of labelled rows that are already gathered from all processes.

        Raises:
            InputError: for a batch without a positive or a negative pair.
        """
        check_pairs(labels)
        return tcm(embeddings, labels, self.margin_plus, self.margin_minus, self.lambda_plus, self.lambda_minus)


class TCM(ProxyLearner):
    """A metric-learning loss plus TCM's penalty on pairs beyond its two margins.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        classes: number of classes.
        base: base loss, with the defaults of the method of this name; normalized-softmax is ArcFace without margin.
        margin_plus: cosine that pairs of one class should exceed, from -1 to 1.
        margin_minus: cosine that pairs of two classes should stay below, from -1 to 1.
        lambda_plus: weight of the pairs of one class, at least 0; with both weights at 0, the base loss remains.
        lambda_minus: weight of the pairs of two classes, at least 0.
        distances: thresholds at which the diagnostics measure the test classes, from 0 to 2 in ascending order; `None`
            leaves them out. Training does not depend on them.
        **recipe: arguments of `ProxyLearner`.
    """

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
        distances: tuple[float, ...] | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, classes, **recipe)
        if base not in BASES:
            raise unknown("base", base, BASES)
        linear(self.features, self.features)  # consumes random numbers, so that proxies start as in the recorded runs
        self.objective = PAIRS[base]() if base in PAIRS else PROXIES[base](classes, self.features)
        self.penalty = TCMLoss(margin_plus, margin_minus, lambda_plus, lambda_minus)
        self.distances = None if distances is None else check_distances(distances).tolist()

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The base loss plus the penalty."""
        return self.objective.of_all(embeddings, labels) + self.penalty.of_all(embeddings, labels)

    def diagnostics(self, train: Images, probe: Images, test: Images) -> dict[str, float]:
        """OPIS over the given distances, and at each of them the mean sensitivity and specificity of the test classes.

        The images are those by which retrieval is scored: `test` and `probe`. Empty without distances.
        """
        if self.distances is None:
            return {}
        embeddings = torch.cat([embed(self.encoder, images, to_float) for images in (test, probe)])
        curves = utility_curves(embeddings, torch.cat([test.labels, probe.labels]), distances=self.distances)
        found = {"opis_at_distances": opis(curves.utility, curves.thresholds)}
        for name, shares in (("sensitivity", curves.sensitivity), ("specificity", curves.specificity)):
            means = shares.mean(0).tolist()
            found |= {f"{name}_at_{d:g}": mean for d, mean in zip(self.distances, means, strict=True)}
        return found
