"""How even a classifier is over subgroups: MacroStd, what chance alone would give, and the accuracy of each subgroup.

Chiu, Chen, Ma, "Better May Not Be Fairer: A Study on Subgroup Discrepancy in Image Classification", ICCV 2023, arXiv
2212.08649. A subgroup is a class together with a group, such as dogs on a green ground. Rows whose label or group is -1
are left out.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from counterpoise.errors import InputError, unknown
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_counts, check_integers, check_logits, check_number, check_seed

Macro = Literal["rms", "mean"]
Weights = Literal["count", "uniform"]


class MacroStd(NamedTuple):
    """How far the accuracies of subgroups of the same class are apart. Figures are shares, from 0 to 1.

    Attributes:
        value: MacroStd; `None` where no class has items of two groups, so that nothing can be compared.
        weighted_std: W-Std, the weighted standard deviation over the subgroups of all classes at once, so that easy and
            hard classes enter; `None` where there are fewer than two subgroups.
        worst: the lowest accuracy of a subgroup; `None` without any.
        gap: the highest less the lowest; `None` without any.
        classes: those that have items, in order.
        deviations: of each of them the weighted standard deviation over its subgroups; 0 where it has one alone.
        subgroups: class and group of each subgroup that has items.
        counts: its items.
        right: those of them that are predicted correctly.
        dropped: items with a label and without a group, which are left out.
    """

    value: float | None
    weighted_std: float | None
    worst: float | None
    gap: float | None
    classes: Int64[Tensor, " classes"]
    deviations: Float64[Tensor, " classes"]
    subgroups: Int64[Tensor, "subgroups two"]
    counts: Int64[Tensor, " subgroups"]
    right: Int64[Tensor, " subgroups"]
    dropped: int


class MacroStdNull(NamedTuple):
    """MacroStd where groups mean nothing: those of the items of each class are exchanged at random.

    Attributes:
        mean: over the exchanges.
        low: 2.5 % of them give less.
        high: 97.5 % of them give less.
        p: the share of them that gives at least what was found, which itself counts as one.
    """

    mean: float
    low: float
    high: float
    p: float


class _Form(NamedTuple):
    """Which of the forms of MacroStd; see `macro_std`."""

    macro: Macro
    weights: Weights
    ddof: int

    def check(self) -> None:
        for name, value, choices in (("macro", self.macro, Macro), ("weights", self.weights, Weights)):
            if value not in get_args(choices):
                raise unknown(name, value, get_args(choices))
        check_number("ddof", self.ddof, at_least=0, at_most=1, whole=True)

    def average(self, deviations: Float64[Tensor, "*tables classes"]) -> Float64[Tensor, " *tables"]:
        """Of the classes' standard deviations."""
        return deviations.square().mean(-1).sqrt() if self.macro == "rms" else deviations.mean(-1)

    def deviations(
        self,
        counts: Int64[Tensor, " subgroups"],
        right: Int64[Tensor, "*tables subgroups"],
        place: Int64[Tensor, " subgroups"],
    ) -> Float64[Tensor, "*tables classes"]:
        """The weighted standard deviation of the accuracies within each class; 0 for one of one subgroup.

        Accuracies are taken relative to that of the class, as a ratio of whole numbers, so that equal ones give exactly
        0.
        """

        def summed(x: Tensor) -> Tensor:
            return x.new_zeros(*x.shape[:-1], classes).index_add_(-1, place, x)

        classes = int(place.max()) + 1 if len(place) else 0
        weights = counts.double() if self.weights == "count" else torch.ones_like(counts).double()
        each = (summed(right).double() / summed(counts))[..., place]
        apart = right / counts.double() - each
        total = summed(weights)
        apart = apart - (summed(weights * apart) / total)[..., place]
        several = summed(torch.ones_like(counts)) > 1
        variance = summed(weights * apart.square()) / (total - self.ddof).clamp(min=1)
        return torch.where(several, variance, 0.0).sqrt()


def macro_std(
    predicted: Integer[Tensor, " n"],
    labels: Integer[Tensor, " n"],
    groups: Integer[Tensor, " n"],
    macro: Macro = "rms",
    weights: Weights = "count",
    ddof: int = 1,
) -> MacroStd:
    r"""The root mean square, over classes, of the weighted standard deviation of the accuracies of their subgroups.

    $\sqrt{\frac1C \sum_c \sigma_c^2}$ with $\sigma_c^2 = \sum_g w_{cg} (a_{cg} - \bar a_c)^2 / (\sum_g w_{cg} - 1)$,
    where $a_{cg}$ is the accuracy of the items of class c and group g, $w_{cg}$ their number, and $\bar a_c$ the
    weighted mean. A class that is hard for all groups alike adds nothing; but even a fair classifier is above 0 where
    subgroups are small, see `macro_std_null`; and one that is always wrong is at 0.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row; rows with -1 are left out.
        groups: group of each row, from 0; rows with -1 are left out, and counted. Groups of different classes are never
            compared, so it does not matter whether they share numbers.
        macro: how classes are averaged: "rms", or "mean", which is smaller unless all are alike.
        weights: "count", by which splitting a subgroup at random changes little; or "uniform", w = 1. The paper does
            not say which; counts fit its figures.
        ddof: what is taken from the weights in the divisor, 1 or 0.

    Returns:
        See `MacroStd`. A warning says what is not defined, and how many subgroups are single items.

    Raises:
        InputError: for wrong shapes or dtypes, labels or groups below -1, or unknown choices.

    Examples:
        >>> labels, groups = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1])
        >>> found = macro_std(torch.tensor([0, 0, 5, 5]), labels, groups, ddof=0)  # one is right, the other wrong
        >>> found.value, found.worst, found.gap
        (0.5, 0.0, 1.0)
    """
    form = _Form(macro, weights, ddof)
    form.check()
    return _warned(_of_subgroups(*_counted(predicted, labels, groups), form))


def macro_std_null(
    predicted: Integer[Tensor, " n"],
    labels: Integer[Tensor, " n"],
    groups: Integer[Tensor, " n"],
    macro: Macro = "rms",
    weights: Weights = "count",
    ddof: int = 1,
    permutations: int = 1000,
    seed: int = 0,
) -> MacroStdNull | None:
    r"""What `macro_std` is by chance alone: the groups of the items of each class are exchanged at random.

    The correctly predicted items of a class then fall on its subgroups by the hypergeometric distribution, which is
    drawn from. With counts as weights the mean of $\sigma_c^2$ is
    $\bar a_c (1 - \bar a_c) (M_c - 1) n_c / (n_c - 1)^2$, of $M_c$ subgroups and $n_c$ items.

    Args:
        predicted: predicted class of each row.
        labels: true class of each row; rows with -1 are left out.
        groups: group of each row, from 0; rows with -1 are left out.
        macro: as in `macro_std`.
        weights: as in `macro_std`.
        ddof: as in `macro_std`.
        permutations: how many times groups are exchanged, at least 1.
        seed: of the random numbers.

    Returns:
        See `MacroStdNull`; `None`, with a warning, where MacroStd is not defined.

    Raises:
        InputError: as in `macro_std`.

    Examples:
        >>> labels, groups = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1])
        >>> null = macro_std_null(torch.tensor([0, 0, 5, 5]), labels, groups, ddof=0)  # two right ones meet by 1/3
        >>> round(null.p, 1), round(null.mean, 1)
        (0.3, 0.2)
    """
    form = _Form(macro, weights, ddof)
    form.check()
    check_counts(permutations=permutations)
    check_seed(seed)
    found = _of_subgroups(*_counted(predicted, labels, groups), form)
    if found.value is None:
        return None
    place = _places(found.subgroups)
    rng = np.random.default_rng(seed)
    drawn = torch.zeros(permutations, len(place), dtype=torch.int64)
    for label in range(len(found.classes)):
        own = place == label
        many, right = found.counts[own].numpy(), int(found.right[own].sum())
        drawn[:, own] = torch.from_numpy(rng.multivariate_hypergeometric(many, right, permutations, "marginals"))
    values = form.average(form.deviations(found.counts, drawn, place))
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    reached = int((values >= found.value * (1 - 1e-12)).sum())  # the same counts may be summed in another order
    return MacroStdNull(float(values.mean()), low, high, (1 + reached) / (1 + permutations))


class SubgroupAccuracy(Metric):
    """MacroStd and its companions as a torchmetrics `Metric`, over batches and processes.

    It adds up whole numbers, the items of each subgroup and those that are predicted correctly, so that it does not
    matter how the data is divided.

    Args:
        classes: how many classes there are.
        groups: how many groups there are.
        macro: as in `macro_std`.
        weights: as in `macro_std`.
        ddof: as in `macro_std`.
        **options: of `Metric`.

    Raises:
        InputError: for numbers below 1, or unknown choices. `update` raises it for wrong shapes or dtypes, and for
            labels or groups out of range; the metric keeps nothing of a batch that it refuses.

    Examples:
        >>> metric = SubgroupAccuracy(classes=2, groups=2)
        >>> metric.update(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 1]))
        >>> {name: round(value, 3) for name, value in metric.compute().items()}
        {'macro_std': 0.289, 'weighted_std': 0.289, 'worst_subgroup': 0.5, 'gap': 0.5}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: Tensor
    right: Tensor
    dropped: Tensor

    def __init__(
        self,
        classes: int,
        groups: int,
        macro: Macro = "rms",
        weights: Weights = "count",
        ddof: int = 1,
        **options: Any,
    ):
        super().__init__(**options)
        check_counts(classes=classes, groups=groups)
        self.form = _Form(macro, weights, ddof)
        self.form.check()
        self.classes, self.groups = classes, groups
        for name, shape in (("counts", (classes, groups)), ("right", (classes, groups)), ("dropped", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        preds: Integer[Tensor, " n"] | Float[Tensor, "n classes"],
        target: Integer[Tensor, " n"],
        groups: Integer[Tensor, " n"],
    ) -> None:
        """Count a batch.

        Args:
            preds: predicted class of each row, or its scores for all classes.
            target: true class of each row; -1 leaves it out.
            groups: group of each row; -1 leaves it out.
        """
        if preds.ndim == 2:
            check_logits("preds", preds)
            preds = preds.argmax(1)
        target, groups, right, dropped = _grouped(preds, target, groups, self.classes, self.groups)
        cells, size = target * self.groups + groups, self.classes * self.groups
        self.counts += torch.bincount(cells, minlength=size).view_as(self.counts)
        self.right += torch.bincount(cells[right], minlength=size).view_as(self.right)
        self.dropped += dropped

    def found(self) -> MacroStd:
        """All that was counted, and what follows from it."""
        there = self.counts.cpu().nonzero()
        counts, right = (table.cpu()[there[:, 0], there[:, 1]] for table in (self.counts, self.right))
        return _warned(_of_subgroups(there, counts, right, int(self.dropped), self.form))

    def compute(self) -> dict[str, float | None]:
        """By name; `None` where one is not defined."""
        found = self.found()
        return {
            "macro_std": found.value,
            "weighted_std": found.weighted_std,
            "worst_subgroup": found.worst,
            "gap": found.gap,
        }


def _grouped(
    predicted: Tensor, labels: Tensor, groups: Tensor, classes: int | None = None, most: int | None = None
) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " kept"], Bool[Tensor, " kept"], int]:
    """Labels and groups of the rows that have both, whether they are predicted correctly; how many have no group."""
    labels = known_classes("labels", labels, labels.numel(), classes)
    groups = known_classes("groups", groups, len(labels), most)
    right = check_integers("predicted", predicted, rows=len(labels)) == labels
    kept = (labels >= 0) & (groups >= 0)
    return labels[kept], groups[kept], right[kept], int(((labels >= 0) & ~kept).sum())


def _counted(
    predicted: Tensor, labels: Tensor, groups: Tensor
) -> tuple[Int64[Tensor, "subgroups two"], Int64[Tensor, " subgroups"], Int64[Tensor, " subgroups"], int]:
    """Class and group of the subgroups that have items, how many, how many of them are right; what has no group."""
    if not labels.numel():
        raise InputError("labels: expected at least one row, got none")
    labels, groups, right, dropped = _grouped(predicted, labels, groups)
    subgroups, place = torch.stack([labels, groups], 1).cpu().unique(dim=0, return_inverse=True)
    count = partial(torch.bincount, minlength=len(subgroups))
    return subgroups, count(place), count(place[right.cpu()]), dropped


def _places(subgroups: Int64[Tensor, "subgroups two"]) -> Int64[Tensor, " subgroups"]:
    """Of each subgroup the place of its class among the classes that have items."""
    return subgroups[:, 0].unique(return_inverse=True)[1]


def _of_subgroups(subgroups: Tensor, counts: Tensor, right: Tensor, dropped: int, form: _Form) -> MacroStd:
    """What follows from the counts."""
    place, several = _places(subgroups), len(subgroups) > 1
    deviations = form.deviations(counts, right, place)
    comparable = bool((torch.bincount(place) > 1).any()) if len(place) else False
    pooled = form.deviations(counts, right, torch.zeros_like(place))
    accuracies = right / counts.double()
    if not comparable:
        warnings.warn("MacroStd is not defined: no class has items of two groups")
    return MacroStd(
        value=float(form.average(deviations)) if comparable else None,
        weighted_std=float(pooled) if several else None,
        worst=float(accuracies.min()) if len(accuracies) else None,
        gap=float(accuracies.max() - accuracies.min()) if len(accuracies) else None,
        classes=subgroups[:, 0].unique(),
        deviations=deviations,
        subgroups=subgroups,
        counts=counts,
        right=right,
        dropped=dropped,
    )


def _warned(found: MacroStd) -> MacroStd:
    """The same, with a warning where subgroups are so small that their accuracies say nothing."""
    single = int((found.counts == 1).sum())
    if found.value is not None and single:
        about = f"{single} of {len(found.counts)} subgroups are single items, whose accuracy is 0 or 1"
        warnings.warn(f"MacroStd: {about}")
    return found
