"""Multi-similarity loss, through pytorch-metric-learning: weighs each pair by its similarity relative to others.

Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR 2019,
arXiv 1904.06627: the mining of equations 12 and 13, the loss of equation 15.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.metric.learner import MetricLearner, PairLoss, pml
from counterpoise.ops.checks import check_number


class MultiSimilarityLoss(PairLoss):
    """Soft-weighted loss of each anchor's mined positive and negative pairs, by cosine.

    Args:
        alpha: sharpness of the positives' weights, above 0.
        beta: sharpness of the negatives' weights, above 0.
        base: similarity threshold of positives and negatives, from -1 to 1.
        epsilon: mining margin: how much easier than the hardest opposite pair a mined pair may be, at least 0.

    Examples:
        >>> import torch
        >>> loss = MultiSimilarityLoss(alpha=1.0, base=0.0)
        >>> round(loss(torch.eye(3), torch.tensor([0, 0, 1])).item(), 4)  # 2/3 (log 2 + log 2 / 50)
        0.4713
    """

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1):
        check_number("alpha", alpha, above=0)
        check_number("beta", beta, above=0)
        check_number("epsilon", epsilon, at_least=0)
        check_number("base", base, at_least=-1, at_most=1)
        super().__init__(
            pml("losses").MultiSimilarityLoss(alpha, beta, base), pml("miners").MultiSimilarityMiner(epsilon)
        )
        self.alpha, self.beta, self.base = alpha, beta, base


class MultiSimilarity(MetricLearner):
    """Soft-weighted loss of each anchor's mined positive and negative pairs, by cosine.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        alpha: sharpness of the positives' weights, above 0.
        beta: sharpness of the negatives' weights, above 0.
        base: similarity threshold of positives and negatives, from -1 to 1.
        epsilon: mining margin: how much easier than the hardest opposite pair a mined pair may be, at least 0.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float = 0.1,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, **recipe)
        self.objective = MultiSimilarityLoss(alpha, beta, base, epsilon)
