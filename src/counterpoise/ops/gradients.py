"""Gradient surgery: remove from one loss's gradient the component that conflicts with another's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_finite, check_number, check_same_shape


def project_conflict(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], strength: float = 1.0, exact: bool = True
) -> Float[Tensor, "*shape"]:
    r"""Remove from `a` its component that opposes `b`, if it has one.

    Where $\langle a, b \rangle < 0$, the exact form is $a - \lambda \frac{\langle a, b \rangle}{\|b\|^2} b$, which is
    orthogonal to b for λ = 1; the other is $a - \lambda \cos(a, b) \frac{b}{\|b\|}$, which removes a component of
    length $\lambda |\cos(a, b)|$ for any length of a. Both are equal if a has length 1.

    Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
    arXiv 2001.06782, algorithm 1, of which this is one step; b itself is unchanged. The form with the cosine is that of
    the code of "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving
    Gradient", AAAI 2025, arXiv 2405.15304.

    Args:
        a: a gradient, of any shape and dtype; all its entries are one vector.
        b: the gradient to protect, of the same shape.
        strength: λ, at least 0; 0 leaves a unchanged.
        exact: remove the projection, not the cosine.

    Returns:
        `a` itself if $\langle a, b \rangle \ge 0$, including b = 0; otherwise a new tensor of a's dtype, computed in
        float32 at least, and without squares of huge or tiny numbers.

    Raises:
        InputError: for different shapes, NaN or infinity, or a strength out of range.

    Examples:
        >>> b = torch.tensor([-1.0, 1.0])
        >>> project_conflict(torch.tensor([2.0, 0.0]), b), project_conflict(torch.tensor([2.0, 0.0]), b, exact=False)
        (tensor([1., 1.]), tensor([1.5000, 0.5000]))
        >>> project_conflict(torch.tensor([0.0, 2.0]), b)  # they agree
        tensor([0., 2.])
    """
    check_number("strength", strength, at_least=0)
    check_same_shape(a=a, b=b)
    check_finite("a", a)
    check_finite("b", b)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    size, direction = _largest(a.to(dtype)), b.to(dtype)
    direction = direction / _largest(direction)
    scaled = a.to(dtype) / size
    dot = (scaled * direction).sum()
    if strength == 0 or dot >= 0:  # below, neither is 0
        return a
    square = direction.square().sum()
    removed = size * dot / square if exact else dot / (scaled.square().sum() * square).sqrt() / square.sqrt()
    return (a.to(dtype) - strength * removed * direction).to(a.dtype)


def project_conflicts(
    a: Sequence[Tensor | None],
    b: Sequence[Tensor | None],
    strength: float = 1.0,
    exact: bool = True,
    per_tensor: bool = False,
) -> list[Tensor | None]:
    """`project_conflict` for the gradients of several parameters, as `torch.autograd.grad` returns them.

    Args:
        a: a gradient for each parameter; `None`, for a parameter that the loss does not reach (`allow_unused=True`),
            counts as zeros.
        b: the gradients to protect, likewise.
        strength: λ, at least 0.
        exact: remove the projection, not the cosine.
        per_tensor: treat each parameter's gradient as a vector of its own; otherwise all together are one vector.

    Returns:
        The adjusted `a`. `None` stays `None`, unless a conflict is removed from all gradients as one vector: it then
        becomes its part of the correction, so that the whole is orthogonal to the whole b.

    Raises:
        InputError: for sequences of different lengths, a pair of different shapes, NaN or infinity, or a strength out
            of range.

    Examples:
        >>> a, b = [torch.tensor([1.0, 0.0]), None], [torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0])]
        >>> project_conflicts(a, b)
        [tensor([0.7500, 0.2500]), tensor([0.2500, 0.2500])]
        >>> project_conflicts(a, b, per_tensor=True)
        [tensor([0.5000, 0.5000]), None]
    """
    check_number("strength", strength, at_least=0)
    if len(a) != len(b):
        raise InputError(f"a and b: expected a gradient or None for each parameter, got {len(a)} and {len(b)}")
    reached = [i for i, pair in enumerate(zip(a, b, strict=True)) if any(x is not None for x in pair)]
    adjusted: list[Tensor | None] = list(a)
    if per_tensor:
        for i, mine, other in _both(a, b):
            adjusted[i] = project_conflict(mine, other, strength, exact)
        return adjusted
    for name, x in [(name, side[i]) for i in reached for name, side in (("a", a), ("b", b))]:
        if x is not None:
            check_finite(name, x)
    pairs = [_zeros_for_none(a[i], b[i]) for i in reached]
    for mine, other in pairs:
        check_same_shape(a=mine, b=other)
    if not pairs:
        return adjusted
    ours, theirs = (torch.cat([x.flatten() for x in side]) for side in zip(*pairs, strict=True))
    whole = project_conflict(ours, theirs, strength, exact)
    if whole is ours:
        return adjusted
    parts = whole.split([mine.numel() for mine, _ in pairs])
    for i, (mine, other), part in zip(reached, pairs, parts, strict=True):
        if a[i] is not None or other.any():
            adjusted[i] = part.view_as(mine).to(mine.dtype)
    return adjusted


def _largest(x: Tensor) -> Tensor:
    """The largest absolute value, or 1 for zeros."""
    largest = x.detach().abs().amax() if x.numel() else x.new_zeros(())
    return largest.where(largest > 0, 1)


def _both(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[tuple[int, Tensor, Tensor]]:
    """Index and gradients of the parameters that both losses reach."""
    pairs = enumerate(zip(a, b, strict=True))
    return [(i, mine, other) for i, (mine, other) in pairs if mine is not None and other is not None]


def _zeros_for_none(a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor]:
    if a is not None and b is not None:
        return a, b
    given = a if a is not None else b
    assert given is not None
    zeros = torch.zeros_like(given)
    return (zeros, given) if a is None else (given, zeros)
