"""Proxy-anchor loss, through pytorch-metric-learning: class proxies are anchors for the whole batch.

Kim, Kim, Cho, Kwak, "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, arXiv 2003.13911, equation 4.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.metric.learner import ProxyLearner, ProxyLoss, pml
from counterpoise.ops.checks import check_number


class ProxyAnchorLoss(ProxyLoss):
    """Pulls class proxies towards images of their class and pushes them from all others, by cosine.

    Args:
        classes: number of classes, at least 2.
        dim: embedding dimension.
        margin: margin of the cosines, from 0 to 1.
        alpha: sharpness, above 0.
    """

    def __init__(self, classes: int, dim: int, margin: float = 0.1, alpha: float = 32.0):
        check_number("classes", classes, at_least=2, whole=True)
        check_number("dim", dim, at_least=1, whole=True)
        check_number("alpha", alpha, above=0)
        check_number("margin", margin, at_least=0, at_most=1)
        super().__init__(pml("losses").ProxyAnchorLoss(classes, dim, margin, alpha), classes, "proxies")
        self.margin, self.alpha = margin, alpha


class ProxyAnchor(ProxyLearner):
    """Pulls class proxies towards images of their class and pushes them from all others, by cosine.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        classes: number of classes.
        margin: margin of the cosines, from 0 to 1.
        alpha: sharpness, above 0.
        **recipe: arguments of `ProxyLearner`.
    """

    def __init__(
        self, encoder: nn.Module, samples: int, classes: int, margin: float = 0.1, alpha: float = 32.0, **recipe: Any
    ):
        super().__init__(encoder, samples, classes, **recipe)
        self.objective = ProxyAnchorLoss(classes, self.features, margin, alpha)
