"""SupCon for regression: images with equal targets form a class."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.contrast.supcon import SupConLoss
from counterpoise.data.targets import Targets
from counterpoise.errors import InputError
from counterpoise.learners.method import Index
from counterpoise.metric.regressor import Inputs, Numbers, Regressor, binned, ranks_of
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import gather, global_row_indices


class SupConRegression(Regressor):
    """SupCon with the targets as classes; it ignores how near two different targets are.

    Args:
        encoder: maps images or rows to features; a run keeps it.
        temperature: above 0.
        bin: width of the bins into which targets are put; 0 leaves targets unchanged.
        hidden: width of the projection head's hidden layer.
        dim: width of the projection.
        **recipe: arguments of `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.1,
        bin: float = 0.0,
        hidden: int = 256,
        dim: int = 64,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("bin", bin, at_least=0)
        self.bin = bin
        self.head = mlp(self.features, hidden, dim)
        self.objective = SupConLoss(temperature)

    def check_data(self, images: Targets, batch_size: int, shares: int = 1) -> None:
        """Check as `Regressor` does, and refuse bins without a negative pair, or (with one view) a positive pair."""
        super().check_data(images, batch_size, shares)
        numbers = binned(images.targets, self.bin)
        filled = len(numbers.unique())
        if filled < 2:
            raise InputError(
                f"bin: expected bins that divide the {len(numbers)} targets, got all in one bin of width {self.bin:g}"
            )
        if self.views == 1 and filled == len(numbers):
            raise InputError(f"bin: expected bins of several targets, got {filled} of one target, width {self.bin:g}")

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """SupCon of the projections of all views together."""
        classes = ranks_of(gather(binned(labels, self.bin)))[global_row_indices(labels)]
        embeddings = torch.cat([self.head(self.encoder(view)) for view in images])
        return self.objective(embeddings, classes.repeat(len(images)))
