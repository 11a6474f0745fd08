"""Supervised cross-entropy: the baseline that has the labels; with weights of classes and mixtures of images on demand.

The mixtures are those of Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
arXiv 1710.09412.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.errors import InputError, unknown
from counterpoise.learners.classifier import Classifier, cross_entropy
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.ops.checks import check_integers, check_number
from counterpoise.ops.processes import gather

Weights = Literal["none", "balanced"]


def balanced_weights(counts: Integer[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Weights of classes by which each has the same share of a loss: n / (K n_c), of n labels and K classes with any.

    Args:
        counts: labels of each class.

    Returns:
        One weight a class, of mean 1 over the labels; 0 for a class without labels.

    Raises:
        InputError: for what is no vector of integers of at least 0, or for no label at all.

    Examples:
        >>> balanced_weights(torch.tensor([6, 2, 0]))
        tensor([0.6667, 2.0000, 0.0000])
    """
    if not isinstance(counts, Tensor):
        raise InputError(f"counts: expected a vector of integers, one for each class, got {counts!r}")
    counts = check_integers("counts", counts, rows=counts.numel(), low=0)
    if not counts.any():
        raise InputError("counts: expected a class with labels, got none")
    present = counts > 0
    weights = counts.double().sum() / (present.sum() * counts.double().clamp(min=1))
    return (weights * present).float()


class CrossEntropy(Classifier):
    """Supervised training of the encoder with a linear classifier on top; images without a label are passed over.

    Args:
        encoder: images to features.
        classes: how many classes the labels have.
        label_smoothing: from 0 to 1; this share of each target is spread over all classes.
        weights: "balanced" weighs each class by the inverse of its number of training labels, "none" each label alike.
        mixup: alpha of the Beta distribution from which the shares of two images in their mixture are drawn, once a
            batch; 0 mixes none.
        **recipe: arguments of `Classifier`.

    Attributes:
        class_weights: with "balanced", those of the training labels, which `start_epoch` counts; 1 before.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        label_smoothing: float = 0.0,
        weights: Weights = "none",
        mixup: float = 0.0,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
        check_number("mixup", mixup, at_least=0)
        if weights not in get_args(Weights):
            raise unknown("weights", weights, get_args(Weights))
        self.label_smoothing, self.mixup = label_smoothing, mixup
        # Without weights nothing is registered, so that checkpoints of before hold all that there is.
        self.register_buffer("class_weights", torch.ones(classes) if weights == "balanced" else None)

    def start_epoch(self, data: Any, epoch: int) -> None:
        """With balanced weights, count the labels of the training data."""
        super().start_epoch(data, epoch)
        if self.class_weights is not None:
            labels = data.labels[data.labels >= 0]
            self.class_weights.copy_(balanced_weights(labels.bincount(minlength=self.classes)))

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy of one view's logits, or of mixtures of the batch's views with one another."""
        if not self.mixup:
            return self._cross_entropy(self.logits(images[0]), labels)
        mixed, partners, share = _mixtures(images[0], labels, self.mixup)
        logits = self.logits(mixed)
        return share * self._cross_entropy(logits, labels) + (1 - share) * self._cross_entropy(logits, partners)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        return cross_entropy(logits, labels, self.label_smoothing, self.class_weights)

    def on_train_start(self) -> None:
        """As `check_data` and `start_epoch`, for those who train with a trainer of their own.

        Raises:
            InputError: for data without labels, or with balanced weights for a data set whose labels cannot be counted.
        """
        images = getattr(self.trainer.train_dataloader, "dataset", None)
        if isinstance(images, Images):
            self.check_data(images, batch_size=0)
        if self.class_weights is not None:
            if not isinstance(getattr(images, "labels", None), Tensor):
                raise InputError(f"data: expected a data set with labels to count, got {type(images).__name__}")
            self.start_epoch(images, 0)


def _mixtures(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each labelled image mixed with a drawn one of the batch: the mixtures, the drawn ones' labels, the first's share.

    Images without a label stay as they are, so that no mixture is half without one.
    """
    share = gather(torch.distributions.Beta(alpha, alpha).sample((1,)).to(images))[0]  # the first process's, for all
    known = (labels >= 0).nonzero().flatten()
    partner = torch.arange(len(labels), device=labels.device)
    partner[known] = known[torch.randperm(len(known), device=labels.device)]
    return share * images + (1 - share) * images[partner], labels[partner], share
