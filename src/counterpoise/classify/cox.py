"""Cox regression: hazards that are proportional to each other at all times, by scikit-survival.

Cox, "Regression Models and Life-Tables", Journal of the Royal Statistical Society B 34, 1972; tied times as Efron does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.data.survival import Outcomes, Survival, scikit_survival
from counterpoise.data.views import to_input
from counterpoise.learners.hazard import HazardLearner
from counterpoise.learners.references import settle_batch_norm
from counterpoise.nets.features import evaluation
from counterpoise.nets.growing import growing
from counterpoise.nets.rows import SameRows, StandardizedRows
from counterpoise.ops.checks import check_number


class ProportionalHazards(nn.Module):
    """Inputs to the logarithm of their hazard relative to a baseline, and that baseline.

    Args:
        encoder: inputs to features, of which the logarithm is a weighted sum; has an attribute `features`.

    Attributes:
        weights: of the features, each scaled to mean 0 and deviation 1.
        times: of events in training.
        baseline: the cumulative hazard up to each of them, at a relative hazard of 1.

    Examples:
        >>> ProportionalHazards(SameRows(3))(torch.zeros(2, 3))
        tensor([[0.],
                [0.]])
    """

    weights: Tensor
    times: Tensor
    baseline: Tensor

    def __init__(self, encoder: nn.Module):
        super().__init__()
        width: int = encoder.features  # type: ignore[assignment]
        self.encoder, self.scaled = encoder, StandardizedRows(SameRows(width), width)
        self.register_buffer("weights", torch.zeros(width))
        self.register_buffer("times", torch.zeros(0))
        self.register_buffer("baseline", torch.zeros(0))
        growing(self, "times", "baseline")

    def forward(self, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch 1"]:
        """The logarithm of each input's relative hazard."""
        return (self.scaled(self.encoder(inputs)) @ self.weights)[:, None]


class CoxOnFeatures(HazardLearner):
    """Cox regression on an encoder as it is, each feature scaled to mean 0 and deviation 1.

    Args:
        encoder: inputs to features.
        penalty: of half the squared weights, beside the log-likelihood of all items; above 0, since features may depend
            on each other.
        **recipe: arguments of `HazardLearner`.
    """

    trains = False

    def __init__(self, encoder: nn.Module, penalty: float = 0.1, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("penalty", penalty, above=0)
        self.penalty = penalty
        self.model = ProportionalHazards(encoder)

    @property
    def net(self) -> ProportionalHazards:  # type: ignore[override]
        """The encoder with the weights of its features, and the baseline."""
        return self.model

    def check_data(self, data: Survival, batch_size: int, shares: int = 1) -> None:
        """Refuse training without scikit-survival, or without any event."""
        super().check_data(data, batch_size, shares)
        scikit_survival("linear_model")

    @torch.no_grad()
    def start_epoch(self, data: Survival, epoch: int) -> None:
        """Fit it to all training items."""
        model = self.model
        with evaluation(self):
            features = model.encoder(to_input(data.inputs.to(model.weights)))
        rows = model.scaled.fit(features)(features).double().cpu().numpy()
        cox = scikit_survival("linear_model").CoxPHSurvivalAnalysis(alpha=self.penalty, ties="efron")
        fitted = cox.fit(rows, Outcomes(data.times, data.events).structured())
        hazard = fitted.cum_baseline_hazard_
        model.weights.copy_(torch.from_numpy(fitted.coef_))
        model.times, model.baseline = (torch.from_numpy(x).to(model.times) for x in (hazard.x, hazard.y))

    def survival(
        self, inputs: Float[Tensor, "batch columns"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "batch times"]:
        """The baseline's curve, to the power of the relative hazard."""
        place = torch.searchsorted(self.model.times, times.to(self.model.times), right=True)
        hazard = torch.cat([self.model.baseline.new_zeros(1), self.model.baseline])[place]
        return (-hazard * self.model(inputs).exp()).exp()

    def risk(self, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """The logarithm of the relative hazard."""
        return self.model(inputs)[:, 0]


class Cox(CoxOnFeatures):
    """Cox regression on the columns, each scaled to mean 0 and deviation 1.

    Args:
        encoder: not used: the model is linear in the columns.
        shape: of one input: (columns,).
        penalty: of half the squared weights, beside the log-likelihood of all items; above 0, since the columns that a
            column of words becomes depend on each other.
        **recipe: arguments of `HazardLearner`.
    """

    def __init__(self, encoder: nn.Module, shape: Sequence[int], penalty: float = 0.1, **recipe: Any):
        super().__init__(SameRows(shape[0]), penalty, **recipe)


class CoxOnUntrained(CoxOnFeatures):
    """Cox regression on an untrained encoder, whose batch normalisation has the statistics of the training items."""

    def start_epoch(self, data: Survival, epoch: int) -> None:
        """Take these statistics first."""
        settle_batch_norm(self.encoder, data)
        super().start_epoch(data, epoch)
