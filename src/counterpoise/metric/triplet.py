"""Triplet loss (FaceNet), through pytorch-metric-learning: positives must be nearer than negatives by a margin.

Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015,
arXiv 1503.03832, equation 2, with the semi-hard triplets of its section 3.2.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.metric.learner import MetricLearner, PairLoss, pml
from counterpoise.ops.checks import check_number


class TripletLoss(PairLoss):
    """Triplet loss with semi-hard mining, on the Euclidean distance of normalised embeddings.

    Semi-hard negatives are farther than the positive, but within the margin. The mean over the triplets that violate
    the margin: `loss(embeddings, labels)`.

    Args:
        margin: least difference of the two distances, above 0.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> round(TripletLoss(margin=0.4)(z, torch.tensor([0, 0, 1])).item(), 4)  # of one anchor, 0.6325 - 0.8944 + 0.4
        0.138
    """

    def __init__(self, margin: float = 0.2):
        check_number("margin", margin, above=0)
        super().__init__(
            pml("losses").TripletMarginLoss(margin),
            pml("miners").TripletMarginMiner(margin, type_of_triplets="semihard"),
        )
        self.margin = margin


class Triplet(MetricLearner):
    """Triplet loss with semi-hard mining, on the Euclidean distance of normalised embeddings.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        margin: least difference of the two distances, above 0.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(self, encoder: nn.Module, samples: int, margin: float = 0.2, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        self.objective = TripletLoss(margin)
