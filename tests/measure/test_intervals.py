import math

import numpy as np
import pytest
from scipy import stats

from counterpoise.errors import InputError
from counterpoise.measure import Interval, interval, paired, verdict
from counterpoise.measure.intervals import holds


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_against_scipy(n, confidence):
    values = np.random.default_rng(n).normal(3, 2, n).tolist()
    low, high = stats.t.interval(confidence, n - 1, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values, confidence)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.n == n


def test_paired_is_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 6).tolist(), rng.normal(0, 1, 6).tolist()
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert paired(b, a).low == pytest.approx(-expected.high)


def test_what_both_share_cancels():
    seeds = [0.0, 10.0, -50.0, 7.0]
    found = paired([s + 2 for s in seeds], [s + 1 for s in seeds])
    assert found == Interval(1.0, 1.0, 1.0, 4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e-300, 1e300])
@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_equal_values_have_an_interval_of_width_zero(value, n):
    assert interval([value] * n) == Interval(value, value, value, n)


def test_a_single_value_has_no_interval():
    assert interval([2]) == Interval(2.0, None, None, 1)
    assert verdict(interval([2]), "above") == "inconclusive"


def test_values_may_be_a_tuple_of_numpy_numbers():
    assert interval(tuple(np.array([1.0, 3.0]))).mean == 2.0


def test_coverage():
    """Of 2,000 intervals from 5 normal values, 95 % hold the true mean, within four standard errors."""
    draws = np.random.default_rng(1).normal(0.3, 2.0, (2000, 5))
    found = [interval(row.tolist()) for row in draws]
    held = np.mean([i.low <= 0.3 <= i.high for i in found])
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_without_a_difference_two_in_forty_verdicts_are_wrong_and_half_of_those_confirm():
    draws = np.random.default_rng(2).normal(0.0, 1.0, (2000, 2, 5))
    verdicts = [verdict(paired(a.tolist(), b.tolist()), "above") for a, b in draws]
    error = 4 * math.sqrt(0.025 * 0.975 / 2000)
    assert abs(verdicts.count("confirmed") / 2000 - 0.025) < error
    assert abs(verdicts.count("refuted") / 2000 - 0.025) < error


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.3, "confirmed", "refuted"),
        (-0.3, -0.1, "refuted", "confirmed"),
        (-0.1, 0.3, "inconclusive", "inconclusive"),
        (0.0, 0.3, "inconclusive", "inconclusive"),
        (-0.3, 0.0, "inconclusive", "inconclusive"),
        (0.0, 0.0, "inconclusive", "inconclusive"),
        (0.2, 0.2, "confirmed", "refuted"),
        (5e-324, 1.0, "confirmed", "refuted"),
        (None, None, "inconclusive", "inconclusive"),
    ],
)
def test_verdict(low, high, above, below):
    difference = Interval(0.2, low, high, 5)
    assert verdict(difference, "above") == above
    assert verdict(difference, "below") == below


@pytest.mark.parametrize(("mean", "above", "below"), [(0.1, True, False), (-0.1, False, True), (0.0, False, False)])
def test_a_requirement_holds_by_the_mean_alone(mean, above, below):
    for low, high in ((mean - 1, mean + 1), (mean, mean), (None, None)):
        found = Interval(mean, low, high, 5)
        assert holds(found, "above") is above
        assert holds(found, "below") is below


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([]), "values: expected at least one number, got none"),
        (lambda: interval([1.0, math.nan]), "values: expected a number that is finite, got nan"),
        (lambda: interval([1.0, math.inf]), "values: expected a number that is finite, got inf"),
        (lambda: interval([1.0, 2.0], 95), "confidence: expected a number above 0 and below 1, got 95"),
        (lambda: paired([1.0], [1.0, 2.0]), "a and b: expected as many values, got 1 and 2"),
        (lambda: interval(["1"]), "values: expected a number that is finite, got '1'"),
        (lambda: interval(5), r"values: expected a sequence of numbers, such as \(5,\), got 5"),
        (lambda: verdict(Interval(0.1, math.nan, 0.3, 3), "above"), "difference: expected a number"),
        (lambda: paired([1.0], [math.nan]), "b: expected a number that is finite, got nan"),
        (lambda: verdict(Interval(1.0, 0.5, 1.5, 3), "abov"), "did you mean 'above'"),
        (lambda: holds(Interval(1.0, 0.5, 1.5, 3), "abov"), "did you mean 'above'"),
        (lambda: holds(Interval(math.nan, 0.5, 1.5, 3), "above"), "difference: expected a number"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
