import math

import numpy as np
import pytest
from scipy import stats

from counterpoise.errors import InputError
from counterpoise.measure import Interval, interval, paired, verdict
from counterpoise.measure.intervals import (
    Estimate,
    detectable,
    estimate,
    holds,
    holm,
    interval_of,
    p_value,
    seeds_needed,
    standard_error,
)


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


@pytest.mark.slow
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


def crossed(generator, seeds, items, of_seed, of_item, rest=1.0):
    """Figures of seeds and items: normal effects of both and of each single one around 0."""
    a, b = of_seed * generator.normal(size=(seeds, 1)), of_item * generator.normal(size=items)
    return a + b + rest * generator.normal(size=(seeds, items))


def shares_of(rows, keys=None):
    """Keys and shares of each seed's figures, for items in one order unless other keys are given."""
    keys = [range(len(row)) for row in rows] if keys is None else keys
    return [(np.array(own), (row - row.mean()) / len(row)) for own, row in zip(keys, rows, strict=True)]


def mean_squares(table):
    """Variances of the means of rows and columns, and the residual mean square."""
    seeds, items = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return table.mean(1).var(ddof=1), table.mean(0).var(ddof=1), (rest**2).sum() / ((seeds - 1) * (items - 1))


def test_without_items_the_estimate_is_scipys_paired_t_test():
    generator = np.random.default_rng(3)
    a, b = generator.normal(1, 1, 6), generator.normal(0, 1, 6)
    found, expected = estimate((a - b).tolist()), stats.ttest_rel(a, b)
    assert p_value(found) == pytest.approx(expected.pvalue)
    given = interval_of(found)
    assert (given.low, given.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert standard_error(found) == pytest.approx((stats.sem(a - b), 5))


def test_items_that_all_seeds_share_add_their_variance_by_hand():
    """Two seeds, three items: d = [[1, 2, 6], [3, 2, 4]]; means of seeds 3 and 3, of items 2, 2 and 5."""
    table = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])
    found = estimate(table.mean(1).tolist(), shares_of(table))
    # items: variance 3 of the means; residuals ±1, 0, ∓1 give a mean square of 4 / 2 = 2
    assert (found.deviation, found.items) == (0.0, 3)
    assert found.shared == pytest.approx(3 / 3 - 2 / (2 * 3))
    assert found.rest == pytest.approx(2 / 3)
    error, freedom = standard_error(found)
    assert error**2 == pytest.approx(1.0)  # 0 + 1 - 1/3 is below the items' own part, which is 1
    assert freedom == pytest.approx(1 / (1 / 2 + (1 / 3) ** 2 / 2))


def test_the_variance_is_that_of_two_way_random_effects():
    table = crossed(np.random.default_rng(4), 4, 30, 1.0, 1.0)
    of_seeds, of_items, rest = mean_squares(table)
    found = estimate(table.mean(1).tolist(), shares_of(table))
    error, freedom = standard_error(found)
    parts = of_seeds / 4, of_items / 30, rest / 120
    variance = parts[0] + parts[1] - parts[2]
    assert error**2 == pytest.approx(variance)
    assert freedom == pytest.approx(variance**2 / sum(v**2 / df for v, df in zip(parts, (3, 29, 87), strict=True)))
    order = np.random.default_rng(5).permutation(30)
    keys = [order if seed % 2 else np.arange(30) for seed in range(4)]
    mixed = [row[own] for row, own in zip(table, keys, strict=True)]
    assert estimate(table.mean(1).tolist(), shares_of(mixed, keys)) == pytest.approx(found)


def test_seeds_with_items_of_their_own_have_students_interval():
    table = crossed(np.random.default_rng(6), 3, 20, 1.0, 1.0)
    own = shares_of(table, [range(20 * seed, 20 * (seed + 1)) for seed in range(3)])
    found = estimate(table.mean(1).tolist(), own)
    assert (found.items, found.shared) == (60, 0.0)
    assert interval_of(found) == interval(table.mean(1).tolist())


def test_items_that_some_seeds_share_count_by_hand():
    """Seeds of two items each, of which the second of the one is the first of the other."""
    rows = np.array([[1.0, 3.0], [2.0, 6.0]])
    found = estimate(rows.mean(1).tolist(), shares_of(rows, [[0, 1], [1, 2]]))
    # shares -1/2, 1/2 and -1, 1: the product of the shared item is -1/2, in two orders over 2 · 1 pairs, times 2
    assert (found.items, found.shared) == (3, pytest.approx(-1.0))
    again = estimate(rows.mean(1).tolist(), shares_of(rows, [[0, 1], [2, 1]]))
    assert again.shared == pytest.approx(1.0)


def test_one_item_twice_in_a_seed_is_one_item():
    one = np.array([1, 2]), np.array([0.5, -0.5])
    twice = np.array([1, 1, 2, 2]), np.array([0.25, 0.25, -0.25, -0.25])
    assert estimate([0.0, 1.0], [twice, twice]) == estimate([0.0, 1.0], [one, one])


WORLDS = {"seeds": (0.3, 0.0), "items": (0.0, 1.0), "both": (0.14, 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_the_intervals_hold_the_true_mean_and_those_over_seeds_alone_do_not(world, seeds):
    """Of 2,000 intervals 95 % should; between 93.5 and 98 % do, where the floor of the variance makes it more."""
    generator, repeats = np.random.default_rng(7), 2000
    held = alone = 0
    for _ in range(repeats):
        table = crossed(generator, seeds, 50, *WORLDS[world])
        means = table.mean(1).tolist()
        both, students = interval_of(estimate(means, shares_of(table))), interval(means)
        held += both.low <= 0 <= both.high
        alone += students.low <= 0 <= students.high
    error = 3 * math.sqrt(0.95 * 0.05 / repeats)
    assert 0.95 - error < held / repeats < 0.97 + error
    if world == "seeds":
        assert abs(alone / repeats - 0.95) < error
    else:
        assert alone / repeats < 0.93  # what the seeds share does not show in their spread


@pytest.mark.slow
def test_intervals_hold_the_true_mean_where_each_seed_divides_the_same_data():
    """Each seed tests 20 of 60 items, which are themselves a sample of all."""
    generator, repeats, held, alone = np.random.default_rng(8), 1500, 0, 0
    for _ in range(repeats):
        table = crossed(generator, 6, 60, 0.0, 1.0, 0.5)
        keys = [generator.permutation(60)[:20] for _ in range(6)]
        rows = [row[own] for row, own in zip(table, keys, strict=True)]
        means = [row.mean() for row in rows]
        both, students = interval_of(estimate(means, shares_of(rows, keys))), interval(means)
        held += both.low <= 0 <= both.high
        alone += students.low <= 0 <= students.high
    assert 0.93 < held / repeats < 0.985
    assert alone / repeats < 0.90


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_a_detectable_difference_is_found_four_times_in_five(seeds):
    """By simulation: differences of that size, from the true spread; the interval leaves 0 out for 80 % of them."""
    generator, repeats = np.random.default_rng(seeds), 4000
    unit = Estimate(0.0, seeds, 1.0)
    size = detectable(unit)
    draws = generator.normal(size, 1.0, (repeats, seeds))
    edges = stats.t.ppf(0.975, seeds - 1) * draws.std(1, ddof=1) / math.sqrt(seeds)
    assert abs((draws.mean(1) > edges).mean() - 0.8) < 4 * math.sqrt(0.8 * 0.2 / repeats)


@pytest.mark.parametrize("difference", [0.3, 1.0, 3.0])
def test_the_seeds_needed_are_the_fewest_that_show_a_difference(difference):
    needed = seeds_needed(difference, Estimate(0.0, 5, 1.0))
    assert detectable(Estimate(0.0, needed, 1.0)) <= difference
    assert needed == 2 or detectable(Estimate(0.0, needed - 1, 1.0)) > difference


def test_no_number_of_seeds_shows_what_the_test_items_hide():
    found = Estimate(0.0, 5, 0.01, items=1000, shared=0.01**2, rest=0.001**2)
    limit = detectable(found._replace(deviation=0.0, rest=0.0))  # the seeds' part gone
    assert 0.0279 < limit < 0.0282  # 1.96 and 0.84 standard errors of 0.01
    assert seeds_needed(0.9 * limit, found) is None
    assert seeds_needed(1.1 * limit, found) > 5
    assert seeds_needed(0.9 * limit, found._replace(items=None, shared=0.0, rest=0.0)) == 4


def test_equal_seeds_need_no_more_of_them():
    found = estimate([0.5, 0.5, 0.5])
    assert (p_value(found), detectable(found), seeds_needed(0.01, found)) == (0.0, 0.0, 2)
    assert p_value(estimate([0.0, 0.0])) == 1.0


def test_holm_by_hand():
    """Of four, sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2 and 1, none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_holm_calls_a_false_winner_in_one_table_of_twenty():
    p = stats.norm.sf(np.abs(np.random.default_rng(9).normal(size=(2000, 17)))) * 2
    plain = (p.min(1) < 0.05).mean()
    adjusted = np.mean([min(holm(row.tolist())) < 0.05 for row in p])
    assert plain > 0.5
    assert abs(adjusted - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: p_value(estimate([1.0])), "found: expected an estimate of at least 2 seeds, got 1"),
        (lambda: detectable(estimate([1.0])), "found: expected an estimate of at least 2 seeds, got 1"),
        (lambda: seeds_needed(0.1, estimate([1.0])), "found: expected an estimate of at least 2 seeds, got 1"),
        (lambda: seeds_needed(0.0, estimate([1.0, 2.0])), "difference: expected a number above 0, got 0"),
        (lambda: detectable(estimate([1.0, 2.0]), power=1.0), "power: expected a number above .* and below 1, got 1"),
        (lambda: estimate([1.0, 2.0], [([1], [0.0])]), "items: expected keys and shares of each of 2 seeds, got 1"),
        (lambda: estimate([1.0, 2.0], [([1], [0.0, 1.0])] * 2), "items: expected a key for each share"),
        (lambda: estimate([1.0, 2.0], [([1], [math.nan])] * 2), "items: expected shares that are finite"),
        (lambda: holm([0.1, 1.1]), "p_values: expected a number"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_what_has_no_spread_or_share_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
