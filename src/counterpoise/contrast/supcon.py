"""Supervised contrastive learning: all rows of the same class attract.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, "Supervised Contrastive Learning", NeurIPS 2020,
arXiv 2004.11362, equation 2 (the mean over positives stands outside the logarithm).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.errors import InputError
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp


def supcon(
    embeddings: Float[Tensor, "batch dim"], labels: Integer[Tensor, " batch"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    r"""Mean over anchors of $-\frac{1}{|P(i)|} \sum_{p \in P(i)} s_{ip}/T + \log \sum_{a \ne i} e^{s_{ia}/T}$.

    $s$ are cosines, and P(i) the other rows with the label of row i. Rows without a positive, or without a label (-1),
    are no anchors, but appear in the denominators of the others. If all rows have one class, no row is a negative: the
    loss only makes all similarities equal, and is at least the log of their number.

    Args:
        embeddings: one row per view; normalised here.
        labels: class of each row, -1 where it has none. Other views of a sample carry its label.
        temperature: $T > 0$.

    Returns:
        The loss in nats, above 0.

    Raises:
        InputError: if no two rows share a class; for wrong shapes, labels below -1, NaN, or a temperature that is not
            above 0.

    Examples:
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(supcon(embeddings, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 6)  # log(1 + 2/e)
        0.551445
        >>> round(supcon(embeddings, torch.tensor([0, 0, -1, -1]), temperature=1.0).item(), 6)  # the same two anchors
        0.551445
    """
    check_number("temperature", temperature, above=0)
    check_matrix("embeddings", embeddings)
    labels = check_integers("labels", labels, rows=len(embeddings), low=-1)
    z, row = normalize_rows(embeddings), global_row_indices(embeddings, "embeddings", at_least=2)
    classes, label = gather(labels).unique(return_inverse=True)
    positives = label.bincount()[label] - 1
    is_anchor = (positives > 0) & (classes[label] >= 0)
    if not is_anchor.any():
        raise InputError(f"labels: no two of the {len(label)} rows share a class, so there is no positive pair")
    label, positives, is_anchor = label[row], positives[row], is_anchor[row]
    # Sums by class make the positives cost N·D, not N².
    class_sums = gather(z.new_zeros(1, len(classes), z.shape[1]).index_add(1, label, z[None])).sum(0)
    positive = (z * (class_sums[label] - z)).sum(1) / positives.clamp(min=1)
    others = similarity_logsumexp(z, scale=1 / temperature, exclude=row, gather_distributed=True)
    return gather((others - positive / temperature)[is_anchor]).mean()


def own_classes(labels: Integer[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    """The labels, in which each image that has none is a class of its own among the images of all processes.

    With them `supcon` draws such an image to its own other views, and to no other image.

    Args:
        labels: class of each image of this process, -1 where it has none; at most 2^62.

    Returns:
        The labels that there are, unchanged; for the others numbers above all of them.

    Raises:
        InputError: for no image, or labels out of range.

    Examples:
        >>> own_classes(torch.tensor([1, -1, 0, -1]))
        tensor([1, 3, 0, 5])
    """
    labels = check_integers("labels", labels, rows=labels.numel(), low=-1, high=2**62 + 1)  # the sums below fit int64
    row = global_row_indices(labels, "labels")
    return labels.where(labels >= 0, gather(labels).max().clamp(min=0) + 1 + row)


class SupConLoss(nn.Module):
    """`supcon` as a module: `loss(embeddings, labels)`.

    Args:
        temperature: above 0; the paper takes 0.1.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, embeddings: Float[Tensor, "batch dim"], labels: Integer[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; see `supcon`."""
        return supcon(embeddings, labels, self.temperature)


class SupCon(ProjectedMethod):
    """Contrastive pretraining with labels; an image without a label attracts only its own second view, as in SimCLR.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0; small values focus on the nearest neighbours.
        **recipe: arguments of `ProjectedMethod`.
    """

    def __init__(self, encoder: nn.Module, temperature: float = 0.1, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.objective = SupConLoss(temperature)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """SupCon of the projections of all views together."""
        embeddings = torch.cat(self.projections(images))
        return self.objective(embeddings, own_classes(labels).repeat(len(images)))
