"""TRADES: cross-entropy on clean images, and how much an attack can change what the network says of them.

Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically Principled Trade-off between Robustness and Accuracy",
ICML 2019, arXiv 1901.08573: equation 5 and algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.learners.attacked import AttackedClassifier
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.nets.features import evaluation
from counterpoise.ops.attacks import PIXEL_RANGE
from counterpoise.ops.checks import check_finite, check_integers, check_logits, check_number, check_same_shape
from counterpoise.ops.processes import labelled_mean
from counterpoise.ops.similarity import at_least_float32

NEAR = 1e-3
"""Deviation of the attack's start, as a share of the range of pixels; at the image itself the gradient is 0."""


def divergence(
    logits: Float[Tensor, "batch classes"], attacked: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    r"""The Kullback-Leibler divergence of each row, $\sum_k p_k \log (p_k / q_k)$, p and q the softmax of the two.

    Args:
        logits: scores of the images, for at least 2 classes.
        attacked: scores of the attacked images.

    Returns:
        One number a row in nats, at least 0 but for rounding, in float32 at least.

    Raises:
        InputError: for wrong shapes, one class alone, or NaN.

    Examples:
        >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.75, 0.25]]).log())  # log(2) - log(3) / 2
        tensor([0.1438])
    """
    check_logits("logits", logits)
    check_same_shape(logits=logits, attacked=attacked)
    check_finite("attacked", attacked)
    log_p, log_q = (at_least_float32(x).log_softmax(1) for x in (logits, attacked))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def trades(
    logits: Float[Tensor, "batch classes"],
    attacked: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    beta: float = 6.0,
) -> Float[Tensor, " batch"]:
    r"""The loss of each row, $-\log p_y + \beta \, \mathrm{KL}(p \,\|\, q)$: p of the image, q of the attacked one.

    Args:
        logits: scores of the images, for at least 2 classes.
        attacked: scores of the attacked images.
        targets: class of each row; -1 where it has none.
        beta: $\beta = 1 / \lambda \ge 0$.

    Returns:
        One loss a row in nats; 0 where there is no label.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, a beta below 0, or NaN.

    Examples:
        >>> logits, attacked = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log()
        >>> trades(logits, attacked, torch.tensor([1]), beta=2.0)  # log(2) + 2 * 0.1438
        tensor([0.9808])
    """
    check_number("beta", beta, at_least=0)
    far = divergence(logits, attacked)
    targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
    first = F.cross_entropy(at_least_float32(logits), targets, ignore_index=-1, reduction="none")
    return torch.where(targets >= 0, first + beta * far, 0.0) if beta else first


class TradesLoss(nn.Module):
    """`trades` as a module: `loss(logits, attacked, targets)`, the mean over the rows that have a label.

    Args:
        beta: at least 0, weight of what an attack changes; the authors compare 1 and 6.

    Examples:
        >>> TradesLoss()(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([0, -1]))  # log 4
        tensor(1.3863)
    """

    def __init__(self, beta: float = 6.0):
        super().__init__()
        check_number("beta", beta, at_least=0)
        self.beta = beta

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        attacked: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch; 0, with a gradient of 0, where no row has a label. See `trades`."""
        return labelled_mean(trades(logits, attacked, targets, self.beta), targets)


class Trades(AttackedClassifier):
    """Training that weighs accuracy on clean images against how much an attack changes the network's probabilities.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        beta: at least 0; the larger, the more robust, and the less accurate on clean images.
        **recipe: arguments of `AttackedClassifier`.
    """

    def __init__(self, encoder: nn.Module, classes: int, beta: float = 6.0, **recipe: Any):
        super().__init__(encoder, classes, **recipe)
        self.objective = TradesLoss(beta)

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of one view and of what an attack makes of it; images without a label are passed over."""
        attacked = self.attacked(images[0])
        return self.objective(self.logits(images[0]), self.logits(attacked), labels)

    def attacked(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """What an attack that raises `divergence` makes of images in [-1, 1], from a start beside them."""
        with evaluation(self), torch.no_grad():
            clean = self.logits(images)
        start = images + PIXEL_RANGE * NEAR * torch.randn_like(images)
        return self.attack(images, lambda logits: divergence(clean, logits), start)
