"""What the methods of regression share: targets that are numbers, and views that keep what they are numbers of."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from counterpoise.method import Index, Method

Inputs = list[Shaped[Tensor, "batch *shape"]]
Numbers = Float[Tensor, " batch"]


class Regressor(Method):
    """Training of an encoder by numbers; of images by two views, of rows by one.

    Args:
        encoder: images, or rows, to features; what a run keeps.
        **recipe: arguments of `Method`.
    """

    def __init__(self, encoder: nn.Module, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.views = 2 if hasattr(encoder, "channels") else 1

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            images: `self.views` random views of the same images, or the rows.
            labels: the number that each is to be told.
            index: which training image each is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, labels, index)")

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, " n"] | None:
        """The numbers that the method itself tells from features; `None` if it only makes features."""
        return None


def binned(targets: Numbers, width: float) -> Numbers:
    """The lower end of each number's bin; with a width of 0, the numbers as they are.

    >>> binned(torch.tensor([0.5, 3.0, -1.0]), width=2.0)
    tensor([ 0.,  2., -2.])
    """
    return (targets / width).floor() * width if width else targets


def ranks_of(targets: Numbers) -> Int[Tensor, " batch"]:
    """Equal numbers as one class, from the least.

    >>> ranks_of(torch.tensor([2.5, -1.0, 2.5]))
    tensor([1, 0, 1])
    """
    return targets.unique(return_inverse=True)[1]
