"""Multi-similarity loss, through pytorch-metric-learning: pairs weighed by how they compare with the others.

Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR 2019,
arXiv 1904.06627: the mining of equations 12 and 13, the loss of equation 15.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import Labels
from counterpoise.metric.learner import MetricLearner, check_pairs, pml
from counterpoise.ops.checks import check_number


class MultiSimilarity(MetricLearner):
    """Soft-weighted positives and negatives of each anchor, by cosine.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        alpha: sharpness of the positives' weights, above 0.
        beta: sharpness of the negatives' weights, above 0.
        base: the similarity that both are compared with.
        epsilon: how much easier than the hardest opposite pair one may be that is still mined.
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
        check_number("alpha", alpha, above=0)
        check_number("beta", beta, above=0)
        check_number("epsilon", epsilon, at_least=0)
        check_number("base", base, at_least=-1, at_most=1)
        self.objective = pml("losses").MultiSimilarityLoss(alpha, beta, base)
        self.miner = pml("miners").MultiSimilarityMiner(epsilon)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the pairs that are mined."""
        check_pairs(labels)
        return self.objective(embeddings, labels, self.miner(embeddings, labels))
