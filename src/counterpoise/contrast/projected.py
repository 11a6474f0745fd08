"""Base of the methods whose loss compares projections of the features: SimCLR's projection head."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.learners.method import ImageViews, Method
from counterpoise.nets.heads import mlp


class ProjectedMethod(Method):
    """Trains an encoder by a loss on projections; the projection head only serves the loss and is not kept.

    A subclass draws no random numbers before `super().__init__`, so that one seed gives all methods the same head.

    Args:
        encoder: images to features; what a run keeps.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        **recipe: arguments of `Method`.

    Attributes:
        head: features to projections, two linear layers with batch normalisation and ReLU between them.
    """

    def __init__(self, encoder: nn.Module, hidden: int = 256, dim: int = 64, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.head = mlp(self.features, hidden, dim)

    def projections(self, images: ImageViews) -> list[Float[Tensor, "batch dim"]]:
        """The projections of each view."""
        return [self.head(self.encoder(view)) for view in images]
