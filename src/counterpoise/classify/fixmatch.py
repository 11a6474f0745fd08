"""FixMatch: what a network is sure of on a weak view of an unlabelled image is its label on a strong view.

Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel, "FixMatch: Simplifying Semi-Supervised Learning with
Consistency and Confidence", NeurIPS 2020, arXiv 2001.07685, equations 3 and 4.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.learners.classifier import Classifier, Network, cross_entropy
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.learners.pools import two_pools
from counterpoise.nets.momentum import momentum_copy, update_momentum_encoder
from counterpoise.ops.checks import check_counts, check_integers, check_logits, check_number, check_same_shape
from counterpoise.ops.processes import masked_mean
from counterpoise.ops.similarity import at_least_float32


def fixmatch_loss(
    logits: Float[Tensor, "batch classes"],
    strong: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    threshold: float = 0.95,
    coefficient: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of the labelled rows, and of the unlabelled ones against what the weak view is sure of.

    With p the softmax of an unlabelled row's logits on the weak view, a constant, and c its largest class, the second
    term is the mean over all unlabelled rows of $[p_c \ge \tau]\, H(c, q)$, q being the softmax on the strong view.

    Args:
        logits: one score a class, of at least 2, of the weak view.
        strong: of the strong view; those of labelled rows are not used.
        targets: class of each row; -1 where it has none.
        threshold: $\tau$, from 0 to 1.
        coefficient: weight of the second term, at least 0.

    Returns:
        The loss in nats, at least 0.

    Raises:
        InputError: for different shapes, one class alone, targets that are no class, numbers out of range, or NaN.

    Examples:
        >>> weak = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
        >>> loss = fixmatch_loss(weak, torch.zeros(3, 2), torch.tensor([0, -1, -1]))
        >>> round(loss.item(), 4)  # log 2, and half of it: one of two rows is sure
        1.0397
    """
    check_number("threshold", threshold, at_least=0, at_most=1)
    check_number("coefficient", coefficient, at_least=0)
    check_same_shape(logits=logits, strong=strong)
    check_logits("logits", logits)
    check_logits("strong", strong)
    targets = check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
    confidence, pseudo = at_least_float32(logits.detach()).softmax(1).max(1)
    unlabelled = targets < 0
    sure = unlabelled & (confidence >= threshold)
    losses = F.cross_entropy(at_least_float32(strong), pseudo, reduction="none").where(sure, 0)
    return cross_entropy(at_least_float32(logits), targets) + coefficient * masked_mean(losses, unlabelled)


class FixMatchLoss(nn.Module):
    """`fixmatch_loss` as a module: `loss(logits, strong, targets)`.

    Args:
        threshold: confidence from which on an unlabelled row counts, 0 to 1.
        coefficient: weight of the unlabelled rows, at least 0.

    Examples:
        >>> FixMatchLoss()(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([3, -1]))  # log 4; the other is not sure
        tensor(1.3863)
    """

    def __init__(self, threshold: float = 0.95, coefficient: float = 1.0):
        super().__init__()
        check_number("threshold", threshold, at_least=0, at_most=1)
        check_number("coefficient", coefficient, at_least=0)
        self.threshold, self.coefficient = threshold, coefficient

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        strong: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The loss of both views of a batch; see `fixmatch_loss`."""
        return fixmatch_loss(logits, strong, targets, self.threshold, self.coefficient)


class FixMatch(Classifier):
    """Semi-supervised training: confident predictions on weak views are the labels of strong views.

    The weak view is a mild crop, flipped where the views are; the strong one is the random view. Rows of numbers have
    no views, so that what is left is the network's own confident predictions as labels.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        samples: how many training items there are.
        threshold: confidence from which on an unlabelled image counts, 0 to 1.
        ratio: unlabelled images in a batch for each labelled one, above 0.
        coefficient: weight of the unlabelled images, at least 0.
        average: share of the kept network that stays at each batch, 0 to below 1, the rest coming from the trained one;
            0 keeps the trained one. The paper's 0.999 is for runs of 100,000 steps and more.
        **recipe: arguments of `Classifier`.

    Attributes:
        labelled: whether each training item has a label, which `start_epoch` finds.
    """

    views = 2  # a mild one and a random one
    labelled: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        samples: int,
        threshold: float = 0.95,
        ratio: float = 7.0,
        coefficient: float = 1.0,
        average: float = 0.0,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_counts(samples=samples)
        check_number("ratio", ratio, above=0)
        check_number("average", average, at_least=0, below=1)
        self.objective = FixMatchLoss(threshold, coefficient)
        self.ratio, self.average = ratio, average
        self.averaged = momentum_copy(super().net) if average else None
        self.register_buffer("labelled", torch.zeros(samples, dtype=torch.bool))

    @property
    def net(self) -> Network:  # type: ignore[override]
        """The network that is kept: the averaged one, if there is one."""
        return super().net if self.averaged is None else self.averaged

    def start_epoch(self, data: Any, epoch: int) -> None:
        """See which training items have a label."""
        self.labelled.copy_(data.labels >= 0)
        if epoch == 0 and self.labelled.all():
            warnings.warn(
                f"FixMatch: all training {data.items} have a label, so that it is cross-entropy on weak views"
            )

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """`two_pools` of labelled and unlabelled items."""
        return two_pools(self.labelled.cpu(), order, batch_size, 1 / (1 + self.ratio))

    def views_of(self, pixels: Tensor, labels: Labels, index: Index) -> InputViews:
        """A mild and a random view."""
        return [self.view(pixels, "mild").to(self.dtype), self.view(pixels, "random").to(self.dtype)]

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """FixMatch of a weak and a strong view, which pass the network together."""
        weak, strong = images
        unlabelled = (labels < 0).nonzero().flatten()
        logits, others = self.logits(torch.cat([weak, strong[unlabelled]])).split([len(weak), len(unlabelled)])
        return self.objective(logits, torch.zeros_like(logits).index_copy(0, unlabelled, others), labels)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the averaged network towards the trained one; of its batch normalisation, take the statistics."""
        if self.averaged is not None:
            update_momentum_encoder(super().net, self.averaged, self.average, buffers="copy")

    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """`sure`: the share of the unlabelled training items whose confidence reaches the threshold in the end."""
        pool = (train.labels < 0).nonzero().flatten()
        if not len(pool):
            return {}
        confidence = self.predict(train.subset(pool)).exp().amax(1)
        return {"sure": float((confidence >= self.objective.threshold).double().mean())}
