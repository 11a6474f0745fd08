"""What the methods that classify share: a network from inputs to one logit a class, and cross-entropy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from counterpoise.data.parts import Labelled
from counterpoise.data.views import to_input
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import Index, InputViews, Labels, Method
from counterpoise.learners.pools import batches_of
from counterpoise.nets import embed
from counterpoise.nets.heads import cosine_head, linear
from counterpoise.ops.checks import check_counts, check_integers, check_logits, check_number, check_values
from counterpoise.ops.processes import gather, labelled_mean

Head = Literal["linear", "cosine", "weight-norm"]


class Network(nn.Module):
    """An encoder, a bottleneck and a classifier: inputs to logits.

    Args:
        encoder: inputs to features.
        bottleneck: features to fewer of them, or `nn.Identity()`.
        classifier: these to one logit a class.
        classes: how many classes there are.
    """

    def __init__(self, encoder: nn.Module, bottleneck: nn.Module, classifier: nn.Module, classes: int):
        super().__init__()
        self.encoder, self.bottleneck, self.classifier, self.classes = encoder, bottleneck, classifier, classes

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Return one logit for each class."""
        return self.classifier(self.bottleneck(self.encoder(inputs)))


class Classifier(Method):
    """Training of a network that classifies; by default with cross-entropy on one view.

    Batches are of the items that have a label, and as many as there would be of all: with few labels they come again.
    A method that learns from the others, too, divides them by itself.

    A run of a task that classifies keeps the whole network, one of a task on features the encoder.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have, at least 2.
        head: the classifier: "linear", "cosine" (unit weights and features, with a learnt scale), or "weight-norm".
        bottleneck: width of a layer between encoder and classifier, with batch normalisation; 0 for none.
        **recipe: arguments of `Method`.

    Examples:
        >>> class Flat(nn.Flatten):
        ...     features = 4
        >>> method = Classifier(Flat(), classes=3)
        >>> method.logits(torch.zeros(2, 1, 2, 2)).shape, method.net.classes
        (torch.Size([2, 3]), 3)
    """

    views: Any = 1

    def __init__(self, encoder: nn.Module, classes: int, *, head: Head = "linear", bottleneck: int = 0, **recipe: Any):
        super().__init__(encoder, **recipe)
        check_number("classes", classes, at_least=2, whole=True)
        check_number("bottleneck", bottleneck, at_least=0, whole=True)
        self.classes = classes
        self.bottleneck: nn.Module = nn.Identity()
        width = self.features
        if bottleneck:
            self.bottleneck = nn.Sequential(nn.Linear(width, bottleneck), nn.BatchNorm1d(bottleneck))
            width = bottleneck
        self.classifier = make_head(head, width, classes)
        self.has_label: Tensor | None = None  # of each training item; no buffer, since each epoch sees it anew

    @property
    def net(self) -> Network:  # type: ignore[override]
        """The whole network, which shares its parts with this method."""
        return Network(self.encoder, self.bottleneck, self.classifier, self.classes)

    def logits(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """One logit a class for each input."""
        return self.classifier(self.bottleneck(self.encoder(inputs)))

    def start_epoch(self, data: Any, epoch: int) -> None:
        """See which training items have a label."""
        self.has_label = (data.labels >= 0).cpu()

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """Those of the items that have a label."""
        if self.has_label is None:
            return super().batches(order, batch_size)
        return batches_of(self.has_label, order, batch_size)

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """Cross-entropy of one view's logits; images without a label are passed over."""
        return cross_entropy(self.logits(images[0]), labels)

    def predict(self, data: Any, batch_size: int = 512) -> Float[Tensor, "n classes"]:
        """Log-probabilities of each item, in evaluation mode and without gradients, on the CPU.

        Args:
            data: a data set of images, or of rows.
            batch_size: items at a time; matters for memory and speed only.
        """
        return embed(self.net, data, to_input, batch_size).log_softmax(1)

    def check_data(self, images: Labelled, batch_size: int, shares: int = 1) -> None:
        """Refuse data without any label, whose loss would be 0 throughout; or with labels that are no class."""
        if not (images.labels >= 0).any():
            what = f"{len(images)} training {images.items}"
            raise InputError(f"labels: {type(self).__name__} needs some, but none of the {what} has one")
        if (most := int(images.labels.max()) + 1) > self.classes:
            raise InputError(
                f"classes: expected the number of the labels' classes, at least {most}, got {self.classes}"
            )


def make_head(head: Head, features: int, classes: int) -> nn.Module:
    """A classifier of features.

    Args:
        head: its kind, see `Classifier`.
        features: width of the input.
        classes: how many logits it gives, at least 1.

    Raises:
        InputError: for an unknown kind, or a number out of range.

    Examples:
        >>> make_head("linear", 8, 3)
        Linear(in_features=8, out_features=3, bias=True)
    """
    if head not in get_args(Head):
        raise unknown("head", head, get_args(Head))
    check_counts(features=features, classes=classes)
    if head == "cosine":
        return cosine_head(features, classes, scale=10.0, learn_scale=True)
    return (
        parametrizations.weight_norm(linear(features, classes)) if head == "weight-norm" else linear(features, classes)
    )


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    label_smoothing: float = 0.0,
    weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """PyTorch's cross-entropy, mean over the rows that have a label; 0, with a gradient of 0, where none has.

    Args:
        logits: one score per class, of at least 2.
        targets: class of each row, of any integer type; -1 where it has none.
        label_smoothing: from 0 to 1; this share of each target is spread over all classes.
        weights: of the classes, at least 0; the mean is then weighted by those of the targets, as PyTorch's is.

    Returns:
        The loss in nats, at least 0.

    Raises:
        InputError: for wrong shapes, one class alone (whose loss is 0), targets that are no class, numbers out of
            range, or NaN.

    Examples:
        >>> round(cross_entropy(torch.zeros(3, 4), torch.tensor([0, 3, -1])).item(), 6)  # log 4
        1.386294
    """
    check_logits("logits", logits)
    targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
    check_number("label_smoothing", label_smoothing, at_least=0, at_most=1)
    if weights is not None:
        if weights.shape != logits.shape[1:]:
            raise InputError(f"weights: expected one for each of {logits.shape[1]} classes, got {list(weights.shape)}")
        check_values("weights", weights, at_least=0)
    losses = F.cross_entropy(
        logits, targets, weights, ignore_index=-1, reduction="none", label_smoothing=label_smoothing
    )
    known = targets >= 0
    if weights is None:
        return labelled_mean(losses, targets)
    total = gather(weights.to(losses)[targets.clamp(min=0)] * known).sum()
    return gather(losses).sum() / total.clamp(min=torch.finfo(losses.dtype).tiny)
