"""Figures over seeds as results and records keep them: the interval over seeds and test items, and what it could show.

Comparisons and claims use the same form; `summarise` makes it of a whole comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterpoise.commands.arms import Arm, Rows
from counterpoise.engine.items import Items, read_items, shares
from counterpoise.engine.pool import Key
from counterpoise.measure import interval
from counterpoise.measure.intervals import (
    Estimate,
    detectable,
    estimate,
    holm,
    interval_of,
    p_value,
    seeds_needed,
)
from counterpoise.registry import catalogue
from counterpoise.training.run import Metric, Result

POINT = 0.01
"""One point, of a metric that is a share; of another it is 1 of its own units."""
Terms = Sequence[tuple[float, Mapping[str, object]]]
"""Results of runs with one seed, each with the weight of its figure in a sum."""


class ItemsOf:
    """The test items of runs, each file read once.

    Args:
        folder: that the runs' folders lie in; `None` where there is none, and nothing is known of items.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.known: dict[str, Items | None] = {}

    def __call__(self, result: Mapping[str, object]) -> Items | None:
        """Of a run by its result."""
        if self.folder is None or "folder" not in result:
            return None
        name = str(result["folder"])
        if name not in self.known:
            self.known[name] = read_items(self.folder / name)
        return self.known[name]


def figure(values: Sequence[float], seeds: Sequence[Terms], metric: str, items: ItemsOf) -> Estimate:
    """The estimate of a weighted sum of runs' figures over seeds and test items.

    Args:
        values: of each seed the sum.
        seeds: what it is the sum of.
        metric: whose figures.
        items: of the runs.
    """
    weighed = [[(weight, items(result)) for weight, result in terms] for terms in seeds]
    return estimate(values, shares(weighed, metric))


def summary(found: Estimate) -> dict[str, Any]:
    """A mean with its interval: the fields of `Interval`, and `items`.

    `items` is the number of test items whose sampling the interval covers, `None` where it covers the seeds alone.
    """
    return {**asdict(interval_of(found)), "items": found.items}


def difference(found: Estimate, unit: float | None) -> dict[str, Any]:
    """As `summary`, with what a verdict on it needs, where there are several seeds.

    Args:
        found: of a difference, or a figure whose distance from 0 counts.
        unit: the difference that more seeds may be needed for; `None` where none is known.

    Returns:
        Besides those of `summary`: `p`; `detectable`, the difference that would have been shown with 80 % power; and,
        with a unit, `unit` and `needed`, the number of seeds that would show a difference of one unit with this power,
        `None` where no number would.
    """
    if found.n < 2:
        return summary(found)
    shown = {**summary(found), "p": p_value(found), "detectable": detectable(found)}
    return shown if unit is None else {**shown, "unit": unit, "needed": seeds_needed(unit, found)}


def unit_of(metric: Metric | None) -> float | None:
    """One point of a metric that is a share, 1 of another; `None` without a metric."""
    if metric is None:
        return None
    return POINT if metric.percent else 1.0


def summarise(
    rows: Rows,
    results: dict[Key, Result],
    metrics: Mapping[str, Metric] | None = None,
    folder: Path | None = None,
    main: str | None = None,
) -> dict[str, Any]:
    """The means and intervals of every metric for each row, and the paired differences to the baseline.

    Args:
        rows: of the comparison.
        results: of all runs.
        metrics: of the task, which say what one point is.
        folder: that the runs' folders lie in, which hold what each test item adds to the metrics.
        main: the metric by which the best method and the best reference are chosen; without one they are not.

    Returns:
        `methods`, of each row its `runs`, its `summary` and its `difference` to the baseline.
        Each difference has `adjusted` besides: its p-value by Holm's adjustment over all rows, of that metric.
        `references`, the same of what costs no training, without differences; `learnt`, how far the best method is
        above the best of them; and `incomplete`, what a stop has left out.
    """
    items, metrics = ItemsOf(folder), metrics or {}
    by_label: dict[str, list[Result]] = {arm.label: [] for arm in (*rows.arms, *rows.references)}
    for (label, _), result in sorted(results.items(), key=lambda item: item[0][1]):
        by_label[label].append(result)
    methods = [_row(arm, by_label[arm.label], items) for arm in rows.arms]
    for row in methods:
        if row["label"] != rows.baseline:
            row["difference"] = differences(row["runs"], by_label[rows.baseline], metrics, items)
    adjust([row["difference"] for row in methods if row["difference"]])
    references = [_row(arm, by_label[arm.label], items) for arm in rows.references]
    finished = sum(result["status"] == "done" for result in results.values())
    stopped = any(result["status"] == "stopped" for result in results.values())
    incomplete = f"Incomplete: stopped when {finished} of {len(results)} runs were done." if stopped else None
    learnt = _learnt(methods, references, metrics, items, main) if main else None
    return {"methods": methods, "references": references, "learnt": learnt, "incomplete": incomplete}


def _row(arm: Arm, runs: list[Result], items: ItemsOf) -> dict[str, Any]:
    """What results.json has of a row, but for its difference to the baseline."""
    paper, done = catalogue.find(arm.method), [r for r in runs if r["status"] == "done"]
    costs = {"seconds": [r["seconds"] for r in done], "memory_mb": [r["memory_mb"] for r in done]}
    return {
        "label": arm.label,
        "slug": arm.method,
        "title": paper.title,
        "labels": paper.labels,
        "arguments": dict(arm.arguments),
        "runs": runs,
        "summary": {
            **means(done, items),
            **{name: asdict(interval(some)) for name, some in costs.items() if some},
        },
        "difference": None,
    }


def _learnt(
    methods: Sequence[dict[str, Any]],
    references: Sequence[dict[str, Any]],
    metrics: Mapping[str, Metric],
    items: ItemsOf,
    main: str,
) -> dict[str, Any] | None:
    """How far the best method is above the best reference by the main metric; `None` where either has no figure."""
    best = [_best(some, main, metrics[main]) for some in (methods, references)]
    if None in best:
        return None
    method, reference = best
    found = differences(method["runs"], reference["runs"], metrics, items).get(main)
    return found and {"method": method["label"], "reference": reference["label"], **found}


def _best(rows: Sequence[dict[str, Any]], name: str, metric: Metric) -> Any:
    """The row with the best mean of a metric; `None` without one."""
    there = [row for row in rows if name in row["summary"]]
    pick = max if metric.better == "higher" else min
    return pick(there, key=lambda row: row["summary"][name]["mean"]) if there else None


def means(done: Sequence[Result], items: ItemsOf) -> dict[str, Any]:
    """For every metric the mean over the runs that have it, with its interval."""
    found = {}
    for name in dict.fromkeys(name for r in done for name in r["metrics"]):
        runs = [r for r in done if name in r["metrics"]]
        values = [r["metrics"][name] for r in runs]
        found[name] = summary(figure(values, [[(1, r)] for r in runs], name, items))
    return found


def differences(
    runs: Sequence[Result],
    baseline: Sequence[Result],
    metrics: Mapping[str, Metric] | None = None,
    items: ItemsOf | None = None,
) -> dict[str, Any]:
    """For every metric the interval of the differences, over the seeds that both have done.

    Args:
        runs: of a method.
        baseline: of the baseline.
        metrics: of the task, which say what one point is.
        items: what each test item adds to the metrics of a run.
    """
    items, metrics = items or ItemsOf(), metrics or {}
    theirs = {r["seed"]: r for r in baseline if r["status"] == "done"}
    both = [(r, theirs[r["seed"]]) for r in runs if r["status"] == "done" and r["seed"] in theirs]
    found = {}
    for name in dict.fromkeys(name for mine, _ in both for name in mine["metrics"]):
        pairs = [(mine, its) for mine, its in both if name in mine["metrics"] and name in its["metrics"]]
        if pairs:
            values = [mine["metrics"][name] - its["metrics"][name] for mine, its in pairs]
            of_seeds = [[(1, mine), (-1, its)] for mine, its in pairs]
            found[name] = difference(figure(values, of_seeds, name, items), unit_of(metrics.get(name)))
    return found


def adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add to the differences of all rows their p-values by Holm's adjustment: for each metric, over the rows.

    Args:
        rows: of each method its difference on every metric, where several seeds give it a p-value, `p`.
    """
    for name in dict.fromkeys(name for row in rows for name in row):
        found = [row[name] for row in rows if "p" in row.get(name, {})]
        for one, p in zip(found, holm([one["p"] for one in found]), strict=True):
            one["adjusted"] = p
