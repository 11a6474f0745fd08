"""Shared by the regression methods: numeric targets, and the number of views."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64, Int, Real, Shaped
from torch import Tensor, nn

from counterpoise.data.targets import Targets
from counterpoise.errors import InputError
from counterpoise.learners.method import Index, Method
from counterpoise.ops.checks import check_finite, check_number

Inputs = list[Shaped[Tensor, "batch *shape"]]
Numbers = Float[Tensor, " batch"]


class Regressor(Method):
    """Trains an encoder with numeric targets, on two views of images or one of rows.

    Args:
        encoder: maps images or rows to features; a run keeps it.
        **recipe: arguments of `Method`.
    """

    views: int

    def __init__(self, encoder: nn.Module, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.views = 2 if hasattr(encoder, "channels") else 1

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            images: `self.views` random views of the same images, or the rows.
            labels: target of each.
            index: index of each among the training images.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, labels, index)")

    def check_data(self, images: Targets, batch_size: int, shares: int = 1) -> None:
        """Refuse training targets that are all equal.

        Raises:
            InputError: with that number.
        """
        numbers = check_targets(images.targets, rows=len(images))
        if (numbers == numbers[0]).all():
            raise InputError(f"targets: expected different numbers, got {float(numbers[0]):g} {len(numbers)} times")

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, " n"] | None:
        """The method's own predictions from features; `None` if it only learns features."""
        return None


def check_targets(targets: Real[Tensor, " rows"], rows: int, name: str = "targets") -> Float64[Tensor, " rows"]:
    """Refuse targets that are not one finite number for each row.

    Args:
        targets: integers or floating-point numbers.
        rows: the number expected.
        name: name of the argument, for the error.

    Returns:
        The targets in float64.

    Raises:
        InputError: for a wrong shape, NaN or infinity, or a dtype that is not numeric.

    Examples:
        >>> check_targets(torch.tensor([1, 2]), rows=2)
        tensor([1., 2.], dtype=torch.float64)
    """
    check_number("rows", rows, at_least=0, whole=True)
    if targets.shape != (rows,):
        raise InputError(f"{name}: expected one for each of {rows} rows, got {list(targets.shape)}")
    if targets.dtype == torch.bool or targets.is_complex():
        raise InputError(f"{name}: expected numbers, got {targets.dtype}")
    check_finite(name, targets.double())
    return targets.double()


def binned(targets: Numbers, width: float) -> Numbers:
    """The lower edge of each target's bin; with a width of 0, the targets unchanged.

    Args:
        targets: the numbers.
        width: width of a bin, at least 0.

    Raises:
        InputError: for a width out of range, or NaN.

    Examples:
        >>> binned(torch.tensor([0.5, 3.0, -1.0]), width=2.0)
        tensor([ 0.,  2., -2.])
    """
    check_targets(targets, rows=targets.numel())
    check_number("width", width, at_least=0)
    return (targets / width).floor() * width if width else targets


def ranks_of(targets: Numbers) -> Int[Tensor, " batch"]:
    """The rank of each target from 0, the same for equal ones: a class label for each number.

    Raises:
        InputError: for NaN, which equals nothing.

    Examples:
        >>> ranks_of(torch.tensor([2.5, -1.0, 2.5]))
        tensor([1, 0, 1])
    """
    check_targets(targets, rows=targets.numel())
    return targets.unique(return_inverse=True)[1]
