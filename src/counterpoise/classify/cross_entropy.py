"""Supervised cross-entropy: the baseline that has the labels."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels, Method
from counterpoise.nets.heads import linear
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.processes import gather


def cross_entropy(
    logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """PyTorch's cross-entropy, mean over the rows that have a label; 0, with a gradient of 0, where none has.

    Args:
        logits: one score per class, of at least 2.
        targets: class of each row, of any integer type; -1 where it has none.
        label_smoothing: from 0 to 1; this share of each target is spread over all classes.

    Returns:
        The loss in nats, at least 0.

    Raises:
        InputError: for wrong shapes, one class alone (whose loss is 0), targets that are no class, numbers out of
            range, or NaN.

    >>> import torch
    >>> round(cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, -1])).item(), 6)  # log 4
    1.386294
    """
    check_matrix("logits", logits)
    if logits.shape[1] < 2:
        raise InputError(f"logits: expected at least 2 columns, one for each class, got {logits.shape[1]}")
    targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
    check_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none", label_smoothing=label_smoothing)
    return gather(losses).sum() / (gather(targets) >= 0).sum().clamp(min=1)


class CrossEntropy(Method):
    """Supervised training of the encoder with a linear classifier on top; images without a label are passed over.

    Args:
        encoder: images to features; what a run keeps.
        classes: how many classes the labels have.
        label_smoothing: from 0 to 1; this share of each target is spread over all classes.
        **recipe: arguments of `Method`.
    """

    views = 1

    def __init__(self, encoder: nn.Module, classes: int, label_smoothing: float = 0.0, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("classes", classes, at_least=2, whole=True)
        check_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
        self.label_smoothing = label_smoothing
        self.classifier = linear(self.features, classes)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy of one view's logits."""
        return cross_entropy(self.classifier(self.encoder(images[0])), labels, self.label_smoothing)

    def check_images(self, images: Images, batch_size: int, shares: int = 1) -> None:
        """Refuse images without any label, whose loss would be 0 throughout."""
        if not (images.labels >= 0).any():
            raise InputError(f"labels: cross-entropy needs some, but none of the {len(images)} training images has one")

    def on_train_start(self) -> None:
        """As `check_images`, for those who train with a trainer of their own."""
        images = getattr(self.trainer.train_dataloader, "dataset", None)
        if isinstance(images, Images):
            self.check_images(images, batch_size=0)
