"""What the page shows of a comparison, as its task declares it in results.json.

No metric and no task is named here or in any other module of the report. Every key below is optional, so that the
results of an earlier version are shown, too:

- `shown`: names of metrics, or a mapping from names to short headings. They are the first columns of the table after
  `main`; by default the metrics keep their order.
- `curve`: a mapping from quantities of the learning curves' rows to descriptions in the form of `metrics`; one chart
  for each. By default every quantity of the rows but the progress, the time and the loss; see `curve`.
- `curve_over`: the quantity of these rows that counts progress, such as "step"; by default "epoch".
- `families`: a list of {`title`, `over`, `metrics`: a mapping from names of metrics to numbers}; one chart for each. By
  default metrics whose names differ in a number at their end; see `families`.
- `front`: the names of two metrics that the page draws against each other; by default there is no such chart.
- `per_class`: the name of the metric of which the runs' `per_class` holds one value for each class; by default
  "accuracy" in percent.
- `groups`: {`metric`, `titles`, `heading`, `meaning`} of the runs' `groups`, each optional; by default they are groups
  of classes by their number of training images; see `groups`.
- `pictures`: a list of the files with pictures that each run has, "gallery" and "strips"; by default "gallery" where
  the data has classes. `strips.npz` is shown wherever it is found.
- `tuning`: how the arguments of the methods were chosen, where they were; see `tuning.tuning`.
- `items` in `data`: what the data consists of, in the plural; by default "images".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from counterpoise.errors import InputError, unknown
from counterpoise.report import formatting

Json = dict[str, Any]

PICTURES = ("gallery", "strips")
SHARE: Json = {"title": "accuracy", "better": "higher", "percent": True}  # what `per_class` and `groups` held at first
PROGRESS = "epoch"
NOT_COMPARED = ("loss", "seconds")  # of a curve's row: the one has a chart for each method, the other is no result


class Family(NamedTuple):
    """One measure that is taken at several numbers, such as precision at several k.

    Attributes:
        title: of its chart.
        over: what the numbers are.
        metrics: the number at which each of these metrics is taken.
    """

    title: str
    over: str
    metrics: dict[str, float]


class Groups(NamedTuple):
    """How the scores of groups of the test data are shown.

    Attributes:
        metric: what the scores are, in the form of `metrics`.
        heading: of the section.
        meaning: a sentence that says what the groups are; empty where the names suffice.
        titles: of groups by name; a group without one is shown by its name.
    """

    metric: Json
    heading: str
    meaning: str
    titles: Mapping[str, str]


def metrics(results: Json) -> Json:
    """All metrics in the order of the table's columns: the main one, those in `shown`, the others.

    Raises:
        InputError: if `main` or `shown` names a metric that `metrics` lacks.

    Examples:
        >>> list(metrics({"main": "b", "shown": ["d"], "metrics": {"a": {}, "b": {}, "c": {}, "d": {}}}))
        ['b', 'd', 'a', 'c']
    """
    known = results["metrics"]
    first = [results["main"], *(results.get("shown") or ())]
    return {name: _metric(results, name, "shown") for name in first} | known


def curve(results: Json) -> Json:
    """The quantities that the learning curves show, with their descriptions.

    Args:
        results: where `curve` is missing, every quantity of the runs' curves counts that is no number of epochs, no
            time and no loss: first the main metric, then the others in the order of the rows. One that is no metric
            is shown as a plain number under its own name.

    Raises:
        InputError: if `curve` is no mapping to descriptions.

    Examples:
        >>> row = {"epoch": 1, "loss": 2.0, "seconds": 0.5, "mean_rank": 3.0, "top": 0.5}
        >>> old = {"main": "top", "metrics": {"top": {"title": "Top"}}, "methods": [{"runs": [{"curve": [row]}]}]}
        >>> [(name, metric["title"]) for name, metric in curve(old).items()]
        [('top', 'Top'), ('mean_rank', 'mean rank')]
    """
    declared = results.get("curve")
    if declared is not None:
        if not isinstance(declared, Mapping) or not all(_is_metric(value) for value in declared.values()):
            raise InputError(f"results: curve: expected a mapping to descriptions as in metrics, got {declared!r:.80}")
        return dict(declared)
    rows = [row for method in results["methods"] for run in method["runs"] for row in run.get("curve") or ()]
    seen = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in seen if name not in (*NOT_COMPARED, PROGRESS, curve_over(results))]
    names.sort(key=lambda name: name != results["main"])
    plain = {"better": "higher", "percent": False}
    return {name: results["metrics"].get(name) or {"title": name.replace("_", " "), **plain} for name in names}


def curve_over(results: Json) -> str:
    """The quantity of the curves' rows that counts progress."""
    return results.get("curve_over") or PROGRESS


def families(results: Json) -> list[Family]:
    """Measures that are taken at several numbers, each with its metrics in the order of the numbers.

    Args:
        results: where `families` is missing, metrics whose names differ in a number after the last underscore alone
            belong together.

    Raises:
        InputError: if a family names a metric that `metrics` lacks, or lacks a part.

    Examples:
        >>> titled = {f"recall_{k}": {"title": f"Recall@{k}"} for k in (10, 1)}
        >>> families({"main": "recall_1", "metrics": {**titled, "rank": {}}})
        [Family(title='Recall@k', over='k', metrics={'recall_1': 1.0, 'recall_10': 10.0})]
    """
    declared = results.get("families")
    if declared is None:
        declared = _families_by_name(results["metrics"])
    found = []
    for family in declared:
        if not isinstance(family, Mapping) or not {"title", "over", "metrics"} <= family.keys():
            raise InputError(f"results: families: expected title, over and metrics in each, got {family!r:.80}")
        for name in family["metrics"]:
            _metric(results, name, "families")
        ordered = sorted(family["metrics"].items(), key=lambda item: item[1])
        found.append(Family(family["title"], family["over"], {name: float(number) for name, number in ordered}))
    return found


def _families_by_name(known: Json) -> Iterable[Json]:
    members: dict[str, dict[str, int]] = {}
    for name in known:
        if found := re.fullmatch(r"(.+)_(\d+)", name):
            members.setdefault(found[1], {})[name] = int(found[2])
    for numbers in members.values():
        if len(numbers) > 1:
            name, k = next(iter(numbers.items()))
            yield {"title": known[name]["title"].replace(f"@{k}", "@k"), "over": "k", "metrics": numbers}


def front(results: Json) -> tuple[str, str] | None:
    """The two metrics that the page draws against each other; None where the task declares none.

    Raises:
        InputError: if `front` does not name two metrics.

    Examples:
        >>> front({"front": ["a", "b"], "metrics": {"a": {}, "b": {}}})
        ('a', 'b')
        >>> front({"front": ["a", "z"], "metrics": {"a": {}, "b": {}}})
        Traceback (most recent call last):
        counterpoise.errors.InputError: metric of front 'z' is not known. Known: a, b
    """
    declared = results.get("front")
    if not declared:
        return None
    if isinstance(declared, str) or len(declared) != 2 or declared[0] == declared[1]:
        raise InputError(f"results: front: expected the names of two metrics, got {declared!r:.80}")
    for name in declared:
        _metric(results, name, "front")
    return declared[0], declared[1]


def per_class(results: Json) -> Json:
    """What the runs' `per_class` holds, in the form of `metrics`.

    Raises:
        InputError: if `per_class` names a metric that `metrics` lacks.
    """
    name = results.get("per_class")
    return _metric(results, name, "per_class") if name else SHARE


def groups(results: Json) -> Groups:
    """How the runs' `groups` are shown.

    Args:
        results: where `groups` is missing, the groups are those of classes by their number of training items.

    Raises:
        InputError: if `groups` is no mapping, or names a metric that `metrics` lacks.

    Examples:
        >>> found = groups({"metrics": {"iou": {"title": "IoU"}}, "groups": {"metric": "iou", "heading": "Domains"}})
        >>> found.metric, found.heading, found.titles.get("sketch", "sketch")
        ({'title': 'IoU'}, 'Domains', 'sketch')
    """
    declared = results.get("groups")
    if declared is None:
        many = f"The classes with many, some and few training {items(results)}"
        names = {name: f"{name.capitalize()} classes" for run in _runs(results) for name in run.get("groups") or ()}
        meaning = f"{many} are called {formatting.listed(list(names))}." if len(names) > 1 else ""
        return Groups(SHARE, f"Who gains: classes with many and with few {items(results)}", meaning, names)
    if not isinstance(declared, Mapping):
        raise InputError(f"results: groups: expected metric, titles, heading and meaning, got {declared!r:.80}")
    metric = _metric(results, declared["metric"], "groups") if declared.get("metric") else SHARE
    return Groups(
        metric, declared.get("heading") or "Who gains", declared.get("meaning") or "", declared.get("titles") or {}
    )


def pictures(results: Json) -> Sequence[str]:
    """Which files with pictures each run should have.

    Raises:
        InputError: for a name other than "gallery" and "strips".
    """
    declared = results.get("pictures")
    if declared is None:
        return ("gallery",) if results["data"]["classes"] else ()
    for name in declared:
        if name not in PICTURES:
            raise unknown("kind of pictures", name, PICTURES)
    return declared


def items(results: Json) -> str:
    """What the data consists of, in the plural.

    Examples:
        >>> items({"data": {}}), items({"data": {"items": "rows"}})
        ('images', 'rows')
    """
    return results["data"].get("items") or "images"


def _runs(results: Json) -> Iterable[Json]:
    return (run for method in results["methods"] for run in method["runs"])


def _metric(results: Json, name: Any, key: str) -> Json:
    """A metric's description, or an error that says which key names one that is not there."""
    if not isinstance(name, str) or name not in results["metrics"]:
        raise unknown(f"metric of {key}", name, results["metrics"])
    return results["metrics"][name]


def _is_metric(value: Any) -> bool:
    return isinstance(value, Mapping) and {"title", "better", "percent"} <= value.keys()
