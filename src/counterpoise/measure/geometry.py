"""The geometry of embeddings: do views agree, is the sphere filled, are classes close, are all dimensions used?

Alignment, uniformity and tolerance depend on directions only: rows are normalised first, and a row of zeros stays at
the centre of the sphere.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_matrix, check_number, check_same_shape
from counterpoise.ops.similarity import at_least_float32, normalize_rows, similarity_logsumexp

# Complete collapse: the mean squared distance to the mean is below this share of the mean squared norm, that is, the
# standard deviation is below a hundredth of the norm.
SAME_POINT = 1e-4
# Dimensional collapse: the effective rank minus 1, its smallest possible value, is below this share of the largest:
# about 3.5 of 128 dimensions, 11 of 512.
FEW_DIMENSIONS = 0.02


def alignment(z1: Float[Tensor, "n dim"], z2: Float[Tensor, "n dim"], alpha: float = 2.0) -> Float[Tensor, ""]:
    r"""Mean distance between two views of the same sample, $\frac1n \sum_i \lVert u_i - v_i \rVert^\alpha$.

    Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, arXiv 2005.10242, section 4.1.

    Args:
        z1: first view, one row per sample; normalised here.
        z2: second view of the same samples.
        alpha: power of the distance, above 0.

    Returns:
        From 0 (the views agree) to $2^\alpha$; differentiable, at equal views only for `alpha` of at least 1.

    Raises:
        InputError: for different shapes, no rows, NaN, or `alpha` out of range.

    Examples:
        >>> round(alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item(), 6)
        2.0
    """
    check_same_shape(z1=z1, z2=z2)
    check_matrix("z1", z1)
    check_matrix("z2", z2)
    check_number("alpha", alpha, above=0)
    distances = torch.linalg.vector_norm(normalize_rows(z1) - normalize_rows(z2), dim=1)
    return distances.pow(alpha).mean()


def uniformity(z: Float[Tensor, "n dim"], t: float = 2.0) -> Float[Tensor, ""]:
    r"""How evenly rows cover the sphere: $\log \frac{1}{n(n-1)} \sum_{i \ne j} e^{-t \lVert u_i - u_j \rVert^2}$.

    Wang & Isola, ICML 2020, arXiv 2005.10242, section 4.1. The matrix of all pairs is never stored.

    Args:
        z: one row per sample; normalised here.
        t: above 0; a larger t weighs nearer pairs more.

    Returns:
        From 0 (all rows are the same point) down to about $-2t$; differentiable once.

    Raises:
        InputError: for fewer than 2 rows, NaN, or `t` out of range.

    Examples:
        >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item(), 6)  # squared distance 2, twice
        -4.0
    """
    check_matrix("z", z, at_least=2)
    check_number("t", t, above=0)
    u = normalize_rows(z)
    # -|u - v|² / 2 as one product: <(u, -|u|²/2, 1), (v, 1, -|v|²/2)>. Norms are 1 except for rows of zeros.
    half, one = -u.square().sum(1, keepdim=True) / 2, torch.ones_like(u[:, :1])
    row = torch.arange(len(u), device=u.device)
    queries, keys = torch.cat([u, half, one], 1), torch.cat([u, one, half], 1)
    others = similarity_logsumexp(queries, keys, 2 * t, exclude=(row, row))
    return others.logsumexp(0) - math.log(len(u) * (len(u) - 1))


def tolerance(z: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""Mean cosine of all pairs of different rows of the same class.

    Wang & Liu, "Understanding the Behaviour of Contrastive Loss", CVPR 2021, arXiv 2012.09740. All pairs have
    the same weight, so large classes weigh more. The pairs of class c sum to $\lVert s_c \rVert^2 - n_c$, with the sum
    $s_c$ of its normalised rows, so the cost is n·dim.

    Args:
        z: one row per sample; normalised here.
        labels: class of each row; rows with -1 are left out.

    Returns:
        From -1 to 1; high if semantically similar samples may be close. Differentiable.

    Raises:
        InputError: if no two rows share a class, or for NaN and wrong shapes.

    Examples:
        >>> tolerance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0, 0, 1])).item()
        0.3333333432674408
    """
    check_matrix("z", z)
    labels = known_classes("labels", labels, len(z))
    kept = labels >= 0
    u = normalize_rows(z)[kept]
    _, member, counts = labels[kept].unique(return_inverse=True, return_counts=True)
    pairs = int((counts * (counts - 1)).sum())
    if not pairs:
        raise InputError(f"labels: no two of the {len(z)} rows share a class, so there is no pair to compare")
    sums = u.new_zeros(len(counts), u.shape[1]).index_add(0, member, u)
    return (sums.square().sum() - u.square().sum()) / pairs


def effective_rank(z: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    r"""The number of dimensions in use: $e^{H(p)}$, with $p_k = \sigma_k / \sum_l \sigma_l$ from the singular values.

    Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007; RankMe (Garrido et al.,
    ICML 2023, arXiv 2210.02885) applies it to embeddings, with a small constant added to p that is left out here.
    As in both, rows are neither centred nor scaled.

    Args:
        z: one row per sample.

    Returns:
        From 1 to min(n, dim); 0 if all numbers are 0. Differentiable where the singular values differ and none is 0.

    Raises:
        InputError: for no rows or NaN.

    Examples:
        >>> round(effective_rank(torch.eye(5)).item(), 4), round(effective_rank(torch.ones(5, 3)).item(), 4)
        (5.0, 1.0)
    """
    check_matrix("z", z)
    z = at_least_float32(z)
    largest = z.detach().abs().amax() if z.numel() else z.new_zeros(())
    if not largest:
        return z.new_zeros(())
    singular = torch.linalg.svdvals(z / largest)
    return torch.special.entr(singular / singular.sum()).sum().exp()


def collapse(z: Float[Tensor, "n dim"]) -> str | None:
    """Detect collapse of embeddings: its name, or `None` if they are healthy.

    Complete collapse: the mean squared distance to the mean is below 1e-4 of the mean squared length. Dimensional
    collapse (Jing et al., ICLR 2022, arXiv 2110.09348): `effective_rank` is below 1 + 0.02 (r - 1), where
    r = min(n, dim) is its largest possible value. A single row cannot collapse.

    Args:
        z: one row per sample, from the network, neither centred nor scaled.

    Raises:
        InputError: for no rows or NaN.

    Examples:
        >>> collapse(torch.ones(8, 4))
        'complete collapse: all embeddings are the same point'
        >>> collapse(torch.arange(1.0, 9.0)[:, None] * torch.ones(4))
        'dimensional collapse: effective rank 1.0 of 4'
        >>> collapse(torch.eye(4))
    """
    check_matrix("z", z)
    if len(z) < 2:
        return None
    z = z.detach().cpu().double()
    z = z / z.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    if (z - z.mean(0)).square().mean() <= SAME_POINT * z.square().mean():
        return "complete collapse: all embeddings are the same point"
    rank, most = float(effective_rank(z)), min(z.shape)
    if rank < 1 + FEW_DIMENSIONS * (most - 1):
        return f"dimensional collapse: effective rank {rank:.1f} of {most}"
    return None
