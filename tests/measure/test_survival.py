"""Measures of survival: against plain loops, the libraries that are known for them, and where they are undefined."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.survival import (
    concordance,
    concordance_pairs,
    integrated_brier,
    ipcw_concordance,
    kaplan_meier,
    survival_calibration,
)


def drawn(seed, count=40, ties=False):
    rng = np.random.default_rng(seed)
    times = rng.integers(1, 9, count).astype(float) if ties else rng.exponential(size=count) + 0.01
    risk = rng.integers(0, 5, count).astype(float) if ties else rng.normal(size=count)
    return [torch.from_numpy(x) for x in (times, rng.random(count) < 0.6, risk, rng.random(count))]


def by_loops(times, events, risk, weights, start=0.0, end=np.inf):
    right = total = 0.0
    for i, j in itertools.permutations(range(len(times)), 2):
        before = times[i] < times[j] or (times[i] == times[j] and not events[j])
        if events[i] and before and start < times[i] <= end:
            pair = weights[i] * weights[j]
            total += pair
            right += pair * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return float(right / total)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_concordance_is_that_of_all_pairs(seed, ties):
    times, events, risk, weights = drawn(seed, ties=ties)
    ones = torch.ones_like(weights)
    assert concordance(times, events, risk) == pytest.approx(by_loops(times, events, risk, ones), abs=1e-12)
    horizon = float(times.median())
    for start, end in ((0.0, horizon), (horizon, None)):
        found = concordance(times, events, risk, weights, start, end)
        assert found == pytest.approx(by_loops(times, events, risk, weights, start, end or np.inf), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_concordance_is_scikit_survival_s(seed):
    theirs = pytest.importorskip("sksurv.metrics").concordance_index_censored
    times, events, risk, _ = drawn(seed, count=200)
    found = theirs(events.numpy(), times.numpy(), risk.numpy())[0]
    assert concordance(times, events, risk) == pytest.approx(found, abs=1e-12)


def test_a_perfect_ranking_is_1_a_reversed_one_0_and_a_constant_one_a_half():
    times, events, _, _ = drawn(0)
    assert concordance(times, events, -times) == 1
    assert concordance(times, events, times) == 0
    assert concordance(times, events, torch.zeros(40)) == 0.5


def test_concordance_depends_on_the_order_of_times_and_risks_alone():
    times, events, risk, _ = drawn(1)
    found = concordance(times, events, risk)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert concordance(times[order].log1p(), events[order], 3 * risk[order].exp()) == found
    assert concordance(times, events, -risk) == pytest.approx(1 - found)


def test_short_and_long_pairs_are_all_pairs():
    times, events, risk, _ = drawn(2)
    whole, short, long = (
        concordance_pairs(times, events, risk, start=start, end=end)
        for start, end in ((0, None), (0, 0.7), (0.7, None))
    )
    torch.testing.assert_close(short.total + long.total, whole.total)
    torch.testing.assert_close(short.right + long.right, whole.right)


def test_the_influence_of_items_has_the_mean_and_the_spread_of_the_concordance():
    times, events, risk, weights = drawn(3, count=60)
    pairs = concordance_pairs(times, events, risk + 2 * times, weights)
    each = pairs.influence()
    assert float(each.mean()) == pytest.approx(pairs.concordance())
    left_out = torch.stack(
        [
            torch.tensor(concordance(*(x[torch.arange(60) != i] for x in (times, events, risk + 2 * times, weights))))
            for i in range(60)
        ]
    )  # the jackknife
    jackknife = 60 * each.mean() - 59 * left_out
    assert np.corrcoef(jackknife, each)[0, 1] > 0.99
    assert float(jackknife.std() / each.std()) == pytest.approx(1, abs=0.05)


def test_kaplan_meier_is_scikit_survival_s():
    estimator = pytest.importorskip("sksurv.nonparametric").kaplan_meier_estimator
    for ties in (False, True):
        times, events, _, _ = drawn(4, ties=ties)
        at, theirs = estimator(events.numpy(), times.numpy())  # at all times, of censoring, too
        np.testing.assert_allclose(kaplan_meier(times, events).at(torch.from_numpy(at)), theirs, atol=1e-12)


def test_ipcw_concordance_is_harrell_s_without_censoring_and_undoes_censoring_otherwise():
    pytest.importorskip("sksurv")
    rng = torch.Generator().manual_seed(0)
    risk = torch.randn(600, generator=rng)
    times = torch.empty(600).exponential_(generator=rng) * (-0.8 * risk).exp() + 1e-3
    seen = torch.ones(600, dtype=torch.bool)
    whole = concordance(times, seen, risk)
    assert ipcw_concordance(times, seen, times, seen, risk) == pytest.approx(whole, abs=2e-3)
    ends = torch.empty(600).exponential_(generator=rng) + 0.05
    cut, events = torch.minimum(times, ends), times <= ends
    assert 0.6 < ipcw_concordance(cut, events, cut, events, risk) < 0.8


def test_the_brier_score_is_the_squared_error_without_censoring():
    pytest.importorskip("sksurv")
    times, _, _, _ = drawn(5)
    seen, at = torch.ones(40, dtype=torch.bool), torch.linspace(0.2, 1.2, 30).double()
    survival = torch.rand(40, 30, generator=torch.Generator().manual_seed(0)).double()
    alive = (times[:, None] > at).double()
    wanted = torch.trapezoid((survival - alive).square().mean(0), at) / (at[-1] - at[0])
    assert integrated_brier(times, seen, times, seen, survival, at) == pytest.approx(float(wanted))
    assert integrated_brier(times, seen, times, seen, alive, at) == 0


def test_what_lies_outside_training_does_not_end_the_brier_score():
    pytest.importorskip("sksurv")
    times, events, _, _ = drawn(6)
    at = torch.tensor([0.1, 0.5, 1.0, 90.0]).double()
    found = integrated_brier(times, events, 3 * times, events, torch.full((40, 4), 0.5), at)
    assert 0 < found < 1


def test_calibration_by_hand():
    times = torch.tensor([1.0, 1.0, 4.0, 4.0, 1.0, 4.0, 4.0, 4.0])
    predicted = torch.tensor([0.5] * 4 + [0.9] * 4)
    found = survival_calibration(times, torch.ones(8, dtype=torch.bool), predicted, at=2.0)
    assert found == pytest.approx(0.5 * abs(0.5 - 0.5) + 0.5 * abs(0.9 - 0.75))
    assert survival_calibration(times, torch.ones(8, dtype=torch.bool), predicted, 2.0, groups=1) == pytest.approx(
        abs(0.7 - 5 / 8)
    )


def test_a_figure_without_a_value_is_none_and_warned_of_by_name():
    pytest.importorskip("sksurv")
    times, none = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.bool)
    risk, some = torch.zeros(3), torch.tensor([True, True, True])
    with pytest.warns(match="^concordance: undefined: no two items are comparable"):
        assert concordance(times, none, risk) is None
    with pytest.warns(match="^concordance: undefined"):
        assert concordance(times[:0], none[:0], risk[:0]) is None
    with pytest.warns(match="^concordance: undefined"):
        assert concordance(times, some, risk, torch.zeros(3)) is None
    with pytest.warns(match="^IPCW concordance: undefined"):
        assert ipcw_concordance(times, some, times, none, risk) is None
    at = torch.tensor([1.0, 2.0])
    with pytest.warns(match="^integrated Brier score: undefined"):
        assert integrated_brier(times, none, times, some, torch.ones(3, 2), at) is None
    with pytest.warns(match="^integrated Brier score: undefined"):
        assert integrated_brier(times, some, times, some, torch.ones(3, 2), at + 90) is None
    with pytest.warns(match="^calibration at 5: undefined: no item of a group is at risk up to it"):
        assert survival_calibration(times, none, torch.ones(3), at=5.0) is None


def test_all_pairs_are_counted_once_by_both_of_their_items():
    times, events, risk, _ = drawn(7, ties=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = concordance_pairs(times, events, risk)
    assert float(pairs.total.sum()) % 2 == 0
    assert (pairs.right <= pairs.total).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risk": torch.tensor([torch.nan, 1.0])}, "risk"),
        ({"risk": torch.ones(3)}, "risk: expected one number for each of 2 items"),
        ({"times": torch.tensor([0.0, 1.0])}, "times"),
        ({"weights": torch.tensor([-1.0, 1.0])}, "weights"),
        ({"start": torch.nan}, "start"),
    ],
)
def test_what_concordance_refuses(changes, message, plain_shapes):
    given = {"times": torch.tensor([1.0, 2.0]), "events": torch.tensor([True, True]), "risk": torch.zeros(2)}
    with pytest.raises(InputError, match=message):
        concordance(**{**given, **changes})


def test_what_curves_refuse(plain_shapes):
    times, seen = torch.tensor([1.0, 2.0]), torch.tensor([True, True])
    with pytest.raises(InputError, match="survival: expected a number of at least 0 and of at most 1"):
        survival_calibration(times, seen, torch.tensor([0.5, 1.5]), at=1.0)
    with pytest.raises(InputError, match="at: expected rising times"):
        integrated_brier(times, seen, times, seen, torch.ones(2, 2), torch.tensor([2.0, 1.0]))
    with pytest.raises(InputError, match=r"survival: expected \[2, 2\]"):
        integrated_brier(times, seen, times, seen, torch.ones(2, 3), torch.tensor([1.0, 2.0]))
    with pytest.raises(InputError, match="times: expected at least one"):
        kaplan_meier(times[:0], seen[:0])
