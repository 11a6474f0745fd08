"""A Gaussian for each class: mean and covariance of its rows, from all of them at once or from parts that are merged.

Everything is in float64, and squares are taken of distances to a mean: sums of squares would cancel where features lie
far from 0. Whole covariances of many classes are large, so they are made and merged in place, and none is copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from counterpoise.errors import InputError
from counterpoise.ops.checks import check_finite, check_integers, check_number

ROWS = 1024  # that are read at once, so that their float64 copy stays in a core's cache

Covariance = Float64[Tensor, "classes dim dim"] | Float64[Tensor, "classes dim"]


class Gaussians(NamedTuple):
    """Mean, covariance and number of rows of each class; of a class without rows mean and covariance are 0.

    Attributes:
        mean: of the rows.
        covariance: divided by the number of rows, not by one less. Either all of it or its diagonal, [classes, dim]:
            the variance of each feature.
        counts: rows of each class.
    """

    mean: Float64[Tensor, "classes dim"]
    covariance: Covariance
    counts: Int64[Tensor, " classes"]


def class_gaussians(
    x: Float[Tensor, "n dim"], labels: Integer[Tensor, " n"], classes: int, diagonal: bool = False
) -> Gaussians:
    """Mean and covariance of each class's rows, some rows at a time, so that memory is that of the result.

    Args:
        x: of any floating-point type; used as it is.
        labels: class of each row, below `classes`; -1 leaves a row out.
        classes: how many there are, at least 1.
        diagonal: whether only the variances are kept; then the rows are read once, in their order.

    Raises:
        InputError: for other shapes or types, labels that are no class, NaN or infinity.

    Examples:
        >>> x, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 7.0]]), torch.tensor([0, 0, 1])
        >>> found = class_gaussians(x, labels, classes=2, diagonal=True)
        >>> found.mean.tolist(), found.covariance.tolist(), found.counts.tolist()
        ([[2.0, 0.0], [5.0, 7.0]], [[1.0, 0.0], [0.0, 0.0]], [2, 1])
    """
    check_number("classes", classes, at_least=1, whole=True)
    if x.ndim != 2 or not x.shape[1]:
        raise InputError(f"x: expected a matrix [rows, dim] with at least 1 column, got shape {list(x.shape)}")
    labels = check_integers("labels", labels, len(x), low=-1, high=classes)
    if not x.is_floating_point():
        raise InputError(f"x: expected floating-point numbers, got {x.dtype}")
    x, labels = x.detach(), labels.to(x.device)
    found = _variances(x, labels, classes) if diagonal else _covariances(x, labels, classes)
    check_finite("covariance of x", found.covariance)  # squares of huge numbers
    return found


def no_gaussians(classes: int, dim: int, diagonal: bool = False, device: torch.device | str | None = None) -> Gaussians:
    """Those of no rows, with which merging begins.

    Args:
        classes: how many, at least 1.
        dim: features, at least 1.
        diagonal: whether only variances are kept.
        device: of the tensors.

    Examples:
        >>> no_gaussians(3, 2).covariance.shape
        torch.Size([3, 2, 2])
    """
    check_number("classes", classes, at_least=1, whole=True)
    check_number("dim", dim, at_least=1, whole=True)
    mean = torch.zeros(classes, dim, dtype=torch.float64, device=device)
    shape = (classes, dim) if diagonal else (classes, dim, dim)
    return Gaussians(mean, mean.new_zeros(shape), torch.zeros(classes, dtype=torch.int64, device=device))


def merge(a: Gaussians, b: Gaussians) -> Gaussians:
    r"""The Gaussians of all rows, from those of two parts.

    $n = n_a + n_b$, $\mu = \mu_a + \frac{n_b}{n} (\mu_b - \mu_a)$ and
    $n \Sigma = n_a \Sigma_a + n_b \Sigma_b + \frac{n_a n_b}{n} (\mu_a - \mu_b)(\mu_a - \mu_b)^\top$ for each class:
    exact, so that the order of the parts does not matter (Chan, Golub, LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979).

    Args:
        a: both with all of the covariance, or both with its diagonal.
        b: of as many classes and features.

    Raises:
        InputError: for other shapes, NaN or infinity, or counts below 0.

    Examples:
        >>> first, second = torch.tensor([[1.0], [3.0]]), torch.tensor([[8.0]])
        >>> parts = [class_gaussians(x, torch.zeros(len(x), dtype=torch.int64), 1) for x in (first, second)]
        >>> found = merge(*parts)
        >>> found.mean.item(), round(found.covariance.item(), 4)  # of 1, 3 and 8
        (4.0, 8.6667)
    """
    for name, one in (("a", a), ("b", b)):
        check_gaussians(name, one)
    if a.covariance.shape != b.covariance.shape:
        raise InputError(
            f"b: expected a covariance of the shape of a's, {list(a.covariance.shape)}, got {list(b.covariance.shape)}"
        )
    return _merged(a, b)


def shared_covariance(found: Gaussians) -> Float64[Tensor, "..."]:
    r"""The covariance within classes, $\sum_k \frac{n_k}{n} \Sigma_k$: that of all rows about the mean of their class.

    Args:
        found: of at least one row.

    Returns:
        [dim, dim], or [dim] of the diagonal alone.

    Raises:
        InputError: if there is no row, for other shapes, NaN or infinity.

    Examples:
        >>> x, labels = torch.tensor([[1.0], [3.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
        >>> shared_covariance(class_gaussians(x, labels, classes=2))
        tensor([[0.5000]], dtype=torch.float64)
    """
    check_gaussians("found", found)
    if not found.counts.any():
        raise InputError("found: expected the Gaussians of at least one row, got none")
    return torch.tensordot(found.counts.double() / found.counts.sum(), found.covariance.double(), 1)


def check_gaussians(name: str, found: Gaussians) -> None:
    """Refuse Gaussians whose parts do not fit together.

    Raises:
        InputError: naming the argument.

    Examples:
        >>> check_gaussians("a", no_gaussians(2, 1)._replace(counts=torch.tensor([1])))
        Traceback (most recent call last):
        counterpoise.errors.InputError: a.counts: expected one integer for each of the 2 rows, got shape [1]
    """
    mean, covariance, counts = found
    if mean.ndim != 2:
        raise InputError(f"{name}.mean: expected a matrix [classes, dim], got shape {list(mean.shape)}")
    whole = (*mean.shape, mean.shape[1])
    if covariance.shape not in (mean.shape, whole):
        raise InputError(
            f"{name}.covariance: expected the shape {list(whole)}, or {list(mean.shape)} of variances alone, "
            f"got {list(covariance.shape)}"
        )
    check_integers(f"{name}.counts", counts, len(mean), low=0)
    check_finite(f"{name}.mean", mean)
    check_finite(f"{name}.covariance", covariance)


def _variances(x: Tensor, labels: Tensor, classes: int) -> Gaussians:
    """Of all classes together, part after part."""
    found = no_gaussians(classes, x.shape[1], diagonal=True, device=x.device)
    rows = max(ROWS, classes)  # merging takes as long as reading that many
    for part, own in zip(x.split(rows), labels.split(rows), strict=True):
        check_finite("x", part)
        found = _merged(found, _of_part(part.double(), own, classes))
    return found


def _of_part(x: Tensor, labels: Tensor, classes: int) -> Gaussians:
    """Of some rows, in float64: means first, then the squares of what is left."""
    if not (labels >= 0).all():
        x, labels = x[labels >= 0], labels[labels >= 0]
    counts = labels.bincount(minlength=classes)
    share = counts.clamp(min=1).double()[:, None]
    mean = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x) / share
    rest = x - mean[labels]
    return Gaussians(mean, torch.zeros_like(mean).index_add_(0, labels, rest.square_()) / share, counts)


def _covariances(x: Tensor, labels: Tensor, classes: int) -> Gaussians:
    """One class after the other: parts of all of them would each be merged in the time of all covariances."""
    check_finite("x", x)
    found = no_gaussians(classes, x.shape[1], device=x.device)
    order = labels.argsort(stable=True)[int((labels < 0).sum()) :]
    found.counts.copy_(labels[order].bincount(minlength=classes))
    for label, rows in enumerate(order.split(found.counts.tolist())):
        for seen, part in enumerate(rows.split(ROWS)):
            _add_rows(found.mean[label], found.covariance[label], seen * ROWS, x[part].double())
    return found


def _add_rows(mean: Tensor, covariance: Tensor, seen: int, x: Tensor) -> None:
    """`merge` of one class, in place, with more rows of it."""
    if not len(x):
        return
    share = len(x) / (seen + len(x))
    apart = x.mean(0) - mean
    rest = x.sub_(mean + apart)
    covariance.addmm_(rest.T, rest, beta=1 - share, alpha=share / len(x))
    covariance.addr_(apart, apart, alpha=share * (1 - share))
    mean.add_(apart, alpha=share)


def _merged(a: Gaussians, b: Gaussians) -> Gaussians:
    counts = a.counts + b.counts
    share = b.counts.double() / counts.clamp(min=1)  # of b; 0 where neither has rows
    apart = b.mean - a.mean
    mean = a.mean + share[:, None] * apart
    if a.covariance.ndim == 2:
        share = share[:, None]
        between = share * (1 - share) * apart.square()
        return Gaussians(mean, (1 - share) * a.covariance + share * b.covariance + between, counts)
    covariance = torch.lerp(a.covariance.double(), b.covariance.double(), share[:, None, None])
    covariance.baddbmm_((share * (1 - share))[:, None, None] * apart[:, :, None], apart[:, None])
    return Gaussians(mean, covariance, counts)
