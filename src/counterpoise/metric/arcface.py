"""ArcFace, through pytorch-metric-learning: a softmax over the angles to the classes' proxies, with a margin.

Deng, Guo, Yang, Xue, Kotsia, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
arXiv 1801.07698, equation 3.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.metric.learner import ProxyLearner, ProxyLoss, pml
from counterpoise.ops.checks import check_number


class ArcFaceLoss(ProxyLoss):
    """Cross-entropy of the scaled cosines to the class proxies, with the margin added to the angle to the own proxy.

    Args:
        classes: number of classes, at least 2.
        dim: embedding dimension.
        margin: angular margin in degrees, from 0 to 90; the paper takes 28.6 (0.5 radian) for faces.
        scale: factor of the cosines, above 0; the paper takes 64.
    """

    def __init__(self, classes: int, dim: int, margin: float = 28.6, scale: float = 64.0):
        check_number("classes", classes, at_least=2, whole=True)
        check_number("dim", dim, at_least=1, whole=True)
        check_number("margin", margin, at_least=0, at_most=90)
        check_number("scale", scale, above=0)
        super().__init__(pml("losses").ArcFaceLoss(classes, dim, margin, scale), classes, "W")


class ArcFace(ProxyLearner):
    """Cross-entropy of the scaled cosines to the class proxies, with the margin added to the angle to the own proxy.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        classes: number of classes.
        margin: angular margin in degrees, from 0 to 90; the paper takes 28.6 (0.5 radian) for faces.
        scale: factor of the cosines, above 0; the paper takes 64.
        **recipe: arguments of `ProxyLearner`.
    """

    def __init__(
        self, encoder: nn.Module, samples: int, classes: int, margin: float = 28.6, scale: float = 64.0, **recipe: Any
    ):
        super().__init__(encoder, samples, classes, **recipe)
        self.objective = ArcFaceLoss(classes, self.features, margin, scale)
