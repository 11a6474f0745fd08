"""SimCLR: two views of an image attract, all other images of the batch repel.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv 2002.05709, equation 1.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.ops.checks import check_matrix, check_number, check_same_shape
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp


def nt_xent(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    r"""Normalised, temperature-scaled cross-entropy (NT-Xent, InfoNCE) of two views.

    All 2N rows are anchors; the positive p(i) of row i is the other view of its sample. With cosines $s$, the mean over
    the anchors of $-s_{i,p(i)}/T + \log \sum_{k \ne i} e^{s_{ik}/T}$.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: $T > 0$.

    Returns:
        The loss in nats, above 0; $\log(2N-1)$ where all rows are equal.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, or a temperature that is not above 0.

    Examples:
        >>> round(nt_xent(torch.ones(3, 2), torch.ones(3, 2)).item(), 4)  # log 5: one of five
        1.6094
    """
    check_number("temperature", temperature, above=0)
    check_same_shape(z1=z1, z2=z2)
    check_matrix("z1", z1)
    check_matrix("z2", z2)
    sample = global_row_indices(z1, "z1", at_least=2)
    z = normalize_rows(torch.cat([z1, z2]))
    itself = torch.cat([2 * sample, 2 * sample + 1])
    others = similarity_logsumexp(z, scale=1 / temperature, exclude=itself, gather_distributed=True)
    z1, z2 = z.chunk(2)
    positive = (z1 * z2).sum(1).repeat(2) / temperature
    return gather(others - positive).mean()


class NTXentLoss(nn.Module):
    """`nt_xent` as a module: `loss(z1, z2)`.

    Args:
        temperature: above 0; the paper takes 0.1 for ImageNet and 0.5 for CIFAR-10.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def forward(self, z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """The loss of two views of the same samples; see `nt_xent`."""
        return nt_xent(z1, z2, self.temperature)


class SimCLR(ProjectedMethod):
    """Contrastive pretraining without labels; the projection head only serves the loss and is not kept.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0; small values focus on the nearest neighbours.
        views: random views of each image, at least 2; with more, the loss is the mean over all pairs of views.
        **recipe: arguments of `ProjectedMethod`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.1,
        views: int = 2,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        check_number("views", views, at_least=2, whole=True)
        self.views = views
        self.objective = NTXentLoss(temperature)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """NT-Xent of the projections, averaged over the pairs of views."""
        embeddings = self.projections(images)
        return torch.stack([self.objective(*pair) for pair in itertools.combinations(embeddings, 2)]).mean()
