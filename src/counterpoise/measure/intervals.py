"""How sure is a mean over seeds, and does a difference confirm what was claimed?

The intervals are Student's: exact where the values, or the paired differences, are normally distributed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number, check_numbers

Verdict = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Interval:
    """A mean, the two ends of its confidence interval (`None` for a single value), and the number of values."""

    mean: float
    low: float | None
    high: float | None
    n: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""The mean and its interval $\bar x \pm t_{n-1} \, s / \sqrt n$.

    Args:
        values: one per seed, at least one.
        confidence: share of such intervals that hold the true mean, between 0 and 1.

    Returns:
        The interval; a single value has none, and equal values have one of width 0.

    Raises:
        InputError: if there is no value, one is NaN or infinite, or `confidence` is out of range.

    Examples:
        >>> found = interval([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 4), round(found.high, 4), found.n
        (2.0, -0.4841, 4.4841, 3)
        >>> interval([0.5])
        Interval(mean=0.5, low=None, high=None, n=1)
    """
    check_number("confidence", confidence, above=0, below=1)
    values = _finite("values", values)
    n = len(values)
    # The standard library's mean and deviation are exact: equal values have deviation 0, not a rounding error.
    mean = statistics.mean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """The interval of the differences `a - b`, seed by seed.

    Pairs share their seed, so what the seed does to both of them cancels out.

    Args:
        a: one value per seed.
        b: of the same seeds in the same order.
        confidence: as in `interval`.

    Raises:
        InputError: if there are not as many of both, and as in `interval`.

    Examples:
        >>> paired([3.0, 5.0], [1.0, 3.0])
        Interval(mean=2.0, low=2.0, high=2.0, n=2)
    """
    a, b = _finite("a", a), _finite("b", b)
    if len(a) != len(b):
        raise InputError(f"a and b: expected as many values, got {len(a)} and {len(b)}")
    return interval([x - y for x, y in zip(a, b, strict=True)], confidence)


def verdict(difference: Interval, expected: str) -> Verdict:
    """What an interval says about the claim that the difference is above, or below, zero.

    Args:
        difference: from `paired`.
        expected: "above" or "below".

    Returns:
        "confirmed" if the whole interval lies on the claimed side of zero, "refuted" if it wholly lies on the other
        side, "inconclusive" if it touches zero or there is no interval.

    Raises:
        InputError: if `expected` is another word, or an end of the interval is NaN or infinite.

    Examples:
        >>> verdict(Interval(2.0, 0.5, 3.5, 5), "above"), verdict(Interval(2.0, 0.5, 3.5, 5), "below")
        ('confirmed', 'refuted')
        >>> verdict(Interval(2.0, 0.0, 4.0, 5), "above")
        'inconclusive'
    """
    _check_side(expected)
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "inconclusive"
    check_numbers("difference", (low, high))
    if low <= 0 <= high:
        return "inconclusive"
    return "confirmed" if (low > 0) == (expected == "above") else "refuted"


def holds(difference: Interval, expected: str) -> bool:
    """Whether a mean lies on the expected side of zero, however wide its interval is.

    A requirement of a claim is judged so: it says where an experiment is worth judging, and is no finding of its own.

    Args:
        difference: from `paired` or `interval`.
        expected: "above" or "below".

    Raises:
        InputError: if `expected` is another word, or the mean is NaN or infinite.

    Examples:
        >>> holds(Interval(0.5, -1.0, 2.0, 5), "above"), holds(Interval(0.0, -1.0, 1.0, 5), "above")
        (True, False)
    """
    _check_side(expected)
    (mean,) = check_numbers("difference", (difference.mean,))
    return mean > 0 if expected == "above" else mean < 0


def _check_side(expected: str) -> None:
    if expected not in ("above", "below"):
        raise unknown("expected side", expected, ("above", "below"))


def _finite(name: str, values: Sequence[float]) -> list[float]:
    return [float(value) for value in check_numbers(name, values)]
