"""Prototypical networks: an image is of the class whose examples' mean is nearest.

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
from counterpoise.metric.learner import MetricLearner
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.processes import gather


def prototypes(
    support: Float[Tensor, "examples dim"], labels: Int[Tensor, " examples"], classes: int
) -> Float[Tensor, "classes dim"]:
    """The mean of each class's examples.

    Args:
        support: one row per example.
        labels: class of each, from 0; each class has an example.
        classes: how many there are, at least 1.

    Raises:
        InputError: for other shapes, NaN, or a class without an example, which has no mean.

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


class PrototypeLoss(nn.Module):
    r"""Cross-entropy of the classes, whose logits are minus the squared distances to their prototypes.

    $-\log \frac{e^{-d^2(q, p_y)}}{\sum_c e^{-d^2(q, p_c)}}$, mean over the queries: `loss(embeddings, labels)`.

    Args:
        shots: examples of each class in a batch, the first ones; its other rows are queries.
        temperature: by which the squared distances are divided, above 0.

    >>> rows = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    >>> round(PrototypeLoss(shots=1)(rows, torch.tensor([0, 1, 0, 1])).item(), 6)  # log(1 + 1/e)
    0.313262
    """

    def __init__(self, shots: int = 1, temperature: float = 1.0):
        super().__init__()
        check_number("shots", shots, at_least=1, whole=True)
        check_number("temperature", temperature, above=0)
        self.shots, self.temperature = shots, temperature

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of the batch of all processes as an episode; see `of_all`.

        Args:
            embeddings: one row per image; not normalised here.
            labels: class of each, of any integer type; -1 leaves a row out.

        Raises:
            InputError: for other shapes, labels below -1, NaN, where there is one class alone, or where no class has a
                row beyond its examples.
        """
        check_matrix("embeddings", embeddings)
        labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
        return self.of_all(gather(embeddings), gather(labels))

    def of_all(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of rows of all processes; a class without one beyond its examples has no query."""
        embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        classes, own = labels.unique(return_inverse=True)
        nth = (own[:, None] == own).tril(-1).sum(1)  # how many of the class came before
        is_query = nth >= self.shots
        if not is_query.any():
            raise InputError(f"labels: expected a class with more than {self.shots} rows in the batch, got none")
        if len(classes) < 2:
            raise InputError(f"labels: expected 2 classes in the batch, to choose from, got {len(own)} rows of one")
        means = prototypes(embeddings[~is_query], own[~is_query], len(classes))
        distances = torch.cdist(embeddings[is_query], means).square()
        return F.cross_entropy(-distances / self.temperature, own[is_query])


class ProtoNet(MetricLearner):
    """Episodes of as many classes as a batch holds; the first images of each class are its examples.

    Args:
        encoder: images to features; a linear layer is put on it, whose output is what a run keeps.
        samples: how many training images there are.
        shots: examples of each class; its other `per_class` - `shots` images are told by them.
        temperature: by which squared distances are divided, above 0.
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

    def embedding_loss(self, embeddings: Float[Tensor, "batch dim"], labels: Labels) -> Float[Tensor, ""]:
        """The loss of the batch as an episode."""
        return self.objective.of_all(embeddings, labels)
