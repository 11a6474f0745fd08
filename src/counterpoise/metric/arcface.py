"""ArcFace, through pytorch-metric-learning: a softmax over the angles to the classes' proxies, with a margin.

Deng, Guo, Yang, Xue, Kotsia, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
arXiv 1801.07698, equation 3.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import Labels
from counterpoise.metric.learner import ProxyLearner, pml
from counterpoise.ops.checks import check_number


class ArcFace(ProxyLearner):
    """Cross-entropy of scaled cosines to the proxies, the own angle being enlarged by the margin.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        classes: how many classes the labels have.
        margin: in degrees, from 0 to 90; the paper takes 28.6 (0.5 radian) for faces.
        scale: of the cosines, above 0; the paper takes 64.
        **recipe: arguments of `ProxyLearner`.
    """

    def __init__(
        self, encoder: nn.Module, samples: int, classes: int, margin: float = 28.6, scale: float = 64.0, **recipe: Any
    ):
        super().__init__(encoder, samples, classes, **recipe)
        check_number("margin", margin, at_least=0, at_most=90)
        check_number("scale", scale, above=0)
        self.objective = pml("losses").ArcFaceLoss(classes, self.features, margin, scale)

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch."""
        return self.objective(embeddings, labels)
