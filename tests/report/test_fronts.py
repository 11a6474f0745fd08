"""Who dominates whom, in numbers and in words."""

import random

import pytest

from counterpoise.report import fronts

METRICS = {
    "accuracy": {"title": "accuracy", "better": "higher", "percent": True},
    "error": {"title": "error", "better": "lower", "percent": False},
}


def entry(mean, half=None):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "n": 3}


def results(front=("accuracy", "error"), **means):
    methods = [
        {"label": label, "summary": {name: entry(*value) for name, value in zip(METRICS, values, strict=True) if value}}
        for label, values in means.items()
    ]
    return {"metrics": METRICS, "front": list(front), "methods": methods}


def test_the_direction_of_each_metric_counts():
    means = {"a": (1.0, 1.0), "b": (2.0, 2.0)}
    assert fronts.dominators(means, ("higher", "higher")) == {"a": ["b"], "b": []}
    assert fronts.dominators(means, ("lower", "lower")) == {"a": [], "b": ["a"]}
    assert fronts.dominators(means, ("higher", "lower")) == {"a": [], "b": []}


def test_a_tie_in_one_metric_is_decided_by_the_other_and_equal_methods_dominate_nobody():
    assert fronts.dominators({"a": (1.0, 1.0), "b": (1.0, 2.0)}, ("higher", "higher")) == {"a": ["b"], "b": []}
    assert fronts.dominators({"a": (1.0, 1.0), "b": (1.0, 1.0)}, ("higher", "higher")) == {"a": [], "b": []}


def test_some_method_is_always_undominated_and_each_dominated_one_has_a_dominator_on_the_front():
    draw = random.Random(0)
    for _ in range(200):
        means = {str(k): (draw.randrange(5), draw.randrange(5)) for k in range(draw.randrange(1, 8))}
        over = fronts.dominators(means, (draw.choice(["higher", "lower"]), draw.choice(["higher", "lower"])))
        first = {label for label, others in over.items() if not others}
        assert first
        assert all(first & set(others) for others in over.values() if others)


def test_the_sentence_names_the_undominated_and_who_dominates_the_others():
    found = fronts.front(results(a=((0.9,), (0.3,)), b=((0.8,), (0.2,)), c=((0.8,), (0.3,)), d=((0.7,), (0.9,))))
    assert found["sentence"] == (
        "On accuracy and error, no other method dominates a or b. "
        "c is dominated by a and b; d is dominated by a, b and c."
    )
    assert found["legend"] == [(0, "a", ""), (1, "b", ""), (2, "c", "a and b"), (3, "d", "a, b and c")]
    assert found["title"] == "error against accuracy"
    assert found["sentence"] in found["chart"], "the chart's alternative text"


def test_percentages_are_scaled_and_intervals_drawn_where_there_are_any():
    chart = fronts.front(results(a=((0.9, 0.01), (0.3, 0.1)), b=((0.8, 0.01), (0.2,))))["chart"]
    assert chart.count("whisker") == 3
    assert ">80 %<" in chart
    assert ">0.8 %<" not in chart


def test_a_method_without_one_of_the_means_is_left_out_by_name():
    nan = float("nan")
    found = fronts.front(results(a=((0.9,), (0.3,)), b=((0.95,), None), c=((nan,), (nan,))))
    assert found["left_out"] == [
        "b is not drawn, since it has no error.",
        "c is not drawn, since it has no accuracy and error.",
    ]
    assert found["sentence"] == "Only a has both accuracy and error, so no method can dominate another."


@pytest.mark.parametrize("content", [results(front=(), a=((0.9,), (0.3,))), results(a=(None, None))])
def test_there_is_no_front_where_none_is_declared_or_no_method_has_both_metrics(content):
    assert fronts.front(content) is None


def test_a_method_that_never_finished_has_no_summary():
    content = results(a=((0.9,), (0.3,)))
    content["methods"].append({"label": "b", "summary": None})
    assert fronts.front(content)["left_out"] == ["b is not drawn, since it has no accuracy and error."]
