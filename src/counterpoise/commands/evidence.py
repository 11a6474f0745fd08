"""Figures over seeds as results and records keep them: the interval over seeds and test items, and what it could show.

Comparisons and claims use the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterpoise.engine.items import Items, read_items, shares
from counterpoise.measure.intervals import (
    Estimate,
    detectable,
    estimate,
    interval_of,
    p_value,
    seeds_needed,
)
from counterpoise.training.run import Metric

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
