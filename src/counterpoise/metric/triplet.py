"""Triplet loss (FaceNet), through pytorch-metric-learning: a positive must be nearer than a negative by a margin.

Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015,
arXiv 1503.03832, equation 2, with the semi-hard triplets of its section 3.2.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import Labels
from counterpoise.metric.learner import MetricLearner, check_pairs, pml
from counterpoise.ops.checks import check_number


class Triplet(MetricLearner):
    """Triplets whose negative is farther than the positive, but within the margin; by Euclidean distance of unit rows.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        margin: above 0.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(self, encoder: nn.Module, samples: int, margin: float = 0.2, **recipe: Any):
        super().__init__(encoder, samples, **recipe)
        check_number("margin", margin, above=0)
        self.objective = pml("losses").TripletMarginLoss(margin)
        self.miner = pml("miners").TripletMarginMiner(margin, type_of_triplets="semihard")

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The mean over the triplets that are mined and not yet told apart."""
        check_pairs(labels)
        return self.objective(embeddings, labels, self.miner(embeddings, labels))
