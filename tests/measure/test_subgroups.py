"""MacroStd: values by hand, limits, what it must not depend on, what chance gives, and the metric over batches."""

import itertools
import math
import pickle
import warnings

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.measure.subgroups import SubgroupAccuracy, macro_std, macro_std_null

pytestmark = pytest.mark.filterwarnings("ignore:MacroStd. .* single items")


def items(*cells):
    """Predictions, labels and groups of cells (class, group, right, wrong)."""
    rows = [(label, label, group) for label, group, right, _ in cells for _ in range(right)]
    rows += [(label + 1, label, group) for label, group, _, wrong in cells for _ in range(wrong)]
    return torch.tensor(rows).T.unbind()


def drawn(rng, n=300, classes=4, groups=3):
    labels, found = torch.randint(classes, (n,), generator=rng), torch.randint(groups, (n,), generator=rng)
    wrong = torch.rand(n, generator=rng) < 0.2 + 0.15 * found
    return torch.where(wrong, labels + 1, labels), labels, found


def by_definition(predicted, labels, groups, macro, weights, ddof):
    """Loops over classes and groups."""
    variances = []
    for label in labels.unique():
        here = labels == label
        cells = [here & (groups == group) for group in groups[here].unique()]
        if len(cells) < 2:
            variances.append(0.0)
            continue
        w = [float(cell.sum()) if weights == "count" else 1.0 for cell in cells]
        a = [float((predicted == labels)[cell].double().mean()) for cell in cells]
        mean = sum(x * y for x, y in zip(w, a, strict=True)) / sum(w)
        variances.append(sum(x * (y - mean) ** 2 for x, y in zip(w, a, strict=True)) / (sum(w) - ddof))
    if macro == "mean":
        return sum(map(math.sqrt, variances)) / len(variances)
    return math.sqrt(sum(variances) / len(variances))


@pytest.mark.parametrize(("macro", "weights", "ddof"), itertools.product(("rms", "mean"), ("count", "uniform"), (0, 1)))
def test_it_is_what_its_definition_says(rng, macro, weights, ddof):
    rows = drawn(rng)
    expected = by_definition(*rows, macro, weights, ddof)
    assert macro_std(*rows, macro, weights, ddof).value == pytest.approx(expected, rel=1e-12)


def test_equal_accuracies_within_each_class_are_exactly_0_whatever_the_weights():
    rows = items((0, 0, 1, 2), (0, 1, 3, 6), (0, 2, 7, 14), (1, 0, 2, 0), (1, 3, 5, 0))
    for weights in ("count", "uniform"):
        assert macro_std(*rows, weights=weights).value == 0


def test_one_half_right_and_the_other_wrong_is_a_half_by_its_divisor():
    rows = items((0, 0, 4, 0), (0, 1, 0, 4), (1, 0, 0, 4), (1, 1, 4, 0))
    assert macro_std(*rows, ddof=0).value == 0.5
    assert macro_std(*rows).value == pytest.approx(math.sqrt(8 / 7) / 2)


def test_a_class_of_one_subgroup_counts_as_0_and_an_absent_one_does_not_count():
    two = items((0, 0, 4, 0), (0, 1, 0, 4))
    three = items((0, 0, 4, 0), (0, 1, 0, 4), (7, 0, 3, 1))
    found = macro_std(*three, ddof=0)
    assert found.value == pytest.approx(macro_std(*two, ddof=0).value / math.sqrt(2))
    assert found.classes.tolist() == [0, 7]
    assert found.deviations.tolist() == [0.5, 0]


def test_splitting_a_subgroup_into_two_of_the_same_accuracy_changes_nothing_with_counts():
    whole = items((0, 0, 4, 4), (0, 1, 6, 2))
    split = items((0, 0, 1, 1), (0, 2, 3, 3), (0, 1, 6, 2))
    assert macro_std(*whole).value == pytest.approx(macro_std(*split).value, rel=1e-12)
    assert macro_std(*whole, weights="uniform").value != pytest.approx(macro_std(*split, weights="uniform").value)


def test_the_order_of_rows_and_the_numbers_of_groups_do_not_matter(rng):
    predicted, labels, groups = drawn(rng)
    found = macro_std(predicted, labels, groups)
    order = torch.randperm(len(labels), generator=rng)
    again = macro_std(predicted[order], labels[order], groups[order])
    renamed = macro_std(predicted, labels, torch.where(labels == 1, 10 - groups, groups))
    for other in (again, renamed):
        assert other.value == pytest.approx(found.value, rel=1e-12)
        assert (other.worst, other.gap) == (found.worst, found.gap)


def test_the_mean_over_classes_is_at_most_the_root_mean_square_and_equal_where_all_are_alike(rng):
    rows = drawn(rng)
    assert macro_std(*rows, macro="mean").value < macro_std(*rows).value
    alike = items((0, 0, 3, 1), (0, 1, 1, 3), (1, 0, 1, 3), (1, 1, 3, 1))
    assert macro_std(*alike, macro="mean").value == pytest.approx(macro_std(*alike).value, rel=1e-12)


def test_easy_and_hard_classes_enter_the_pooled_standard_deviation_alone():
    rows = items((0, 0, 4, 0), (0, 1, 4, 0), (1, 0, 0, 4), (1, 1, 0, 4))
    found = macro_std(*rows, ddof=0)
    assert (found.value, found.weighted_std) == (0, 0.5)


def test_counts_accuracies_and_what_has_no_group_are_there():
    predicted, labels, groups = items((0, 0, 3, 1), (0, 1, 1, 1), (2, 1, 2, 0))
    groups = torch.where((labels == 2) & (torch.arange(len(labels)) == 4), -1, groups)
    labels[0] = -1
    found = macro_std(predicted, labels, groups)
    assert found.subgroups.tolist() == [[0, 0], [0, 1], [2, 1]]
    assert (found.counts.tolist(), found.right.tolist()) == ([3, 2, 1], [2, 1, 1])
    assert (found.worst, found.gap, found.dropped) == (0.5, 0.5, 1)


def test_what_is_not_defined_is_none_and_a_warning_names_it():
    one = items((0, 0, 3, 1), (1, 1, 2, 0))
    with pytest.warns(UserWarning, match="MacroStd is not defined: no class has items of two groups"):
        found = macro_std(*one)
    assert found.value is None
    assert found.weighted_std > 0
    with pytest.warns(UserWarning, match="MacroStd is not defined"):
        assert macro_std_null(*one) is None
    none = torch.full_like(one[2], -1)
    with pytest.warns(UserWarning, match="MacroStd is not defined"):
        found = macro_std(one[0], one[1], none)
    assert (found.value, found.weighted_std, found.worst, found.gap, found.dropped) == (None, None, None, None, 6)


@pytest.mark.filterwarnings("default")
def test_subgroups_of_one_item_are_a_warning():
    with pytest.warns(UserWarning, match="MacroStd: 2 of 3 subgroups are single items, whose accuracy is 0 or 1"):
        macro_std(*items((0, 0, 3, 1), (0, 1, 1, 0), (1, 1, 0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        macro_std(*items((0, 0, 3, 1), (0, 1, 1, 1)))


def test_the_mean_of_the_exchanges_is_that_of_its_closed_form():
    """Of one class the mean of the squares is a (1 - a) (M - 1) n / (n - 1)^2; here by many exchanges."""
    rows = items((0, 0, 9, 3), (0, 1, 5, 5), (0, 2, 2, 6))
    null = macro_std_null(*rows, permutations=20_000)
    a, n = 16 / 30, 30
    expected = a * (1 - a) * 2 * n / (n - 1) ** 2
    spread = null.high - null.low
    assert null.mean**2 < expected < null.mean**2 + spread**2 / 8  # a mean of squares is above the square of the mean
    assert null.low < null.mean < null.high


def test_the_exchanges_are_those_of_groups_among_the_items_of_a_class():
    """Of two items of either group, both right ones fall into one group by 1/3: then it is 1/2, else 0."""
    rows = items((0, 0, 2, 0), (0, 1, 0, 2), (1, 0, 2, 0), (1, 1, 2, 0))
    null = macro_std_null(*rows, ddof=0, permutations=20_000)
    assert null.p == pytest.approx(1 / 3, abs=0.015)
    assert null.mean == pytest.approx(math.sqrt(1 / 8) / 3, abs=0.006)
    assert (null.low, null.high) == (0, pytest.approx(math.sqrt(1 / 8)))


def test_chance_explains_groups_without_meaning_and_not_those_that_decide(rng):
    predicted, labels, groups = drawn(rng, n=2000)
    assert macro_std_null(predicted, labels, groups).p < 0.01
    shuffled = groups[torch.randperm(2000, generator=rng)]
    assert 0.01 < macro_std_null(predicted, labels, shuffled).p < 0.99
    assert macro_std_null(predicted, labels, groups, seed=3) == macro_std_null(predicted, labels, groups, seed=3)


def test_a_classifier_of_grounds_is_less_even_than_one_of_shapes(rng):
    """The ground fits the class for 4 of 5 images; whoever goes by it alone is wrong on all the others."""
    labels = torch.randint(5, (1000,), generator=rng)
    ground = torch.where(torch.rand(1000, generator=rng) < 0.8, labels, torch.randint(5, (1000,), generator=rng))
    shape = torch.where(torch.rand(1000, generator=rng) < 0.8, labels, labels + 1)
    assert macro_std(ground, labels, ground).value > 5 * macro_std(shape, labels, ground).value


def test_the_metric_of_batches_and_of_merged_states_is_that_of_all_rows(rng):
    rows = drawn(rng)
    groups = torch.where(torch.rand(300, generator=rng) < 0.1, -1, rows[2])
    expected = macro_std(rows[0], rows[1], groups)
    whole, other = (SubgroupAccuracy(classes=6, groups=4) for _ in range(2))
    for metric, part in ((whole, slice(0, 70)), (whole, slice(70, 180)), (other, slice(180, 300))):
        metric.update(rows[0][part], rows[1][part], groups[part])
    for name in ("counts", "right", "dropped"):
        assert getattr(whole, name).dtype == torch.int64
        setattr(whole, name, getattr(whole, name) + getattr(other, name))
    found = pickle.loads(pickle.dumps(whole)).found()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    computed = whole.compute()
    assert computed["macro_std"] == expected.value
    assert computed["weighted_std"] == expected.weighted_std


def test_the_metric_takes_scores_and_is_empty_at_first():
    metric = SubgroupAccuracy(classes=2, groups=2, ddof=0)
    with pytest.warns(UserWarning, match="not defined"):
        assert metric.found().value is None
    metric.update(torch.eye(2)[[0, 0, 1, 1]], torch.zeros(4, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    assert metric.compute()["macro_std"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predicted": torch.zeros(3)}, "predicted: expected integers"),
        ({"labels": torch.tensor([0, -2])}, "labels: expected a class from 0, or -1 for none, got -2"),
        ({"groups": torch.tensor([0, 1, 2])}, "groups: expected one integer for each of the 2 rows"),
        ({"groups": torch.tensor([0, -2])}, "groups: expected a class from 0, or -1 for none, got -2"),
        ({"macro": "max"}, "macro"),
        ({"weights": "none"}, "weights"),
        ({"ddof": 2}, "ddof: expected a whole number of at least 0 and of at most 1, got 2"),
    ],
)
def test_what_is_refused(plain_shapes, changes, message):
    good = {name: torch.tensor([0, 1]) for name in ("predicted", "labels", "groups")}
    for function in (macro_std, macro_std_null):
        with pytest.raises(InputError, match=message):
            function(**{**good, **changes})


def test_what_the_metric_refuses_it_does_not_keep(plain_shapes):
    metric = SubgroupAccuracy(classes=2, groups=2)
    rows = torch.tensor([0, 1])
    with pytest.raises(InputError, match="groups: expected integers from -1 to 1, got 2"):
        metric.update(rows, rows, torch.tensor([0, 2]))
    with pytest.raises(InputError, match="labels: expected integers from -1 to 1, got 2"):
        metric.update(rows, torch.tensor([0, 2]), rows)
    assert not metric.counts.any()
    with pytest.raises(InputError, match="classes"):
        SubgroupAccuracy(classes=0, groups=2)
