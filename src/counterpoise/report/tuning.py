"""How the arguments of methods were chosen where a comparison tuned them: what was tried, what was best, its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoise.report import formatting

Json = dict[str, Any]
DIGITS = 4  # significant ones, of a figure that is no share


def tuning(results: Json) -> Json | None:
    """What the page shows of tuning: a sentence, and a row for each method; `None` where nothing was tuned.

    Args:
        results: the content of results.json. Its `tuning` holds the number of `trials`, their `seed`, the figure `by`
            which they were judged, and by label in `methods` the `space`, the chosen `arguments`, the `trials` in
            their order and the `seconds` of all together.
    """
    found = results.get("tuning")
    if not found:
        return None
    metric = results["metrics"][found["by"]]
    count = f"{found['trials']} trial{'s' if found['trials'] > 1 else ''}"
    rows = [_row(label, method, metric) for label, method in found["methods"].items()]
    total = formatting.duration(sum(method["seconds"] for method in found["methods"].values()))
    return {
        "sentence": f"Every method that is trained had {count} with seed {found['seed']}, the first with its own "
        f"defaults. They were judged by {metric['title']} on data that was held out of training for this alone, with "
        f"the labels that training has; the test data was not looked at. All trials together took {total}.",
        "metric": metric["title"],
        "percent": metric["percent"],
        "rows": rows,
    }


def _row(label: str, method: Mapping[str, Any], metric: Json) -> Json:
    trials: Sequence[Mapping[str, Any]] = method["trials"]
    chosen = {**method["arguments"], **method["settings"]}
    figures = [trial["figure"] for trial in trials if {**trial["arguments"], **trial["settings"]} == chosen]
    return {
        "label": label,
        "space": method["space"],
        "chosen": [f"{name} = {_plain(value)}" for name, value in chosen.items()],
        "figure": _figure(figures[0] if figures else None, metric),
        "default": _figure(trials[0]["figure"], metric),
        "failed": sum(trial["figure"] is None for trial in trials),
        "seconds": formatting.duration(method["seconds"]),
    }


def _figure(value: float | None, metric: Json) -> str:
    if value is None:
        return "failed"
    if metric["percent"]:
        return formatting.number(formatting.scale(metric) * value, 1)
    return f"{value:.{DIGITS}g}"


def _plain(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
