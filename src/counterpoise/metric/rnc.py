"""Rank-N-Contrast: orders samples around each anchor by the distance of their targets.

Zha, Cao, Son, Yang, Katabi, "Rank-N-Contrast: Learning Continuous Representations for Regression", NeurIPS 2023,
arXiv 2210.01189, equations 1 and 2.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from counterpoise.data.targets import Targets
from counterpoise.errors import InputError
from counterpoise.learners.method import Index
from counterpoise.metric.regressor import Inputs, Numbers, Regressor, check_targets
from counterpoise.ops.checks import check_matrix, check_number
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import at_least_float32


def rank_n_contrast(
    embeddings: Float[Tensor, "batch dim"], targets: Real[Tensor, " batch"], temperature: float = 2.0
) -> Float[Tensor, ""]:
    r"""The mean over all pairs (i, j) of $-\log \frac{e^{s_{ij}}}{\sum_{k \ne i,\, d_{ik} \ge d_{ij}} e^{s_{ik}}}$.

    $s = -\|z_i - z_j\| / T$, and $d = |y_i - y_j|$ is the distance of the targets. Each other sample is a positive
    once; its negatives are the samples whose targets are no nearer to the anchor's. One cumulative sum over an anchor's
    samples, sorted by d, gives the sums for all its positives.

    Args:
        embeddings: one row per view of a sample; not normalised.
        targets: target of each row.
        temperature: T, above 0.

    Raises:
        InputError: for wrong shapes, NaN, or fewer than 3 rows, where no pair has a negative and the loss is 0.

    Examples:
        >>> z, y = torch.zeros(3, 1), torch.tensor([0.0, 1.0, 3.0])
        >>> round(rank_n_contrast(z, y).item(), 6)  # log(2) / 2: the far sample has 1 term, the near 2
        0.346574
    """
    check_matrix("embeddings", embeddings)
    numbers = check_targets(targets, rows=len(embeddings))
    check_number("temperature", temperature, above=0)
    row = global_row_indices(embeddings, "embeddings", at_least=3)
    z = at_least_float32(embeddings)
    keys, key_numbers = gather(z), gather(numbers)
    similarity = -torch.cdist(z, keys) / temperature
    distance = (numbers[:, None] - key_numbers).abs()
    distance = distance.masked_fill(row[:, None] == torch.arange(len(keys), device=row.device), -1)
    # Farthest first; the anchor itself comes last and is left out.
    nearness, order = (-distance).sort(1)
    nearness, similarity = nearness[:, :-1].contiguous(), similarity.gather(1, order)[:, :-1]
    through_ties = torch.searchsorted(nearness, nearness, right=True) - 1
    negatives = similarity.logcumsumexp(1).gather(1, through_ties)
    return gather((negatives - similarity).mean(1)).mean()


class RNCLoss(nn.Module):
    """`rank_n_contrast` as a module: `loss(embeddings, targets)`.

    Args:
        temperature: above 0; the paper takes 2.
    """

    def __init__(self, temperature: float = 2.0):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, embeddings: Float[Tensor, "batch dim"], targets: Real[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; see `rank_n_contrast`."""
        return rank_n_contrast(embeddings, targets, self.temperature)


class RNC(Regressor):
    """Rank-N-Contrast on the encoder's features, without a projection head.

    Args:
        encoder: maps images or rows to features; a run keeps it.
        temperature: above 0.
        **recipe: arguments of `Method`.
    """

    def __init__(self, encoder: nn.Module, temperature: float = 2.0, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.objective = RNCLoss(temperature)

    def check_data(self, images: Targets, batch_size: int, shares: int = 1) -> None:
        """Refuse batches of fewer than 3 rows, where the loss is always 0."""
        super().check_data(images, batch_size, shares)
        if batch_size * self.views < 3:
            raise InputError(f"batch_size: expected at least 3, for a pair and a negative, got {batch_size}")

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The loss of all views together."""
        features = torch.cat([self.encoder(view) for view in images])
        return self.objective(features, labels.repeat(len(images)).to(features.dtype))
