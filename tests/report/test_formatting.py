"""The one sentence of the answer, clause by clause: never more than the intervals allow."""

import pytest

from counterpoise.report import answer
from counterpoise.report.formatting import column_digits, finer, number, spread, verdict

ACCURACY = {"title": "kNN accuracy", "better": "higher", "percent": True}
ALIGNMENT = {"title": "Alignment", "better": "lower", "percent": False}


def entry(mean, low=None, high=None, n=3):
    return {"mean": mean, "low": low, "high": high, "n": n}


def method(label, difference=None, finished=True):
    runs = [{"seed": 0, "status": "done" if finished else "failed"}]
    return {"label": label, "runs": runs, "summary": {}, "difference": difference and {"m": difference}}


def said(*others, metric=ACCURACY, baseline=None):
    methods = [baseline or method("simclr"), *others]
    return answer({"main": "m", "metrics": {"m": metric}, "baseline": "simclr", "methods": methods})


def test_better():
    assert said(method("dcl", entry(0.021, 0.008, 0.034))) == (
        "dcl is better than simclr on kNN accuracy by 2.1 points (95 % interval 0.8 to 3.4, 3 seeds)."
    )


def test_worse_is_reported_as_a_positive_amount():
    assert said(method("dcl", entry(-0.021, -0.034, -0.008))) == (
        "dcl is worse than simclr on kNN accuracy by 2.1 points (95 % interval 0.8 to 3.4, 3 seeds)."
    )


def test_lower_is_better():
    assert said(method("dcl", entry(-0.2, -0.3, -0.1)), metric=ALIGNMENT) == (
        "dcl is better than simclr on Alignment by 0.200 (95 % interval 0.100 to 0.300, 3 seeds)."
    )


def test_an_interval_with_zero_in_it_is_no_difference():
    assert said(method("dcl", entry(0.004, -0.008, 0.016))) == (
        "dcl does not differ from simclr on kNN accuracy beyond chance "
        "(95 % interval of the difference −0.8 to 1.6 points, 3 seeds)."
    )


def test_an_interval_that_touches_zero_is_no_difference():
    assert "does not differ" in said(method("dcl", entry(0.01, 0.0, 0.02)))


def test_no_method_differs():
    unclear = entry(0.001, -0.01, 0.012)
    assert said(method("dcl", unclear), method("cacr", {**unclear, "n": 2})) == (
        "No method differs from simclr on kNN accuracy beyond chance "
        "(the 95 % intervals of the differences hold zero, 2 to 3 seeds)."
    )


POWER = {"detectable": 0.023, "unit": 0.01, "needed": 9}


def test_an_undecided_difference_says_what_would_have_been_shown():
    unclear = {**entry(0.004, -0.008, 0.016), "adjusted": 0.4, **POWER}
    assert said(method("dcl", unclear)) == (
        "dcl does not differ from simclr on kNN accuracy beyond chance (95 % interval of the difference −0.8 to 1.6 "
        "points, 3 seeds, 80 % power for a difference of 2.3 points, 1 point needs 9 seeds)."
    )
    never = {**unclear, "detectable": 0.031, "needed": None}
    assert said(method("dcl", unclear), method("moco", never)) == (
        "No method differs from simclr on kNN accuracy beyond chance (the 95 % intervals of the differences hold zero, "
        "3 seeds; dcl: 80 % power for a difference of 2.3 points, 1 point needs 9 seeds; moco: 80 % power for a "
        "difference of 3.1 points, no number of seeds shows 1 point on these test items)."
    )
    rough = {**entry(0.1, -0.2, 0.4), "adjusted": 0.4, "detectable": 0.5, "unit": 1.0, "needed": 3}
    assert "80 % power for a difference of 0.500, 1 needs 3 seeds" in said(method("dcl", rough), metric=ALIGNMENT)


def test_holms_adjustment_decides_though_an_interval_leaves_zero_out():
    found = {**entry(0.021, 0.001, 0.041), "p": 0.04, **POWER}
    assert "dcl is better" in said(method("dcl", {**found, "adjusted": 0.04}))
    assert said(method("dcl", {**found, "adjusted": 0.12})) == (
        "dcl does not differ from simclr on kNN accuracy beyond chance (95 % interval of the difference 0.1 to 4.1 "
        "points, 3 seeds, p = 0.12 by Holm's adjustment, 80 % power for a difference of 2.3 points, 1 point needs 9 "
        "seeds)."
    )
    both = said(method("dcl", {**found, "adjusted": 0.12}), method("moco", {**found, "adjusted": 0.12}))
    assert "beyond chance (by Holm's adjustment of their p-values, 3 seeds; dcl: 80 % power" in both


def test_several_verdicts_in_one_sentence():
    sentence = said(
        method("cacr", entry(0.001, -0.01, 0.012)),
        method("dcl", entry(0.021, 0.008, 0.034)),
        method("moco", entry(-0.021, -0.034, -0.008)),
        method("supcon", finished=False),
    )
    assert sentence == (
        "dcl is better than simclr on kNN accuracy by 2.1 points (95 % interval 0.8 to 3.4, 3 seeds); "
        "moco is worse by 2.1 points (95 % interval 0.8 to 3.4, 3 seeds); "
        "cacr does not differ beyond chance (95 % interval of the difference −1.0 to 1.2 points, 3 seeds); "
        "supcon failed in every seed."
    )


def test_two_of_three_do_not_differ():
    unclear = entry(0.001, -0.01, 0.012)
    sentence = said(method("a", unclear), method("b", unclear), method("c", entry(0.021, 0.008, 0.034)))
    assert "; a and b do not differ beyond chance (" in sentence


def test_one_seed_decides_nothing():
    assert said(method("dcl", entry(0.021, n=1))) == (
        "One seed: no interval, differences may be chance (kNN accuracy against simclr: dcl +2.1 points)."
    )


def test_only_the_baseline():
    assert said() == "Only simclr was run, so nothing is said here about which method helps."


def test_the_baseline_failed():
    sentence = said(method("dcl"), baseline=method("simclr", finished=False))
    assert sentence == "The baseline simclr did not finish, so the methods cannot be compared with it."


def test_no_common_seed():
    assert said(method("dcl")) == "dcl shares no finished seed with simclr."


def test_a_mean_that_is_not_finite_counts_for_nothing():
    assert said(method("dcl", entry(float("nan"), float("nan"), float("nan")))) == (
        "dcl shares no finished seed with simclr."
    )


def test_a_tiny_but_certain_difference_is_not_written_as_zero():
    assert "by 0.05 points (95 % interval 0.02 to 0.08," in said(method("dcl", entry(0.0005, 0.0002, 0.0008)))
    assert finer(entry(0.0005, 0.0002, 0.0008), ACCURACY, 1) == 2
    assert finer(entry(0.0, -0.0002, 0.0002), ACCURACY, 1) == 1


@pytest.mark.parametrize(
    ("low", "high", "metric", "expected"),
    [
        (0.1, 0.2, ACCURACY, "better"),
        (-0.2, -0.1, ACCURACY, "worse"),
        (0.1, 0.2, ALIGNMENT, "worse"),
        (-0.2, -0.1, ALIGNMENT, "better"),
        (-0.1, 0.2, ACCURACY, "unclear"),
        (None, None, ACCURACY, "unclear"),
    ],
)
def test_verdict(low, high, metric, expected):
    assert verdict(entry(0.15, low, high), metric) == expected


def test_numbers():
    assert number(-2.345, 1) == "−2.3"
    assert number(0.0, 2, sign=True) == "0.00"
    assert spread(entry(0.8), ACCURACY, 1) == ""
    large = [{"label": "a", "runs": [], "difference": None, "summary": {"m": entry(312.0)}}]
    assert column_digits(large, "m", ALIGNMENT) == 0
    assert column_digits(large, "m", ACCURACY) == 1
