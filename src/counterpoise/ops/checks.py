"""Checks of arguments that every part shares: each names the argument, what came and what was expected."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoise.errors import InputError

LONGEST = 1e8


def check_matrix(name: str, x: Tensor, at_least: int = 1) -> None:
    """Refuse `x` unless it is a finite floating-point matrix with `at_least` rows.

    Raises:
        InputError: naming the argument, for a wrong number of dimensions, dtype, too few rows, or NaN and infinity.

    >>> check_matrix("z1", torch.zeros(1, 3), at_least=2)
    Traceback (most recent call last):
    counterpoise.errors.InputError: z1: expected at least 2 rows, got 1
    """
    if x.ndim != 2:
        raise InputError(f"{name}: expected a matrix [rows, dim], got shape {list(x.shape)}")
    if x.shape[0] < at_least:
        raise InputError(f"{name}: expected at least {at_least} rows, got {x.shape[0]}")
    check_finite(name, x)


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite: the extremes tell, in a tenth of the time that all numbers take.

    >>> all_finite(torch.tensor([1.0, torch.nan, 2.0]))
    False
    """
    return x.numel() == 0 or bool(torch.isfinite(torch.stack(x.detach().aminmax())).all())


def check_finite(name: str, x: Tensor) -> None:
    """Refuse `x` unless it is floating-point and without NaN and infinity."""
    if not x.is_floating_point():
        raise InputError(f"{name}: expected floating-point numbers, got {x.dtype}")
    if not all_finite(x):
        bad = int((~torch.isfinite(x)).sum())
        raise InputError(f"{name}: {bad} of {x.numel()} numbers are NaN or infinite")


def check_lengths(name: str, x: Tensor) -> None:
    """Refuse rows longer than 1e8, whose scaled inner products would leave no room in float32.

    >>> check_lengths("z1", torch.full((2, 3), 1e30))
    Traceback (most recent call last):
    counterpoise.errors.InputError: z1: expected rows of a length of at most 1e+08, got 1.7e+30; normalize
    """
    longest = torch.linalg.vector_norm(x.detach().double(), dim=-1).amax()
    if longest > LONGEST:
        raise InputError(
            f"{name}: expected rows of a length of at most {LONGEST:.0e}, got {longest:.2g}; normalize them"
        )


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes, by their argument names.

    >>> check_same_shape(z1=torch.zeros(2, 3), z2=torch.zeros(2, 4))
    Traceback (most recent call last):
    counterpoise.errors.InputError: z1 and z2: expected the same shape, got [2, 3] and [2, 4]
    """
    shapes = [list(x.shape) for x in tensors.values()]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"{' and '.join(tensors)}: expected the same shape, got {' and '.join(map(str, shapes))}")


def check_integers(name: str, x: Tensor, rows: int, low: int | None = None, high: int | None = None) -> None:
    """Refuse `x` unless it is an integer vector with one entry per row, each in [low, high).

    >>> check_integers("labels", torch.tensor([0, 7]), rows=2, low=0, high=3)
    Traceback (most recent call last):
    counterpoise.errors.InputError: labels: expected integers from 0 to 2, got 7
    """
    if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        raise InputError(f"{name}: expected integers, got {x.dtype}")
    if list(x.shape) != [rows]:
        raise InputError(f"{name}: expected one integer for each of the {rows} rows, got shape {list(x.shape)}")
    if low is not None and high is not None and rows and (int(x.min()) < low or int(x.max()) >= high):
        wrong = int(x.min()) if int(x.min()) < low else int(x.max())
        raise InputError(f"{name}: expected integers from {low} to {high - 1}, got {wrong}")


def check_number(
    name: str, value: float, above: float = -math.inf, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    """Refuse a number outside its range.

    >>> check_number("temperature", -1, above=0)
    Traceback (most recent call last):
    counterpoise.errors.InputError: temperature: expected a number above 0, got -1
    """
    if value > above and at_least <= value <= at_most and math.isfinite(value):
        return
    bounds = [
        f"above {above:g}" if above > -math.inf else "",
        f"of at least {at_least:g}" if at_least > -math.inf else "",
        f"of at most {at_most:g}" if at_most < math.inf else "",
    ]
    raise InputError(
        f"{name}: expected a number {' and '.join(filter(None, bounds)) or 'that is finite'}, got {value:g}"
    )
