"""How well risks and survival curves fit times that are censored in part: concordance, Brier score, calibration.

A figure that is undefined, such as a concordance without a pair, is None, with a warning that names it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Real
from torch import Tensor

from counterpoise.data.survival import Outcomes, check_outcomes, check_weights, scikit_survival
from counterpoise.errors import InputError
from counterpoise.ops.checks import check_finite, check_number, check_values

GROUPS = 5  # of items, in calibration


class Pairs(NamedTuple):
    """What each item adds to a concordance; every pair is in the sums of both its items.

    Attributes:
        right: weight of an item's comparable pairs that are ranked rightly; half of it where risks are equal.
        total: weight of its comparable pairs.
    """

    right: Float64[Tensor, " n"]
    total: Float64[Tensor, " n"]

    def concordance(self, name: str = "concordance") -> float | None:
        """The share that is ranked rightly; None, with a warning that has this name, where there is no pair."""
        total = float(self.total.sum())
        if total == 0:
            return undefined(name, "no two items are comparable")
        return float(self.right.sum()) / total

    def influence(self) -> Float64[Tensor, " n"]:
        r"""The influence of each item on the concordance C: $C + 2n (r_i - C d_i) / \sum_j d_j$, whose mean is C.

        The variance of these numbers, over n, is that of C to first order (of a ratio of U-statistics).
        """
        share = self.right.sum() / self.total.sum()
        return share + 2 * len(self.total) * (self.right - share * self.total) / self.total.sum()


def concordance(
    times: Real[Tensor, " n"],
    events: Bool[Tensor, " n"] | Int[Tensor, " n"],
    risk: Float[Tensor, " n"],
    weights: Float[Tensor, " n"] | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> float | None:
    """Harrell's concordance index: the share of comparable pairs in which the earlier event has the higher risk.

    Two items are comparable where the earlier time is that of an event; of equal times, where one alone is. Equal risks
    count half. It takes n log n steps.

    Args:
        times: above 0.
        events: whether the event was observed at that time; otherwise the item is censored.
        risk: of each item, higher where an earlier event is expected.
        weights: of each item, 0 or more; a pair has the product of both.
        start: only pairs whose earlier time is above this one.
        end: and at most this one, if it is given. So `end=h` and `start=h` divide all pairs into those of short and of
            long lifetimes.

    Returns:
        From 0 to 1, 0.5 of constant risks; None, with a warning, where no two items are comparable.

    Raises:
        InputError: for wrong shapes, a time that is not above 0, weights below 0, or NaN.

    Examples:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, False])
        >>> concordance(times, events, torch.tensor([3.0, 2.0, 1.0])), concordance(times, events, torch.zeros(3))
        (1.0, 0.5)
        >>> round(concordance(times, events, torch.tensor([2.0, 3.0, 1.0])), 3)
        0.667
    """
    return concordance_pairs(times, events, risk, weights, start, end).concordance()


def concordance_pairs(
    times: Real[Tensor, " n"],
    events: Bool[Tensor, " n"] | Int[Tensor, " n"],
    risk: Float[Tensor, " n"],
    weights: Float[Tensor, " n"] | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Pairs:
    """What each item adds to the concordance; the arguments are those of `concordance`.

    Args:
        times: of each item.
        events: of each item.
        risk: of each item.
        weights: of each item.
        start: of the pairs' earlier times.
        end: of the pairs' earlier times.

    Raises:
        InputError: as of `concordance`.

    Examples:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, False])
        >>> pairs = concordance_pairs(times, events, torch.tensor([2.0, 3.0, 1.0]))
        >>> pairs.right.tolist(), pairs.total.tolist()
        ([1.0, 1.0, 2.0], [2.0, 2.0, 2.0])
    """
    times, events = check_outcomes(times, events)
    _check_row("risk", risk, len(times))
    weight = torch.ones(len(times)).double() if weights is None else check_weights("weights", weights, len(times))
    check_number("start", start)
    first = events & (times > start)
    if end is not None:
        check_number("end", end)
        first &= times <= end
    if not len(times):
        return Pairs(weight, weight.clone())
    given = (times.double(), events, first, risk.detach().double(), weight)
    right, total = _pairs(*(x.cpu().numpy() for x in given))
    return Pairs(torch.from_numpy(right), torch.from_numpy(total))


def _pairs(
    times: np.ndarray, events: np.ndarray, first: np.ndarray, risk: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over pairs, bit by bit of the items' places in time.

    Two places differ first at one bit. Where items are grouped by the bits above it and in order of risk within a
    group, all pairs that differ first there are counted by running sums; the next bit divides each group in two.

    Args:
        times: of each item.
        events: whether it ended by its event.
        first: which items count as the earlier one of a pair.
        risk: of each item.
        weight: of each item.
    """
    order = np.lexsort((~events, times))
    new = (times[order][1:] != times[order][:-1]) | (events[order][1:] != events[order][:-1])
    place = np.empty(len(order), np.int64)  # in time; the same for equal times, of which events come before censoring
    place[order] = np.concatenate([[0], np.cumsum(new)])
    right, total = np.zeros(len(order)), np.zeros(len(order))
    order = np.argsort(risk, kind="stable")
    steps = np.arange(len(order))
    for bit in reversed(range(int(place.max()).bit_length())):
        group, value = place[order] >> (bit + 1), risk[order]
        later = (place[order] >> bit & 1).astype(bool)
        low, high = _runs(group[1:] != group[:-1])
        least, most = _runs((group[1:] != group[:-1]) | (value[1:] != value[:-1]))  # of equal risks in a group
        after, before = (_sums(weight[order] * some) for some in (later, first[order] & ~later))
        below = after[least] - after[low] + (after[most] - after[least]) / 2
        above = before[high] - before[most] + (before[most] - before[least]) / 2
        right[order] += np.where(later, above, first[order] * below)
        total[order] += np.where(later, before[high] - before[low], first[order] * (after[high] - after[low]))
        earlier = _sums(~later)
        own = earlier[steps] - earlier[low]  # of those before it in its group
        moved = low + np.where(later, earlier[high] - earlier[low] + steps - low - own, own)
        order[moved.astype(np.int64)] = order.copy()
    return right * weight, total * weight


def _runs(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each place's run begins and ends, by whether a place differs from the one before it."""
    edges = np.concatenate([[0], np.flatnonzero(change) + 1, [len(change) + 1]])
    lengths = np.diff(edges)
    return np.repeat(edges[:-1], lengths), np.repeat(edges[1:], lengths)


def _sums(values: np.ndarray) -> np.ndarray:
    """Running sums, from 0."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


class StepCurve(NamedTuple):
    """A survival curve: 1 before the first time, and from each time on the value beside it.

    Attributes:
        times: in rising order.
        survival: from 1 to 0, not rising.
    """

    times: Float[Tensor, " steps"]
    survival: Float[Tensor, " steps"]

    def at(self, times: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Its values at some times."""
        place = torch.searchsorted(self.times, times.to(self.times), right=True)
        return torch.cat([self.survival.new_ones(1), self.survival])[place]


def kaplan_meier(times: Real[Tensor, " n"], events: Bool[Tensor, " n"] | Int[Tensor, " n"]) -> StepCurve:
    r"""The survival curve of all items alike (Kaplan and Meier, 1958): $S(t) = \prod_{t_k \le t} (1 - d_k / n_k)$.

    $d_k$ events are observed at time $t_k$, and $n_k$ items are at risk just before it.

    Args:
        times: above 0, at least one.
        events: whether the event was observed at that time; otherwise the item is censored.

    Returns:
        The curve; its steps are at the times of events.

    Raises:
        InputError: for wrong shapes, no item, a time that is not above 0, or NaN.

    Examples:
        >>> curve = kaplan_meier(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([True, True, False, False]))
        >>> curve.times.tolist(), curve.survival.tolist()
        ([1.0, 2.0], [0.75, 0.5])
    """
    times, events = check_outcomes(times, events)
    if not len(times):
        raise InputError("times: expected at least one, got none")
    times = times.double()
    steps, place = times.unique(return_inverse=True)
    leaving, observed = place.bincount(minlength=len(steps)), place[events].bincount(minlength=len(steps))
    at_risk = len(times) - (leaving.cumsum(0) - leaving)
    kept = observed > 0
    return StepCurve(steps[kept], (1 - observed / at_risk.double()).cumprod(0)[kept])


def ipcw_concordance(
    train_times: Real[Tensor, " m"],
    train_events: Bool[Tensor, " m"] | Int[Tensor, " m"],
    times: Real[Tensor, " n"],
    events: Bool[Tensor, " n"] | Int[Tensor, " n"],
    risk: Float[Tensor, " n"],
) -> float | None:
    """Concordance weighted by the inverse probability of censoring (Uno et al., 2011), by scikit-survival.

    Unlike Harrell's, what it estimates does not depend on how items are censored. Pairs count whose earlier time is
    below the longest of training.

    Args:
        train_times: of the training items, from which censoring is estimated.
        train_events: of the training items.
        times: of the items that are judged.
        events: of the items that are judged.
        risk: of the items that are judged, higher where an earlier event is expected.

    Returns:
        From 0 to 1; None, with a warning, where it is undefined.

    Raises:
        InputError: for wrong shapes, a time that is not above 0, or NaN.
        MissingExtra: without scikit-survival.

    Examples:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, True])
        >>> ipcw_concordance(times, events, times, events, torch.tensor([3.0, 2.0, 1.0]))
        1.0
    """
    train = check_outcomes(train_times, train_events, prefix="train_")
    test = check_outcomes(times, events)
    _check_row("risk", risk, len(times))
    name = "IPCW concordance"
    longest = float(train.times.max()) if len(train_times) else 0.0
    if not bool((test.events & (test.times < longest)).any()):
        return undefined(name, "no event before the longest time of training")
    metrics = scikit_survival("metrics")

    def call() -> float:
        ranked = risk.double().cpu().numpy()
        return metrics.concordance_index_ipcw(train.structured(), test.structured(), ranked, longest)[0]

    return _defined(name, call)


def integrated_brier(
    train_times: Real[Tensor, " m"],
    train_events: Bool[Tensor, " m"] | Int[Tensor, " m"],
    times: Real[Tensor, " n"],
    events: Bool[Tensor, " n"] | Int[Tensor, " n"],
    survival: Float[Tensor, "n steps"],
    at: Float[Tensor, " steps"],
) -> float | None:
    """The squared error of survival curves, integrated over time (Graf et al., 1999), by scikit-survival.

    At each time it is the mean square of the curve less whether the item is still alive, with items that are censored
    before replaced by the weights of others. Items are taken as censored at the longest time of training.

    Args:
        train_times: of the training items, from which censoring is estimated.
        train_events: of the training items.
        times: of the items that are judged.
        events: of the items that are judged.
        survival: probability of each item to live longer than each time, from 0 to 1.
        at: these times, rising, at least two; those outside the times that are judged are left out.

    Returns:
        0 at best, 0.25 of curves that are 0.5 throughout; None, with a warning, where it is undefined.

    Raises:
        InputError: for wrong shapes, numbers out of range, or NaN.
        MissingExtra: without scikit-survival.

    Examples:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, True, True, True])
        >>> at = torch.tensor([1.0, 2.0, 3.0])
        >>> integrated_brier(times, events, times, events, torch.full((4, 3), 0.5), at)
        0.25
    """
    train = check_outcomes(train_times, train_events, prefix="train_")
    test = check_outcomes(times, events)
    check_values("at", at, above=0)
    if at.ndim != 1 or (at.diff() <= 0).any():
        raise InputError("at: expected rising times")
    if list(survival.shape) != [len(times), len(at)]:
        raise InputError(f"survival: expected [{len(times)}, {len(at)}], got shape {list(survival.shape)}")
    check_values("survival", survival, at_least=0, at_most=1)
    name = "integrated Brier score"
    if not len(times) or not len(train_times) or not bool(train.events.any()):
        return undefined(name, "no event in training, or nothing to judge")
    longest = float(train.times.max())
    beyond = test.times >= longest
    cut = Outcomes(test.times.double().where(~beyond, math.nextafter(longest, 0.0)), test.events & ~beyond)
    used = (at >= cut.times.min()) & (at < cut.times.max())
    if int(used.sum()) < 2:
        return undefined(name, "fewer than 2 of its times lie among those that are judged")
    metrics = scikit_survival("metrics")
    given = survival[:, used].double().cpu().numpy(), at[used].double().cpu().numpy()
    return _defined(name, lambda: metrics.integrated_brier_score(train.structured(), cut.structured(), *given))


def survival_calibration(
    times: Real[Tensor, " n"],
    events: Bool[Tensor, " n"] | Int[Tensor, " n"],
    survival: Float[Tensor, " n"],
    at: float,
    groups: int = GROUPS,
) -> float | None:
    """How far the predicted shares of survivors at a time are from those that are observed.

    Items are divided into groups of equal size by what is predicted. In each, the mean prediction is compared with the
    Kaplan–Meier estimate; the result is the mean absolute difference over items.

    Args:
        times: of the items.
        events: of the items.
        survival: predicted probability of each item to live longer than `at`, from 0 to 1.
        at: the time, above 0.
        groups: how many, at least 1; items of equal predictions stay together.

    Returns:
        From 0 to 1, 0 at best; None, with a warning, where no item of a group is at risk up to that time.

    Raises:
        InputError: for wrong shapes, numbers out of range, or NaN.

    Examples:
        >>> times, events = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, True, True, True])
        >>> survival_calibration(times, events, torch.full((4,), 0.75), at=2.0)  # half of them live longer
        0.25
    """
    times, events = check_outcomes(times, events)
    _check_row("survival", survival, len(times))
    check_values("survival", survival, at_least=0, at_most=1)
    check_number("at", at, above=0)
    check_number("groups", groups, at_least=1, whole=True)
    name = f"calibration at {at:g}"
    if not len(times):
        return undefined(name, "nothing to judge")
    ranks = survival.unique(return_inverse=True)[1]
    first = ranks.bincount().cumsum(0) - ranks.bincount()  # place of the first item of each prediction
    group = first[ranks] * groups // len(times)
    gaps = 0.0
    for number in group.unique():
        some = group == number
        curve = kaplan_meier(times[some], events[some])
        observed = float(curve.at(torch.tensor([at]).double()))
        if observed > 0 and times[some].max() < at:
            return undefined(name, "no item of a group is at risk up to it")
        gaps += float(some.double().mean()) * abs(float(survival[some].double().mean()) - observed)
    return gaps


def undefined(name: str, why: str) -> float | None:
    """Warn that a figure has no value, and return None in its place.

    Args:
        name: of the figure.
        why: it has none.

    Examples:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     undefined("concordance", "no two items are comparable")
        >>> str(caught[0].message)
        'concordance: undefined: no two items are comparable'
    """
    warnings.warn(f"{name}: undefined: {why}")
    return None


def _check_row(name: str, x: Tensor, rows: int) -> None:
    if list(x.shape) != [rows]:
        raise InputError(f"{name}: expected one number for each of {rows} items, got shape {list(x.shape)}")
    check_finite(name, x)


def _defined(name: str, call: Callable[[], float]) -> float | None:
    """What a function of scikit-survival returns, or None where it refuses or gives NaN."""
    try:
        with np.errstate(all="ignore"):
            found = float(call())
    except ValueError as error:
        return undefined(name, str(error))
    return found if math.isfinite(found) else undefined(name, "no weight of censoring is finite")
