"""Two metrics against each other: which methods no other one dominates.

A method is dominated where another one is at least as good on both metrics, by its mean over seeds, and better on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterpoise.report import charts, declarations, formatting

Json = dict[str, Any]
Means = tuple[float, float]


def front(results: Json) -> Json | None:
    """The chart of the two metrics that the task declares, its sentence and its legend.

    Args:
        results: the content of results.json.

    Returns:
        `title`, `chart`, `sentence`, `legend` (for each drawn method: its number, its label, and which methods dominate
        it) and `left_out` (sentences about methods without both means); None where no two metrics are declared or no
        method has both.

    Raises:
        InputError: if `front` does not name two metrics.
    """
    names = declarations.front(results)
    if names is None:
        return None
    metrics = results["metrics"][names[0]], results["metrics"][names[1]]
    means: dict[str, Means] = {}
    left_out: list[str] = []
    for method in results["methods"]:
        found = [formatting.summary(method, name) for name in names]
        if found[0] and found[1]:
            means[method["label"]] = found[0]["mean"], found[1]["mean"]
        else:
            missing = [metric["title"] for metric, value in zip(metrics, found, strict=True) if not value]
            left_out.append(f"{method['label']} is not drawn, since it has no {formatting.listed(missing)}.")
    if not means:
        return None
    over = dominators(means, (metrics[0]["better"], metrics[1]["better"]))
    said = sentence(over, metrics)
    series = {method["label"]: (i, method) for i, method in enumerate(results["methods"])}
    points = [_point(*series[label], names, metrics, bool(over[label])) for label in means]
    return {
        "title": f"{metrics[1]['title']} against {metrics[0]['title']}",
        "chart": charts.front(points, (_axis(metrics[0]), _axis(metrics[1])), said),
        "sentence": said,
        "legend": [(series[label][0], label, formatting.listed(over[label]) if over[label] else "") for label in means],
        "left_out": left_out,
    }


def dominators(means: Mapping[str, Means], better: tuple[str, str]) -> dict[str, list[str]]:
    """For each method the methods that dominate it, none for those on the front.

    Args:
        means: of each method on the first and on the second metric.
        better: which direction is better on each of the two, "higher" or "lower".

    Examples:
        >>> dominators({"a": (0.9, 2.0), "b": (0.8, 1.0), "c": (0.8, 3.0)}, ("higher", "lower"))
        {'a': [], 'b': [], 'c': ['a', 'b']}
        >>> dominators({"a": (0.9, 0.5), "b": (0.9, 0.5)}, ("higher", "higher"))
        {'a': [], 'b': []}
    """
    signs = [1 if direction == "higher" else -1 for direction in better]
    goodness = {label: tuple(sign * mean for sign, mean in zip(signs, at, strict=True)) for label, at in means.items()}
    return {
        label: [
            other
            for other, its in goodness.items()
            if its != mine and all(theirs >= ours for theirs, ours in zip(its, mine, strict=True))
        ]
        for label, mine in goodness.items()
    }


def sentence(over: Mapping[str, list[str]], metrics: tuple[Json, Json]) -> str:
    """The front in words: the methods that none dominates, and for each other one those that dominate it.

    Examples:
        >>> sentence({"a": [], "b": ["a"]}, ({"title": "accuracy"}, {"title": "robust accuracy"}))
        'On accuracy and robust accuracy, no other method dominates a. b is dominated by a.'
        >>> sentence({"a": []}, ({"title": "accuracy"}, {"title": "robust accuracy"}))
        'Only a has both accuracy and robust accuracy, so no method can dominate another.'
    """
    titles = formatting.listed([metric["title"] for metric in metrics])
    first = [label for label, others in over.items() if not others]
    if len(over) == 1:
        return f"Only {first[0]} has both {titles}, so no method can dominate another."
    said = f"On {titles}, no other method dominates {formatting.listed(first, 'or')}."
    behind = [f"{label} is dominated by {formatting.listed(others)}" for label, others in over.items() if others]
    return f"{said} {'; '.join(behind)}." if behind else said


def _axis(metric: Json) -> charts.Axis:
    unit = " %" if metric["percent"] else ""
    return charts.Axis(metric["title"], metric["better"], unit)


def _point(
    series: int, method: Json, names: tuple[str, str], metrics: tuple[Json, Json], dominated: bool
) -> charts.Point:
    means: list[float] = []
    spans: list[tuple[float, float] | None] = []
    for name, metric in zip(names, metrics, strict=True):
        found, scale = formatting.summary(method, name), formatting.scale(metric)
        assert found is not None  # only methods with both means are drawn
        means.append(scale * found["mean"])
        spans.append(None if found["low"] is None else (scale * found["low"], scale * found["high"]))
    return charts.Point(series, method["label"], (means[0], means[1]), (spans[0], spans[1]), dominated)
