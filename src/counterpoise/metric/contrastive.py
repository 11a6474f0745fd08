"""Contrastive loss, through pytorch-metric-learning: positives to one point, negatives to a margin.

Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4, without the
squares.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import Labels
from counterpoise.metric.learner import MetricLearner, check_pairs, pml
from counterpoise.ops.checks import check_number


class Contrastive(MetricLearner):
    """All pairs of a batch, by Euclidean distance of unit rows; the mean over those that are not yet where they belong.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        margin: distance to which negatives are pushed, from 0 to 2.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(self, encoder: nn.Module, samples: int, margin: float = 0.5, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        check_number("margin", margin, above=0, at_most=2)
        self.objective = pml("losses").ContrastiveLoss(pos_margin=0, neg_margin=margin)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The mean over the active positives, and that over the active negatives."""
        check_pairs(labels)
        return self.objective(embeddings, labels)
