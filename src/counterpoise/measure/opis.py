r"""OPIS: does one distance threshold work equally well for all classes?

Zhang, Xu, Tang, Fang, Wu, Tighe, Xing, "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning",
ICLR 2024, arXiv 2307.04047: the Operating-Point-Inconsistency Score; `metric.tcm` is the loss that lowers it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_finite, check_matrix, check_number, check_numbers
from counterpoise.ops.similarity import normalize_rows

# Distances that `utility_curves` computes at a time: 16 MB.
TILE = 1 << 21
# Bins for the ends of the calibration range, each 2e-6 wide; equal distances share a bin.
STEPS = 1 << 20
FAR = (0.01, 0.1)  # false-accept rates at the ends of the calibration range
THRESHOLDS = 101


class Curves(NamedTuple):
    """The utility of each class at each threshold.

    Attributes:
        thresholds: distances, in ascending order.
        utility: utility of each class at each threshold, from 0 to 1: the harmonic mean of the last two.
        classes: the label of each class.
        alone: number of classes with a single row, which are left out.
        sensitivity: share of each class's pairs within each threshold.
        specificity: share of the pairs with one row in the class that are farther apart than each threshold.
    """

    thresholds: Float64[Tensor, " thresholds"]
    utility: Float64[Tensor, "classes thresholds"]
    classes: Integer[Tensor, " classes"]
    alone: int
    sensitivity: Float64[Tensor, "classes thresholds"]
    specificity: Float64[Tensor, "classes thresholds"]


def harmonic_mean(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """2ab / (a + b), which is the utility for sensitivity a and specificity b; 0 where both are 0.

    Args:
        a: numbers from 0 to 1.
        b: numbers from 0 to 1, of the same shape.

    Raises:
        InputError: for numbers out of range, NaN, or different shapes.

    Examples:
        >>> round(harmonic_mean(torch.tensor(0.5), torch.tensor(1.0)).item(), 6)
        0.666667
    """
    for name, x in (("a", a), ("b", b)):
        check_finite(name, x)
        if x.numel() and (x.min() < 0 or x.max() > 1):
            raise InputError(f"{name}: expected numbers from 0 to 1, got {float(x.min()):g} to {float(x.max()):g}")
    if a.shape != b.shape:
        raise InputError(f"a and b: expected the same shape, got {list(a.shape)} and {list(b.shape)}")
    return _harmonic_mean(a, b)


def _harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    total = a + b
    return 2 * a * b / total.where(total > 0, 1)


def check_distances(distances: Sequence[float]) -> Float64[Tensor, " thresholds"]:
    """The thresholds for `utility_curves`; refuse numbers that are none.

    Args:
        distances: from 0 to 2, the distances of normalised rows, in ascending order.

    Raises:
        InputError: for no number, NaN, or numbers out of range or order.

    Examples:
        >>> check_distances((0.5, 1))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    listed = check_numbers("distances", distances, at_least=0, at_most=2)
    if any(b <= a for a, b in pairwise(listed)):
        raise InputError(f"distances: expected ascending numbers, got {listed}")
    return torch.tensor(listed, dtype=torch.float64)


def utility_curves(
    embeddings: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    far: tuple[float, float] = FAR,
    thresholds: int = THRESHOLDS,
    distances: Sequence[float] | None = None,
) -> Curves:
    """The utility of each class over the calibration range, if pairs within a threshold count as one class.

    Distances are Euclidean between normalised rows: d² = 2 - 2 cos. The range goes from the smallest distance within
    which a share `far[0]` of all pairs of different classes lies to that for `far[1]`, both to within 2e-6; or the
    thresholds are the `distances` given, the same for any embeddings. At a threshold, a class's sensitivity is the
    share of its pairs within it, its specificity is the share of pairs with one row in the class that are farther
    apart, and its utility is their harmonic mean.

    All pairs are visited twice (once for given distances), in parts; none is sampled or stored. The cost is 2·n²·dim
    multiplications in float64 and n² look-ups among the thresholds: 5 seconds on one core for 10,000 rows of 64
    numbers, and 9 minutes for 100,000. Memory beside the rows is 250 MB plus a few times classes × thresholds numbers.

    Args:
        embeddings: one row per image; normalised here.
        labels: class of each row; rows with -1 are left out.
        far: false-accept rates at both ends of the range, above 0, the smaller one first.
        thresholds: number of thresholds, equally spaced, both ends included.
        distances: the thresholds themselves, from 0 to 2 in ascending order, in place of `far` and `thresholds`.

    Raises:
        InputError: for wrong shapes, NaN, arguments out of range, `distances` beside a range of its own, or fewer than
            2 classes with 2 rows.

    Examples:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> curves = utility_curves(rows, torch.tensor([0, 0, 1, 1, 2]), far=(0.5, 1.0), thresholds=2)
        >>> curves.thresholds, curves.utility, curves.alone
        (tensor([0.8944, 1.4142], dtype=torch.float64), tensor([[0.6667, 0.0000],
                [0.6667, 0.0000]], dtype=torch.float64), 1)
        >>> curves = utility_curves(rows, torch.tensor([0, 0, 1, 1, 2]), distances=(0.5, 1.0))
        >>> curves.sensitivity, curves.specificity
        (tensor([[0., 1.],
                [1., 1.]], dtype=torch.float64), tensor([[1.0000, 0.5000],
                [1.0000, 0.5000]], dtype=torch.float64))
    """
    check_matrix("embeddings", embeddings)
    labels = known_classes("labels", labels, len(embeddings))
    if len(check_numbers("far", far)) != 2:
        raise InputError(f"far: expected the rates at both ends of the range, got {far!r}")
    check_number("far[0]", far[0], above=0, at_most=1)
    check_number("far[1]", far[1], at_least=far[0], at_most=1)
    check_number("thresholds", thresholds, at_least=1, whole=True)
    if distances is not None and (tuple(far), thresholds) != (FAR, THRESHOLDS):
        raise InputError("distances: expected none beside far or thresholds, which they replace")
    given = None if distances is None else check_distances(distances)
    labels = labels.to(embeddings.device)
    found, sizes = labels[labels >= 0].unique(return_counts=True)
    classes = found[sizes > 1]
    if len(classes) < 2:
        raise InputError(
            f"labels: expected at least 2 classes with 2 rows or more, got {len(classes)} of {len(found)} classes"
        )
    kept = torch.isin(labels, classes)
    own = torch.searchsorted(classes, labels[kept])
    order = own.argsort()
    z, own = normalize_rows(embeddings.detach()[kept].double())[order], own[order]
    if given is None:
        low, high = _range(z, own, far)
        grid = torch.linspace(low, high, thresholds, dtype=torch.float64, device=z.device)
    else:
        grid = given.to(z.device)
    sensitivity, specificity = _shares(z, own, grid)
    utility = _harmonic_mean(sensitivity, specificity)
    return Curves(grid, utility, classes, len(found) - len(classes), sensitivity, specificity)


def _range(z: Tensor, own: Tensor, far: tuple[float, float]) -> list[float]:
    """The distances within which the shares `far` of the pairs of different classes lie."""
    counts = torch.zeros(STEPS + 1, dtype=torch.int64, device=z.device)
    for rows, distances in _distances(z):
        others = distances[own[rows, None] != own]
        counts += (others * (STEPS / 2)).round().long().bincount(minlength=STEPS + 1)
    total = counts.cumsum(0)
    ranks = torch.tensor([max(1, _ceil(share * int(total[-1]))) for share in far], device=z.device)
    return ((torch.searchsorted(total, ranks) + 0.5) * (2 / STEPS)).tolist()


def _shares(
    z: Tensor, own: Tensor, thresholds: Tensor
) -> tuple[Float64[Tensor, "classes thresholds"], Float64[Tensor, "classes thresholds"]]:
    """The sensitivity and the specificity of each class at each threshold."""
    bins = len(thresholds) + 1
    sizes = own.bincount()
    # Counts of pairs with other classes, and of pairs within the class, which are counted from both ends.
    counts = torch.zeros(len(sizes), 2, bins, dtype=torch.int64, device=z.device)
    for rows, distances in _distances(z):
        distances[torch.arange(len(rows)), rows] = torch.inf
        first, last = int(own[rows[0]]), int(own[rows[-1]])
        key = (own[rows, None] - first) * 2 + (own[rows, None] == own)
        key = key * bins + torch.bucketize(distances, thresholds)  # the first threshold that is not below
        part = counts[first : last + 1]
        part += key.flatten().bincount(minlength=part.numel()).view(part.shape)
    within = counts.cumsum(2)[:, :, :-1].double()
    positives, negatives = sizes * (sizes - 1), sizes * (len(own) - sizes)
    return within[:, 1] / positives[:, None], 1 - within[:, 0] / negatives[:, None]


def _distances(z: Float64[Tensor, "n dim"]) -> Iterator[tuple[Integer[Tensor, " part"], Float64[Tensor, "part n"]]]:
    """Yield indices of some rows, and their distances to all rows."""
    for rows in torch.arange(len(z), device=z.device).split(max(1, TILE // len(z))):
        yield rows, (2 - 2 * z[rows] @ z.T).clamp(min=0).sqrt()


def _ceil(x: float) -> int:
    """Round up, but treat 7.000000000000001 as 7."""
    return math.ceil(round(x, 6))


def opis(utility: Float[Tensor, "classes thresholds"], thresholds: Float[Tensor, " thresholds"] | None = None) -> float:
    r"""The Operating-Point-Inconsistency Score: the variance of utility over classes, averaged over thresholds.

    $\frac{1}{T (d_{max} - d_{min})} \sum_{i=1}^T \int_{d_{min}}^{d_{max}} (U_i(d) - \bar U(d))^2 \, dd$. All
    classes have the same weight; the integral is the mean over equally spaced thresholds, or by trapezoids over those
    that are given.

    Args:
        utility: from `utility_curves`.
        thresholds: from `utility_curves`, ascending, where they are not equally spaced.

    Returns:
        From 0, if one threshold works equally well for all classes, to 0.25.

    Raises:
        InputError: for a wrong shape, NaN, no thresholds, or thresholds that do not ascend.

    Examples:
        >>> utility = torch.tensor([[0.5, 1.0, 1.0], [0.5, 0.5, 0.5]])  # variances 0, 1/16, 1/16
        >>> opis(utility, torch.tensor([0.5, 0.75, 1.5]))  # half of a quarter of the range, and all of the rest
        0.0546875
        >>> opis(utility[:, :2])
        0.03125
    """
    _check_utility(utility)
    return float(_mean_over(utility.var(0, unbiased=False), _checked_thresholds(utility, thresholds)))


def epsilon_opis(
    utility: Float[Tensor, "classes thresholds"],
    epsilon: float = 0.1,
    thresholds: Float[Tensor, " thresholds"] | None = None,
) -> float:
    r"""The squared difference between the utility of the best and the worst classes, averaged over thresholds.

    Classes are ranked by their mean utility; the best and the worst $\lceil \epsilon T \rceil$ of T are compared.

    Args:
        utility: from `utility_curves`.
        epsilon: share of the classes, above 0 and at most 0.5.
        thresholds: as in `opis`; means are then by trapezoids.

    Returns:
        From 0 to 1.

    Raises:
        InputError: for `epsilon` out of range, and as in `opis`.

    Examples:
        >>> utility = torch.tensor([[0.5, 1.0, 1.0], [0.5, 0.5, 0.5], [0.5, 0.7, 0.7]])
        >>> epsilon_opis(utility, 0.1, torch.tensor([0.5, 0.75, 1.5]))
        0.21875
        >>> epsilon_opis(utility[:, :2])
        0.125
    """
    check_number("epsilon", epsilon, above=0, at_most=0.5)
    _check_utility(utility)
    grid = _checked_thresholds(utility, thresholds)
    ranked = utility[_mean_over(utility, grid).argsort(stable=True)]
    some = _ceil(epsilon * len(ranked))
    return float(_mean_over((ranked[-some:].mean(0) - ranked[:some].mean(0)).square(), grid))


def _mean_over(curves: Tensor, thresholds: Tensor | None) -> Tensor:
    """The mean of each curve over its thresholds, which are equally spaced unless they are given."""
    if thresholds is None:
        return curves.mean(-1)
    if len(thresholds) == 1:
        return curves[..., 0]
    return torch.trapezoid(curves.double(), thresholds, dim=-1) / (thresholds[-1] - thresholds[0])


def _checked_thresholds(utility: Tensor, thresholds: Tensor | None) -> Float64[Tensor, " thresholds"] | None:
    if thresholds is None:
        return None
    if thresholds.shape != utility.shape[1:]:
        expected, got = utility.shape[1], list(thresholds.shape)
        raise InputError(f"thresholds: expected one for each of the {expected} columns of utility, got shape {got}")
    check_finite("thresholds", thresholds)
    grid = thresholds.to(utility.device, torch.float64)
    if (grid[1:] <= grid[:-1]).any():
        raise InputError("thresholds: expected ascending numbers, got one that is not above the one before it")
    return grid


def _check_utility(utility: Tensor) -> None:
    check_matrix("utility", utility)
    if not utility.shape[1]:
        raise InputError("utility: expected at least one threshold, got none")
