"""Argument checks for all modules; an error names the argument, what came and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from counterpoise.errors import InputError, NonFinite

LONGEST = 1e8


def check_matrix(name: str, x: Tensor, at_least: int = 1, columns: int = 1) -> None:
    """Refuse `x` unless it is a finite floating-point matrix with `at_least` rows and `columns` columns or more.

    Raises:
        InputError: naming the argument, for another number of dimensions or dtype, too few rows or columns, or NaN
            and infinity.

    Examples:
        >>> check_matrix("z1", torch.zeros(1, 3), at_least=2)
        Traceback (most recent call last):
        counterpoise.errors.InputError: z1: expected at least 2 rows, got 1
    """
    if x.ndim != 2:
        raise InputError(f"{name}: expected a matrix [rows, dim], got shape {list(x.shape)}")
    if x.shape[0] < at_least:
        raise InputError(f"{name}: expected at least {at_least} rows, got {x.shape[0]}")
    if x.shape[1] < columns:
        raise InputError(f"{name}: expected at least {columns} columns, got {x.shape[1]}")
    check_finite(name, x)


def check_logits(name: str, x: Tensor) -> None:
    """Refuse `x` unless it is a finite floating-point matrix of scores of at least 2 classes.

    Raises:
        InputError: naming the argument, as `check_matrix`, or for fewer columns.

    Examples:
        >>> check_logits("logits", torch.zeros(3, 1))
        Traceback (most recent call last):
        counterpoise.errors.InputError: logits: expected at least 2 columns, one for each class, got 1
    """
    check_matrix(name, x)
    if x.shape[1] < 2:
        raise InputError(f"{name}: expected at least 2 columns, one for each class, got {x.shape[1]}")


def all_finite(x: Tensor) -> bool:
    """Whether all numbers are finite; checks only the minimum and maximum, which takes a tenth of the time.

    Examples:
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
        raise NonFinite(f"{name}: {bad} of {x.numel()} numbers are NaN or infinite")


def check_lengths(name: str, x: Tensor) -> None:
    """Refuse rows with a norm above 1e8, whose scaled inner products could overflow float32.

    Examples:
        >>> check_lengths("z1", torch.full((2, 3), 1e30))
        Traceback (most recent call last):
        counterpoise.errors.NonFinite: z1: expected rows of a length of at most 1e+08, got 1.7e+30; normalize
    """
    if x.numel() and (longest := torch.linalg.vector_norm(x.detach().double(), dim=-1).amax()) > LONGEST:
        raise NonFinite(
            f"{name}: expected rows of a length of at most {LONGEST:.0e}, got {longest:.2g}; normalize them"
        )


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of different shapes, by their argument names.

    Examples:
        >>> check_same_shape(z1=torch.zeros(2, 3), z2=torch.zeros(2, 4))
        Traceback (most recent call last):
        counterpoise.errors.InputError: z1 and z2: expected the same shape, got [2, 3] and [2, 4]
    """
    shapes = [list(x.shape) for x in tensors.values()]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError(f"{' and '.join(tensors)}: expected the same shape, got {' and '.join(map(str, shapes))}")


def check_same_columns(**tensors: Tensor) -> None:
    """Refuse matrices of different numbers of columns, by their argument names.

    Examples:
        >>> check_same_columns(queries=torch.zeros(2, 3), keys=torch.zeros(5, 4))
        Traceback (most recent call last):
        counterpoise.errors.InputError: queries and keys: expected as many columns, got 3 and 4
    """
    columns = [x.shape[1] for x in tensors.values()]
    if any(count != columns[0] for count in columns):
        raise InputError(f"{' and '.join(tensors)}: expected as many columns, got {' and '.join(map(str, columns))}")


def check_integers(
    name: str, x: Tensor, rows: int, low: int | None = None, high: int | None = None
) -> Int64[Tensor, " rows"]:
    """Refuse `x` unless it is an integer vector with one entry per row, each in [low, high).

    Args:
        name: name of the argument.
        x: integers of any type.
        rows: number of integers expected.
        low: the smallest integer allowed.
        high: the smallest integer above the allowed range.

    Returns:
        `x` as int64, since unsigned dtypes lack -1 and most torch functions.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_integers("labels", torch.tensor([0, 2], dtype=torch.uint16), rows=2)
        tensor([0, 2])
        >>> check_integers("labels", torch.tensor([0, 7]), rows=2, low=0, high=3)
        Traceback (most recent call last):
        counterpoise.errors.InputError: labels: expected integers from 0 to 2, got 7
    """
    if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        raise InputError(f"{name}: expected integers, got {x.dtype}")
    if list(x.shape) != [rows]:
        raise InputError(f"{name}: expected one integer for each of the {rows} rows, got shape {list(x.shape)}")
    whole = x.long()
    if x.dtype == torch.uint64 and rows and int(whole.min()) < 0:
        raise InputError(f"{name}: expected integers up to {2**63 - 1}, got a larger one")
    if not rows or (low is None and high is None):
        return whole
    least, most = int(whole.min()), int(whole.max())
    if (low is not None and least < low) or (high is not None and most >= high):
        wrong = least if low is not None and least < low else most
        span = f"from {low} to {high - 1}" if low is not None and high is not None else ""
        span = span or (f"of at least {low}" if low is not None else f"below {high}")
        raise InputError(f"{name}: expected integers {span}, got {wrong}")
    return whole


def check_number(
    name: str,
    value: Any,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Refuse anything but a number within its range.

    Args:
        name: name of the argument.
        value: an int or a float, of Python or NumPy.
        above: exclusive lower bound.
        at_least: inclusive lower bound.
        at_most: inclusive upper bound.
        below: exclusive upper bound.
        whole: require an integer type: 2.0 is refused like 2.5, since it fails later where a count is needed.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_number("temperature", -1, above=0)
        Traceback (most recent call last):
        counterpoise.errors.InputError: temperature: expected a number above 0, got -1
        >>> check_number("k", 2.5, at_least=1, whole=True)
        Traceback (most recent call last):
        counterpoise.errors.InputError: k: expected a whole number of at least 1, got 2.5
    """
    kind = numbers.Integral if whole else numbers.Real
    right = isinstance(value, kind) and not isinstance(value, bool)
    if right and isinstance(value, int) and abs(value).bit_length() > 1023:
        raise InputError(f"{name}: expected a number that float64 holds, got an integer of {value.bit_length()} bits")
    if right and above < value < below and at_least <= value <= at_most and math.isfinite(value):
        return
    bounds = [
        f"above {above:g}" if above > -math.inf else "",
        f"of at least {at_least:g}" if at_least > -math.inf else "",
        f"of at most {at_most:g}" if at_most < math.inf else "",
        f"below {below:g}" if below < math.inf else "",
    ]
    expected = "a whole number" if whole else "a number"
    got = f"{value:g}" if isinstance(value, numbers.Real) and not isinstance(value, bool) else repr(value)
    limits = " and ".join(filter(None, bounds)) or ("" if whole else "that is finite")
    raise InputError(f"{name}: expected {expected} {limits}".rstrip() + f", got {got}")


def check_counts(**counts: Any) -> None:
    """Refuse anything but whole numbers of at least 1, by argument name: widths, numbers of heads, of steps.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_counts(hidden=256, dim=0)
        Traceback (most recent call last):
        counterpoise.errors.InputError: dim: expected a whole number of at least 1, got 0
    """
    for name, value in counts.items():
        check_number(name, value, at_least=1, whole=True)


def check_values(
    name: str, x: Tensor, above: float = -math.inf, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    """`check_number` for tensors: refuse numbers that are not floating-point, not finite, or out of range.

    Args:
        name: name of the argument.
        x: of any shape.
        above: exclusive lower bound.
        at_least: inclusive lower bound.
        at_most: inclusive upper bound.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_values("tau", torch.tensor([0.5, 0.0]), above=0)
        Traceback (most recent call last):
        counterpoise.errors.InputError: tau: expected a number above 0, got 0
    """
    check_finite(name, x)
    if x.numel():
        for extreme in x.detach().aminmax():
            check_number(name, extreme.item(), above, at_least, at_most)


def check_numbers(name: str, values: Any, least: int = 1, **limits: Any) -> list[Any]:
    """Refuse anything but a sequence of enough numbers within their range.

    Args:
        name: name of the argument.
        values: ints or floats.
        least: smallest length allowed, 0 or 1.
        **limits: bounds of each number, as in `check_number`.

    Returns:
        The values.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_numbers("ks", (1, 5), at_least=1, whole=True)
        [1, 5]
        >>> check_numbers("ks", 5, at_least=1, whole=True)
        Traceback (most recent call last):
        counterpoise.errors.InputError: ks: expected a sequence of numbers, such as (5,), got 5
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        example = "(1,)" if isinstance(values, str | bytes) else f"({values!r},)"
        raise InputError(f"{name}: expected a sequence of numbers, such as {example}, got {values!r}")
    listed = list(values)
    if len(listed) < least:
        raise InputError(f"{name}: expected at least one number, got none")
    for value in listed:
        check_number(name, value, **limits)
    return listed


def check_seed(seed: Any, most: int = 2**63 - 1) -> None:
    """Refuse anything that cannot seed a generator.

    Args:
        seed: a whole number of at least 0.
        most: the largest seed that the generator takes.

    Raises:
        InputError: for anything else.

    Examples:
        >>> check_seed(1.5)
        Traceback (most recent call last):
        counterpoise.errors.InputError: seed: expected a whole number of at least 0 and of at most 9.22337e+18, got 1.5
    """
    check_number("seed", seed, at_least=0, at_most=most, whole=True)


def check_torch_device(name: str, device: Any) -> torch.device:
    """Refuse a device on which torch cannot compute here.

    Args:
        name: name of the argument.
        device: a `torch.device`, or its name, such as "cuda:0".

    Returns:
        The device.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_torch_device("device", "cpu")
        device(type='cpu')
        >>> check_torch_device("device", "gpu")
        Traceback (most recent call last):
        counterpoise.errors.InputError: device: expected a device of torch that this machine has, got 'gpu'
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # a device of a known kind may be absent, or hold no numbers ("meta")
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        got = f"'{device}'" if isinstance(device, str | torch.device) else repr(device)
        raise InputError(f"{name}: expected a device of torch that this machine has, got {got}") from error
    return found
