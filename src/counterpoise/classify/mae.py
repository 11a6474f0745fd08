"""The mean absolute error of the probabilities: a loss that uniform label noise does not move, and that learns slowly.

Ghosh, Kumar, Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks", AAAI 2017,
arXiv 1712.09482. It is twice the comp-sum loss of tau = 2.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.classify.comp_sum import comp_sum
from counterpoise.learners.classifier import Classifier
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.ops.processes import labelled_mean


def mean_absolute_error(
    logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""$\sum_k |[k = y] - p_k| = 2 (1 - p_y)$ of each row, with p the softmax of the logits.

    Over all K labels it sums to $2 (K - 1)$ whatever the logits are.

    Args:
        logits: one score per class, of at least 2.
        targets: class of each row; -1 where it has none.

    Returns:
        One loss a row, from 0 to 2; 0 where there is no label.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, or NaN.

    Examples:
        >>> import torch
        >>> mean_absolute_error(torch.zeros(2, 4), torch.tensor([3, -1]))
        tensor([1.5000, 0.0000])
    """
    return 2 * comp_sum(logits, targets, 2.0)


class MAELoss(nn.Module):
    """`mean_absolute_error` as a module: `loss(logits, targets)`, the mean over the rows that have a label.

    Examples:
        >>> import torch
        >>> MAELoss()(torch.zeros(2, 4), torch.tensor([3, -1]))
        tensor(1.5000)
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; 0, with a gradient of 0, where no row has a label."""
        return labelled_mean(mean_absolute_error(logits, targets), targets)


class MeanAbsoluteError(Classifier):
    """Training with the mean absolute error of the probabilities.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        **recipe: arguments of `Classifier`.
    """

    def __init__(self, encoder: nn.Module, classes: int, **recipe: Any):
        super().__init__(encoder, classes, **recipe)
        self.objective = MAELoss()

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The mean absolute error of one view's logits; images without a label are passed over."""
        return self.objective(self.logits(images[0]), labels)
