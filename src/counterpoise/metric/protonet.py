"""Prototypical networks: classify an image by the nearest class prototype, the mean of the class's examples.

Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017, arXiv 1703.05175, equation 2.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.learners.method import Labels
from counterpoise.metric.learner import EmbeddingLoss, MetricLearner
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.similarity import at_least_float32


def prototypes(
    support: Float[Tensor, "examples dim"], labels: Int[Tensor, " examples"], classes: int
) -> Float[Tensor, "classes dim"]:
    """The mean of each class's examples.

    Args:
        support: one row per example.
        labels: class of each, from 0; each class needs an example.
        classes: number of classes, at least 1.

    Raises:
        InputError: for wrong shapes, NaN, or a class without an example.

    Examples:
        >>> prototypes(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
        tensor([[2.],
                [5.]])
    """
    check_matrix("support", support)
    check_number("classes", classes, at_least=1, whole=True)
    labels = check_integers("labels", labels, rows=len(support), low=0, high=classes)
    counts = labels.bincount(minlength=classes)
    if not counts.all():
        raise InputError(
            f"labels: expected an example of each of {classes} classes, got none of {int(counts.argmin())}"
        )
    sums = support.new_zeros(classes, support.shape[1]).index_add(0, labels, support)
    return sums / counts[:, None]


class PrototypeLoss(EmbeddingLoss):
    r"""Cross-entropy over classes, with the negative squared distances to the prototypes as logits.

    $-\log \frac{e^{-d^2(q, p_y)}}{\sum_c e^{-d^2(q, p_c)}}$, mean over the queries: `loss(embeddings, labels)`.

    Args:
        shots: examples (support) of each class, its first rows in a batch; its other rows are queries.
        temperature: divides the squared distances, above 0.

    Examples:
        >>> rows = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
        >>> round(PrototypeLoss(shots=1)(rows, torch.tensor([0, 1, 0, 1])).item(), 6)  # log(1 + 1/e)
        0.313262
    """

    def __init__(self, shots: int = 1, temperature: float = 1.0):
        super().__init__()
        check_number("shots", shots, at_least=1, whole=True)
        check_number("temperature", temperature, above=0)
        self.shots, self.temperature = shots, temperature

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of an episode, of rows that are already gathered from all processes.

        Args:
            embeddings: one row per image; not normalised.
            labels: class of each; a class with no more than `shots` rows has no query.

        Raises:
            InputError: for a single class, or if no class has more than `shots` rows.
        """
        embeddings = at_least_float32(embeddings)
        classes, own = labels.unique(return_inverse=True)
        nth = (own[:, None] == own).tril(-1).sum(1)  # the number of earlier rows of the same class
        is_query = nth >= self.shots
        if not is_query.any():
            raise InputError(f"labels: expected a class with more than {self.shots} rows in the batch, got none")
        if len(classes) < 2:
            raise InputError(f"labels: expected 2 classes in the batch, to choose from, got {len(own)} rows of one")
        means = prototypes(embeddings[~is_query], own[~is_query], len(classes))
        distances = torch.cdist(embeddings[is_query], means).square()
        return F.cross_entropy(-distances / self.temperature, own[is_query])


class ProtoNet(MetricLearner):
    """Trains on episodes with all classes of a batch; the first images of each class are its examples.

    Args:
        encoder: maps images to features; a run keeps it with a linear layer on top that makes the embeddings.
        samples: number of training images.
        shots: examples of each class; its other `per_class` - `shots` images are queries.
        temperature: divides the squared distances, above 0.
        per_class: images of a class in a batch.
        **recipe: arguments of `MetricLearner`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        samples: int,
        shots: int = 2,
        temperature: float = 1.0,
        per_class: int = 4,
        **recipe: Any,
    ):
        super().__init__(encoder, samples, per_class=per_class, **recipe)
        check_number("shots", shots, at_least=1, whole=True)
        if shots >= per_class:
            raise InputError(f"shots: expected fewer than per_class, {per_class}, got {shots}")
        self.objective = PrototypeLoss(shots, temperature)
        self.needed = shots + 1
