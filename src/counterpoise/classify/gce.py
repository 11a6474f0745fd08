"""Generalised cross-entropy: between cross-entropy and the mean absolute error, for labels with noise.

Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018,
arXiv 1805.07836. It is the comp-sum loss of tau = 1 + q.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from counterpoise.classify.comp_sum import comp_sum
from counterpoise.learners.classifier import Classifier
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.ops.checks import check_number
from counterpoise.ops.processes import labelled_mean


def generalized_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    q: float = 0.7,
    truncate: float = 0.0,
) -> Float[Tensor, " batch"]:
    r"""$L_q = (1 - p_y^q) / q$ of each row, with p the softmax of the logits.

    Cross-entropy as q nears 0, $1 - p_y$ at 1. Truncated, rows with $p_y \le k$ cost $L_q$ at k, without a gradient:
    their labels are taken to be wrong.

    Args:
        logits: one score per class, of at least 2.
        targets: class of each row; -1 where it has none.
        q: above 0, at most 1.
        truncate: k, from 0 to below 1; 0 truncates nothing.

    Returns:
        One loss a row, from 0 to 1/q; 0 where there is no label.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, numbers out of range, or NaN.

    Examples:
        >>> logits, targets = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])
        >>> generalized_cross_entropy(logits, targets, q=1.0, truncate=0.25)
        tensor([0.5000, 0.7500])
    """
    check_number("q", q, above=0, at_most=1)
    check_number("truncate", truncate, at_least=0, below=1)
    losses, most = comp_sum(logits, targets, 1 + q), (1 - truncate**q) / q
    return torch.where(losses < most, losses, most) if truncate else losses


class GCELoss(nn.Module):
    """`generalized_cross_entropy` as a module: `loss(logits, targets)`, the mean over the rows that have a label.

    Args:
        q: above 0, at most 1; the larger, the more robust to wrong labels, and the slower on hard examples.
        truncate: from 0 to below 1; rows whose label is no more probable than this have no gradient.

    Examples:
        >>> GCELoss(q=1.0)(torch.zeros(2, 4), torch.tensor([3, -1]))  # 1 - 1/4
        tensor(0.7500)
    """

    def __init__(self, q: float = 0.7, truncate: float = 0.0):
        super().__init__()
        check_number("q", q, above=0, at_most=1)
        check_number("truncate", truncate, at_least=0, below=1)
        self.q, self.truncate = q, truncate

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; 0, with a gradient of 0, where no row has a label."""
        losses = generalized_cross_entropy(logits, targets, self.q, self.truncate)
        return labelled_mean(losses, targets)


class GeneralizedCrossEntropy(Classifier):
    """Training with generalised cross-entropy, which weighs images by how probable their label is.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        q: above 0, at most 1; towards 0 it is cross-entropy, 1 the mean absolute error.
        truncate: from 0 to below 1; images whose label is no more probable than this teach nothing.
        warm: epochs at the start in which nothing is truncated, at least 0.
        **recipe: arguments of `Classifier`.
    """

    def __init__(
        self, encoder: nn.Module, classes: int, q: float = 0.7, truncate: float = 0.0, warm: int = 0, **recipe: Any
    ):
        super().__init__(encoder, classes, **recipe)
        check_number("warm", warm, at_least=0, whole=True)
        self.objective, self.untruncated, self.warm = GCELoss(q, truncate), GCELoss(q), warm

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Generalised cross-entropy of one view's logits; images without a label are passed over."""
        warming = self.warm and self.current_epoch < self.warm
        return (self.untruncated if warming else self.objective)(self.logits(images[0]), labels)
