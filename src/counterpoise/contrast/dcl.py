"""Decoupled contrastive learning: the positive leaves InfoNCE's denominator, so that small batches learn too.

Yeh, Hong, Hsu, Liu, Chen, LeCun, "Decoupled Contrastive Learning", ECCV 2022, arXiv 2110.06848: equation 6 (DCL), its
von Mises-Fisher weighted form (DCLW), and the multiplier of Proposition 1 that the loss removes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoise.contrast.projected import ProjectedMethod
from counterpoise.errors import InputError, unknown
from counterpoise.learners.method import ImageViews, Index, Labels
from counterpoise.ops.checks import (
    check_finite,
    check_lengths,
    check_matrix,
    check_number,
    check_same_shape,
)
from counterpoise.ops.processes import gather, global_row_indices
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp


def dcl(
    z1: Float[Tensor, "batch dim"],
    z2: Float[Tensor, "batch dim"],
    temperature: float = 0.1,
    weights: Float[Tensor, " batch"] | None = None,
    normalize: bool = True,
) -> Float[Tensor, ""]:
    r"""Decoupled contrastive loss of two views, mean over all 2N anchors.

    Anchor i with positive p(i), the other view of its sample, has the loss
    $-w_i s_{i,p(i)}/T + \log \sum_k e^{s_{ik}/T}$, where k runs over both views of the other samples: 2N-2 terms.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: $T > 0$.
        weights: $w$, one per sample; 1 if not given.
        normalize: scale the rows to unit length first, so that $s$ are cosines; otherwise they are inner products.

    Returns:
        The loss in nats; it may be negative. Cosines and $w = 1$ bound it from below by $\log(2N-2) - 2/T$.

    Raises:
        InputError: for different shapes, fewer than 2 samples, which leaves no negative, NaN, a temperature that is
            not above 0, or, without `normalize`, rows longer than 1e8.

    Examples:
        >>> z = 2 * torch.eye(3)
        >>> round(dcl(z, z, temperature=0.5).item(), 6)  # -1/T + log 4
        -0.613706
    """
    check_number("temperature", temperature, above=0)
    z1, z2 = _rows(z1, z2, normalize)
    if weights is not None:
        if weights.shape != z1.shape[:1]:
            raise InputError(
                f"weights: expected one for each of the {len(z1)} samples, got shape {list(weights.shape)}"
            )
        check_finite("weights", weights)
    return _dcl(z1, z2, temperature, weights)


def _dcl(z1: Tensor, z2: Tensor, temperature: float, weights: Tensor | None) -> Float[Tensor, ""]:
    positive, negatives = _positive_and_negatives(z1, z2, temperature)
    positive = positive if weights is None else weights * positive
    return gather(negatives).mean() - gather(positive).mean()


def von_mises_fisher_weights(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], sigma: float = 0.5, normalize: bool = True
) -> Float[Tensor, " batch"]:
    r"""DCLW's weights of the positive pairs, $w_i = 2 - e^{s_i/\sigma} / \frac1N \sum_k e^{s_k/\sigma}$.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        sigma: $\sigma > 0$; larger values bring all weights nearer to 1.
        normalize: scale the rows to unit length first, so that $s$ are cosines; otherwise they are inner products.

    Returns:
        One weight per sample: mean 1, smaller for better aligned pairs, from 2-N to 2.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, a sigma not above 0, or, without `normalize`, rows
            longer than 1e8.

    Examples:
        >>> aligned, crossed = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> von_mises_fisher_weights(torch.stack([aligned, aligned]), torch.stack([aligned, crossed]))
        tensor([0.2384, 1.7616])
    """
    check_number("sigma", sigma, above=0)
    return _von_mises_fisher_weights(*_rows(z1, z2, normalize), sigma)


def _von_mises_fisher_weights(z1: Tensor, z2: Tensor, sigma: float) -> Float[Tensor, " batch"]:
    own = _similarity(z1, z2) / sigma
    everyone = gather(own)
    return 2 - len(everyone) * (own - everyone.logsumexp(0)).exp()


def npc_multiplier(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float = 0.1
) -> Float[Tensor, " anchors"]:
    r"""Negative-positive coupling: the factor $q_i$ in InfoNCE's gradient that DCL's lacks.

    $q_i = 1 - e^{s_{i,p(i)}/T} / \sum_{k \ne i} e^{s_{ik}/T}$, the probability that InfoNCE gives to the negatives.
    Where the positive is easy or negatives are few, it is near 0 and InfoNCE learns nothing from the anchor.

    Args:
        z1: one row per sample, first view; normalised here.
        z2: the same samples, second view.
        temperature: $T > 0$.

    Returns:
        Numbers from 0 to 1: the anchors of the first view, then those of the second.

    Raises:
        InputError: for different shapes, fewer than 2 samples, NaN, or a temperature that is not above 0.

    Examples:
        >>> npc_multiplier(torch.ones(2, 3), torch.ones(2, 3))  # two negatives, as near as the positive
        tensor([0.6667, 0.6667, 0.6667, 0.6667])
    """
    check_number("temperature", temperature, above=0)
    positive, negatives = _positive_and_negatives(*_rows(z1, z2), temperature)
    return torch.sigmoid(negatives - positive.repeat(2))


class DCLLoss(nn.Module):
    """`dcl` as a module: `loss(z1, z2)`.

    Args:
        temperature: above 0.
        weighted: DCLW, which pulls poorly aligned pairs harder.
        sigma: above 0; how slowly DCLW's weights fall with the alignment of a pair.
        reduction: of the two directions between the views: "mean", or "sum" as in the reference training code.
        normalize: scale the rows to unit length first.
        detach_weights: stop the gradient at DCLW's weights.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weighted: bool = False,
        sigma: float = 0.5,
        reduction: Literal["mean", "sum"] = "mean",
        normalize: bool = True,
        detach_weights: bool = True,
    ):
        super().__init__()
        check_number("temperature", temperature, above=0)
        check_number("sigma", sigma, above=0)
        if reduction not in ("mean", "sum"):
            raise unknown("reduction", reduction, ("mean", "sum"))
        self.temperature, self.weighted, self.sigma = temperature, weighted, sigma
        self.reduction, self.normalize, self.detach_weights = reduction, normalize, detach_weights

    def forward(self, z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """The loss of two views of the same samples; see `dcl`."""
        z1, z2 = _rows(z1, z2, self.normalize)
        weights = _von_mises_fisher_weights(z1, z2, self.sigma) if self.weighted else None
        if weights is not None and self.detach_weights:
            weights = weights.detach()
        loss = _dcl(z1, z2, self.temperature, weights)
        return 2 * loss if self.reduction == "sum" else loss


class DCL(ProjectedMethod):
    """SimCLR with the decoupled loss: less need for large batches and tuned temperatures.

    Args:
        encoder: images to features; what a run keeps.
        temperature: above 0.
        weighted: DCLW, which pulls poorly aligned pairs harder.
        sigma: above 0; how slowly DCLW's weights fall with the alignment of a pair.
        **recipe: arguments of `ProjectedMethod`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        temperature: float = 0.1,
        weighted: bool = False,
        sigma: float = 0.5,
        **recipe: Any,
    ):
        super().__init__(encoder, **recipe)
        self.objective = DCLLoss(temperature, weighted, sigma)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """DCL, or DCLW, of the projections of both views."""
        z1, z2 = self.projections(images)
        return self.objective(z1, z2)


def _rows(z1: Tensor, z2: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """Check the rows; return them as they are compared."""
    check_same_shape(z1=z1, z2=z2)
    for name, z in (("z1", z1), ("z2", z2)):
        check_matrix(name, z)
        if not normalize:
            check_lengths(name, z)
    global_row_indices(z1, "z1", at_least=2)
    return (normalize_rows(z1), normalize_rows(z2)) if normalize else (z1, z2)


def _positive_and_negatives(
    z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"], temperature: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " anchors"]]:
    """The logit of each sample's positive, and the log-sum-exp of the negatives' logits of each of the 2N anchors."""
    sample = global_row_indices(z1).repeat(2)
    negatives = similarity_logsumexp(
        torch.cat([z1, z2]), scale=1 / temperature, exclude=sample, gather_distributed=True
    )
    return _similarity(z1, z2) / temperature, negatives


def _similarity(z1: Float[Tensor, "batch dim"], z2: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    dtype = torch.promote_types(z1.dtype, torch.float32)
    return (z1.to(dtype) * z2.to(dtype)).sum(1)
