"""Checked conversion of user input to NumPy arrays; an error names the argument, what came and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from counterpoise.errors import InputError


def as_array(name: str, x: Any) -> np.ndarray:
    """Convert lists and tensors to an array of their own dtype; float tensors to float64.

    Args:
        name: name of the argument.
        x: an array, a tensor on any device, or nested lists.

    Raises:
        InputError: for rows of different lengths.

    Examples:
        >>> as_array("boxes", [[1, 2], [3]])
        Traceback (most recent call last):
        counterpoise.errors.InputError: boxes: expected numbers in rows of one length, got [[1, 2], [3]]
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.double() if x.is_floating_point() else x).numpy()
    try:
        return np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name}: expected numbers in rows of one length, got {reprlib.repr(x)}") from error


def as_integers(name: str, x: Any, shape: tuple[int, ...] | None = None) -> Int64[np.ndarray, "..."]:
    """Convert integers of any type to int64.

    Args:
        name: name of the argument.
        x: integers; anything empty stands for no integers.
        shape: the shape expected; `None` takes a vector of any length.

    Raises:
        InputError: for floats, booleans and text, integers beyond 64 bits, or a wrong shape.

    Examples:
        >>> as_integers("labels", [3, 1])
        array([3, 1])
        >>> as_integers("labels", [0.5])
        Traceback (most recent call last):
        counterpoise.errors.InputError: labels: expected integers of at most 64 bits, got float64
    """
    found = as_array(name, x)
    shape = shape or found.shape[:1] or (1,)
    found = found if found.size else np.zeros(shape if 0 in shape else 0, np.int64)
    if found.dtype.kind not in "iu" or (found.dtype == np.uint64 and found.max(initial=0) >= 1 << 63):
        raise InputError(f"{name}: expected integers of at most 64 bits, got {_got(found)}")
    if found.shape != shape:
        raise InputError(f"{name}: expected integers of shape {list(shape)}, got {list(found.shape)}")
    return found.astype(np.int64, copy=False)


def as_integer_lists(name: str, lists: Mapping[str, Any]) -> dict[str, list[int]]:
    """Convert each of several named collections of integers to a list.

    Args:
        name: name of the argument.
        lists: collections of integers by name; also sets, which NumPy would turn into a single object.

    Raises:
        InputError: for no mapping; else as `as_integers`, and it names the collection after the argument.

    Examples:
        >>> as_integer_lists("groups", {"rare": {4}, "frequent": (0, 1)})
        {'rare': [4], 'frequent': [0, 1]}
    """
    if not isinstance(lists, Mapping):
        raise InputError(f"{name}: expected collections of integers by name, got {reprlib.repr(lists)}")
    several = {key: [*part] if isinstance(part, Iterable) else part for key, part in lists.items()}
    return {key: as_integers(f"{name}: {key}", part).tolist() for key, part in several.items()}


def as_numbers(name: str, x: Any, shape: tuple[int, ...] | None = None) -> Float64[np.ndarray, "..."]:
    """Convert finite numbers of any type to float64.

    Args:
        name: name of the argument.
        x: integers or floats; anything empty stands for no numbers where `shape` has a length of 0.
        shape: the shape expected; `None` takes a vector of any length.

    Raises:
        InputError: for booleans and text, NaN and infinity, or a wrong shape.

    Examples:
        >>> as_numbers("areas", [4, 0.5])
        array([4. , 0.5])
    """
    found = as_array(name, x)
    shape = shape or found.shape[:1] or (1,)
    found = found if found.size or 0 not in shape else np.zeros(shape)
    if found.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected numbers, got {_got(found)}")
    if found.shape != shape:
        raise InputError(f"{name}: expected shape {list(shape)}, got {list(found.shape)}")
    found = found.astype(float, copy=False)
    bad = int((~np.isfinite(found)).sum())
    if bad:
        raise InputError(f"{name}: {bad} of {found.size} numbers are NaN or infinite")
    return found


def as_scores(name: str, x: Any, shape: tuple[int, ...] | None = None) -> Float64[np.ndarray, "..."]:
    """Convert numbers from 0 to 1 to float64.

    Args:
        name: name of the argument.
        x: integers or floats.
        shape: the shape expected; `None` takes a vector of any length.

    Raises:
        InputError: as `as_numbers`, and for numbers below 0 or above 1.

    Examples:
        >>> as_scores("scores", [0.5, 1.2])
        Traceback (most recent call last):
        counterpoise.errors.InputError: scores: expected numbers from 0 to 1, got 1.2 in row 1
    """
    found = as_numbers(name, x, shape)
    check_each(name, found, (found >= 0) & (found <= 1), "numbers from 0 to 1")
    return found


def as_flags(name: str, x: Any, rows: int) -> Bool[np.ndarray, " rows"]:
    """Convert booleans to an array of bool.

    Args:
        name: name of the argument.
        x: booleans; anything empty stands for no booleans where `rows` is 0.
        rows: number of booleans expected.

    Raises:
        InputError: for numbers, even 0 and 1, or a wrong shape.

    Examples:
        >>> as_flags("crowd", [True, False], rows=2)
        array([ True, False])
    """
    found = as_array(name, x)
    found = found if found.size or rows else np.zeros(0, bool)
    if found.shape != (rows,) or found.dtype != bool:
        raise InputError(f"{name}: expected {rows} of true and false, got {found.dtype} of shape {list(found.shape)}")
    return found


def check_each(name: str, x: Any, right: Any, expected: str) -> None:
    """Refuse the first row that is not right.

    Args:
        name: name of the argument.
        x: an array or a tensor.
        right: whether each row is right; booleans, an array or a tensor as `x` is.
        expected: what each row should be, for the error.

    Raises:
        InputError: with the first wrong row and its index.

    Examples:
        >>> check_each("areas", np.array([1.0, -2.0]), np.array([True, False]), "numbers of at least 0")
        Traceback (most recent call last):
        counterpoise.errors.InputError: areas: expected numbers of at least 0, got -2 in row 1
    """
    if right.all():
        return
    row = int((~right).nonzero()[0].flatten()[0])
    got = x[row].tolist()
    raise InputError(f"{name}: expected {expected}, got {got if isinstance(got, list) else f'{got:g}'} in row {row}")


def _got(found: np.ndarray) -> str:
    return (
        f"{found.dtype}, as {reprlib.repr(found.flat[0])}"
        if found.dtype.kind in "OU" and found.size
        else f"{found.dtype}"
    )
