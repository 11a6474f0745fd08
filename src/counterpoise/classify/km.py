"""The Kaplan–Meier curve of all training items for every item: what predictions from features must beat.

Kaplan, Meier, "Nonparametric Estimation from Incomplete Observations", Journal of the American Statistical Association
53, 1958.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.survival import Survival
from counterpoise.learners.hazard import HazardLearner
from counterpoise.measure.survival import StepCurve, kaplan_meier
from counterpoise.nets.growing import growing
from counterpoise.nets.rows import SameRows


class OneCurve(nn.Module):
    """One survival curve for all rows.

    Attributes:
        times: of its steps.
        curve: its value from each of these times on.

    Examples:
        >>> OneCurve()(torch.zeros(2, 5)).shape  # before any curve is known
        torch.Size([2, 0])
    """

    times: Tensor
    curve: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("times", torch.zeros(0))
        self.register_buffer("curve", torch.zeros(0))
        growing(self, "times", "curve")

    def forward(self, rows: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch steps"]:
        """The curve's values for each row."""
        return self.curve.expand(len(rows), -1)


class KaplanMeier(HazardLearner):
    """The survival curve of all training items, whatever an item's features; nothing is trained.

    Its concordance is 0.5. Its Brier score and calibration are what features must improve on.

    Args:
        encoder: not used.
        shape: of one input: (columns,).
        **recipe: arguments of `HazardLearner`.
    """

    trains = False

    def __init__(self, encoder: nn.Module, shape: Sequence[int], **recipe: Any):
        super().__init__(SameRows(shape[0]), **recipe)
        self.all = OneCurve()

    @property
    def net(self) -> OneCurve:  # type: ignore[override]
        """The curve."""
        return self.all

    def start_epoch(self, data: Survival, epoch: int) -> None:
        """Take the curve of all training items."""
        found = kaplan_meier(data.times, data.events)
        self.all.times, self.all.curve = (x.to(self.all.times) for x in found)

    def survival(
        self, inputs: Float[Tensor, "batch columns"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "batch times"]:
        """The same curve for each item."""
        return StepCurve(self.all.times, self.all.curve).at(times).expand(len(inputs), -1)

    def risk(self, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """The same of each item."""
        return inputs.new_zeros(len(inputs))
