"""End-to-end regression: the encoder and a linear layer, trained with the absolute or the squared error."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.errors import unknown
from counterpoise.learners.method import Index
from counterpoise.metric.regressor import Inputs, Numbers, Regressor
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import gather

Error = Literal["l1", "l2"]


class Regression(Regressor):
    """The encoder and a linear layer that predicts the target.

    Args:
        encoder: maps images or rows to features; a run keeps it.
        mean: mean of the training targets; the layer predicts standardised targets.
        deviation: standard deviation of the training targets, at least 0; 0 counts as 1.
        error: "l1", the absolute error, or "l2", the squared error.
        **recipe: arguments of `Method`.
    """

    def __init__(
        self, encoder: nn.Module, mean: float = 0.0, deviation: float = 1.0, error: Error = "l1", **recipe: Any
    ):
        super().__init__(encoder, **recipe)
        if error not in get_args(Error):
            raise unknown("error", error, get_args(Error))
        check_number("mean", mean)
        check_number("deviation", deviation, at_least=0)
        self.mean, self.deviation, self.error = mean, deviation or 1.0, error
        self.head = linear(self.features, 1)

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The mean error over all views, in standard deviations of the targets."""
        goal = (labels - self.mean) / self.deviation
        gaps = torch.stack([self.head(self.encoder(view))[:, 0] - goal for view in images], 1)
        return gather(gaps.abs() if self.error == "l1" else gaps.square()).mean()

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """The linear layer's predictions."""
        return self.mean + self.deviation * self.head(features.to(self.device))[:, 0].cpu()
