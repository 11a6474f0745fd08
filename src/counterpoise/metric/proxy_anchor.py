"""Proxy-anchor loss, through pytorch-metric-learning: each class has a proxy, an anchor that sees the whole batch.

Kim, Kim, Cho, Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, arXiv 2003.13911, equation 4.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import Labels
from counterpoise.metric.learner import ProxyLearner, pml
from counterpoise.ops.checks import check_number


class ProxyAnchor(ProxyLearner):
    """Proxies of the classes, pulled by their own images and pushed by all others, by cosine.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        classes: how many classes the labels have.
        margin: of the cosines.
        alpha: sharpness, above 0.
        **recipe: arguments of `ProxyLearner`.
    """

    def __init__(
        self, encoder: nn.Module, samples: int, classes: int, margin: float = 0.1, alpha: float = 32.0, **recipe: Any
    ):
        super().__init__(encoder, samples, classes, **recipe)
        check_number("alpha", alpha, above=0)
        check_number("margin", margin, at_least=0, at_most=1)
        self.objective = pml("losses").ProxyAnchorLoss(classes, self.features, margin, alpha)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch."""
        return self.objective(embeddings, labels)
