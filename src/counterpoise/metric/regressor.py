"""What the methods of regression share: targets that are numbers, and views that keep what they are numbers of."""

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
    """Training of an encoder by numbers; of images by two views, of rows by one.

    Args:
        encoder: images, or rows, to features; what a run keeps.
        **recipe: arguments of `Method`.
    """

    def __init__(self, encoder: nn.Module, **recipe: Any):
        super().__init__(encoder, **recipe)
        self.views = 2 if hasattr(encoder, "channels") else 1

    def loss(self, images: Inputs, labels: Numbers, index: Index) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            images: `self.views` random views of the same images, or the rows.
            labels: the number that each is to be told.
            index: which training image each is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, labels, index)")

    def check_images(self, images: Targets, batch_size: int, shares: int = 1) -> None:
        """Refuse training targets that are all one number.

        Raises:
            InputError: naming it.
        """
        numbers = check_targets(images.targets, rows=len(images))
        if (numbers == numbers[0]).all():
            raise InputError(f"targets: expected different numbers, got {float(numbers[0]):g} {len(numbers)} times")

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, " n"] | None:
        """The numbers that the method itself tells from features; `None` if it only makes features."""
        return None


def check_targets(targets: Real[Tensor, " rows"], rows: int, name: str = "targets") -> Float64[Tensor, " rows"]:
    """Refuse targets that are no finite numbers, one for each row.

    Args:
        targets: integers or floating-point numbers.
        rows: how many there must be.
        name: of the argument.

    Returns:
        The targets in float64.

    Raises:
        InputError: for another shape, NaN or infinity, or what is no number.

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
    """The lower end of each number's bin; with a width of 0, the numbers as they are.

    Args:
        targets: the numbers.
        width: of a bin, at least 0.

    Raises:
        InputError: for a width out of range, or NaN.

    >>> binned(torch.tensor([0.5, 3.0, -1.0]), width=2.0)
    tensor([ 0.,  2., -2.])
    """
    check_targets(targets, rows=targets.numel())
    check_number("width", width, at_least=0)
    return (targets / width).floor() * width if width else targets


def ranks_of(targets: Numbers) -> Int[Tensor, " batch"]:
    """Equal numbers as one class, from the least.

    Raises:
        InputError: for NaN, which is equal to nothing.

    >>> ranks_of(torch.tensor([2.5, -1.0, 2.5]))
    tensor([1, 0, 1])
    """
    check_targets(targets, rows=targets.numel())
    return targets.unique(return_inverse=True)[1]
