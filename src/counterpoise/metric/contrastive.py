"""Contrastive loss, through pytorch-metric-learning: pulls positives together, pushes negatives beyond a margin.

Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4, without the
squares.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.metric.learner import MetricLearner, PairLoss, pml
from counterpoise.ops.checks import check_number


class ContrastiveLoss(PairLoss):
    """Contrastive loss on the Euclidean distance of normalised embeddings, averaged over the pairs that violate it.

    The mean over active positives plus the mean over active negatives: `loss(embeddings, labels)`.

    Args:
        margin: distance beyond which negatives cost nothing, above 0, at most 2.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> round(ContrastiveLoss(margin=1.0)(z, torch.tensor([0, 0, 1])).item(), 4)  # √2, (1 - 0.894 + 1 - 0.632) / 2
        1.6508
    """

    def __init__(self, margin: float = 0.5):
        check_number("margin", margin, above=0, at_most=2)
        super().__init__(pml("losses").ContrastiveLoss(pos_margin=0, neg_margin=margin))
        self.margin = margin


class Contrastive(MetricLearner):
    """Contrastive loss on the Euclidean distance of normalised embeddings, averaged over the pairs that violate it.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        margin: distance beyond which negatives cost nothing, above 0, at most 2.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(self, encoder: nn.Module, samples: int, margin: float = 0.5, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        self.objective = ContrastiveLoss(margin)
