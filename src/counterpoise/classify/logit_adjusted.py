"""Logit adjustment: a softmax that takes off what it owes to frequent classes, in the loss or after training.

Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314:
equation 9 (after training) and equation 10 (the loss).
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from counterpoise.errors import InputError, unknown
from counterpoise.learners.classifier import Classifier, Network, cross_entropy
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number

When = Literal["loss", "posthoc"]


def logit_adjusted(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    log_prior: Float[Tensor, " classes"],
    tau: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Softmax cross-entropy of logits that are raised by the log-prior of their class (equation 10).

    $-\log \frac{e^{f_y + \tau \log \pi_y}}{\sum_{y'} e^{f_{y'} + \tau \log \pi_{y'}}}
    = \log \big(1 + \sum_{y' \ne y} (\pi_{y'} / \pi_y)^\tau e^{f_{y'} - f_y}\big)$, mean over the rows that have a
    label. A rare class must win by a margin against a frequent one. With $\tau = 1$ the best logits are those of
    $P(y \mid x) / P(y)$, whose largest is the prediction that minimises the balanced error.

    Args:
        logits: one score per class, of at least 2.
        targets: class of each row; -1 where it has none.
        log_prior: $\log \pi$; a constant added to all of them changes nothing.
        tau: $\tau \ge 0$; 0 is cross-entropy, as is a uniform prior.

    Returns:
        The loss in nats, at least 0; 0, with a gradient of 0, where no row has a label.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, a tau below 0, or NaN.

    Examples:
        >>> prior = torch.tensor([0.9, 0.1])
        >>> round(logit_adjusted(torch.zeros(1, 2), torch.tensor([1]), prior.log()).item(), 6)  # log(1 + 0.9 / 0.1)
        2.302585
    """
    check_matrix("logits", logits)
    check_number("tau", tau, at_least=0)
    if log_prior.shape != logits.shape[1:]:
        raise InputError(
            f"log_prior: expected one number for each of {logits.shape[1]} classes, got {list(log_prior.shape)}"
        )
    check_finite("log_prior", log_prior)
    offset = tau * log_prior
    check_finite("tau times log_prior", offset)
    return cross_entropy(logits + offset, targets)


def class_log_prior(counts: Integer[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    r"""Logarithm of the share of each class among the labels, $\log \pi$.

    A class without a label counts as if it had one, so that its logarithm is finite.

    Args:
        counts: labels of each class.

    Raises:
        InputError: for what is no vector of integers of at least 0, for fewer than 2 classes, or for no label at all.

    Examples:
        >>> class_log_prior(torch.tensor([8, 2])).exp()
        tensor([0.8000, 0.2000])
    """
    if not isinstance(counts, Tensor):
        raise InputError(f"counts: expected a vector of integers, one for each class, got {counts!r}")
    counts = check_integers("counts", counts, rows=counts.numel(), low=0)
    if len(counts) < 2 or not counts.any():
        raise InputError(f"counts: expected labels of at least 2 classes, got {counts.tolist()}")
    return (counts.clamp(min=1).double() / counts.double().sum()).log().float()


class LogitAdjustedLoss(nn.Module):
    """`logit_adjusted` as a module: `loss(logits, targets)`.

    Args:
        counts: labels of each class in the training data, from which the prior is estimated.
        tau: at least 0; how much of the log-prior is added.

    Examples:
        >>> loss = LogitAdjustedLoss(torch.tensor([900, 100]))
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1])).shape
        torch.Size([])
    """

    log_prior: Tensor

    def __init__(self, counts: Integer[Tensor, " classes"], tau: float = 1.0):
        super().__init__()
        check_number("tau", tau, at_least=0)
        self.tau = tau
        self.register_buffer("log_prior", class_log_prior(counts))

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; see `logit_adjusted`."""
        return logit_adjusted(logits, targets, self.log_prior, self.tau)


class Adjusted(nn.Module):
    r"""A classifier whose logits are lowered by the log-prior of their class, $f_y - \tau \log \pi_y$ (equation 9).

    Args:
        classifier: features to one logit a class.
        log_prior: $\log \pi$.
        tau: at least 0.
    """

    log_prior: Tensor

    def __init__(self, classifier: nn.Module, log_prior: Float[Tensor, " classes"], tau: float):
        super().__init__()
        self.classifier, self.tau = classifier, tau
        self.register_buffer("log_prior", log_prior)

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Return the adjusted logits."""
        return self.classifier(features) - self.tau * self.log_prior


class LogitAdjusted(Classifier):
    """Cross-entropy whose logits are adjusted by how frequent their class is, so that rare classes count alike.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        tau: at least 0; 1 is the balanced error's own, 0 plain cross-entropy.
        when: "loss" trains with adjusted logits and classifies by the plain ones; "posthoc" trains with plain
            cross-entropy and classifies by adjusted logits, which are those of the network that is kept.
        **recipe: arguments of `Classifier`.

    Attributes:
        log_prior: of the classes among the training labels, which `start_epoch` counts; uniform before.
    """

    log_prior: Tensor

    def __init__(self, encoder: nn.Module, classes: int, tau: float = 1.0, when: When = "loss", **recipe: Any):
        super().__init__(encoder, classes, **recipe)
        check_number("tau", tau, at_least=0)
        if when not in get_args(When):
            raise unknown("when", when, get_args(When))
        self.tau, self.when = tau, when
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))

    @property
    def net(self) -> Network:  # type: ignore[override]
        """The whole network; of "posthoc" with the adjustment as its last step."""
        if self.when == "loss":
            return super().net
        adjusted = Adjusted(self.classifier, self.log_prior, self.tau)
        return Network(self.encoder, self.bottleneck, adjusted, self.classes)

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Count the labels of the training data."""
        super().start_epoch(data, epoch)
        labels = data.labels[data.labels >= 0]
        self.log_prior.copy_(class_log_prior(labels.bincount(minlength=self.classes)))

    def on_train_start(self) -> None:
        """As `start_epoch`, for those who train with a trainer of their own.

        Raises:
            InputError: for a data set whose labels cannot be counted.
        """
        data = getattr(self.trainer.train_dataloader, "dataset", None)
        if not isinstance(getattr(data, "labels", None), Tensor):
            raise InputError(f"data: expected a data set with labels to count, got {type(data).__name__}")
        self.check_data(data, batch_size=0)  # type: ignore[arg-type]
        self.start_epoch(data, 0)

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy of one view's logits, adjusted where `when` says so."""
        logits = self.logits(images[0])
        if self.when == "posthoc":
            return cross_entropy(logits, labels)
        return logit_adjusted(logits, labels, self.log_prior, self.tau)
