"""Turn results.json and the pictures of its runs into one self-contained page of HTML.

The page consists of page.html.j2, page.css and page.js; this file prepares their content. Which metrics, curves and
pictures it shows is declared in results.json; see `declarations`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from counterpoise.errors import InputError, printable
from counterpoise.files import check_output, output
from counterpoise.report import charts, declarations, formatting, fronts, pictures, strips, tuning

NEEDED = ("counterpoise", "created", "command", "task", "data", "settings", "main", "metrics", "baseline", "methods")

Json = dict[str, Any]


def write_report(results: Json, folder: Path, path: Path) -> Path:
    """Write one comparison as one HTML file that needs no other file and no network.

    Args:
        results: the content of results.json; for its optional parts see `declarations`.
        folder: the comparison's folder; each run's `folder` is looked up in it for a `gallery.npz` with the arrays
            pixels (uint8 [G C H W]), labels [G] and features [G F], and for a `strips.npz` (see `data.strips`).
        path: the file to write; one of an earlier call is replaced once the new one is complete.

    Returns:
        `path`.

    Raises:
        InputError: if `results` lacks a part or names a metric that it does not describe, or if `path` cannot be
            written or holds a file that this program did not write.
    """
    missing = [name for name in NEEDED if name not in results]
    if missing:
        raise InputError(f"results: expected the content of a results.json, but it lacks {', '.join(missing)}")
    check_output(path)
    html = _template().render(_content(results, folder))
    with output(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def _template() -> Template:
    def read(name: str) -> str:
        return resources.files(__package__).joinpath(name).read_text("utf-8")

    environment = Environment(
        loader=FunctionLoader(read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=charts.shown,
    )
    script = read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {
        "breakable": _breakable,
        "unbroken": _unbroken,
        "printable": printable,
        "capital": formatting.capital,
    }
    environment.globals |= {
        "css": Markup(read("page.css")),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "swatch": charts.swatch,
        "class_swatch": charts.class_swatch,
        "marks": charts.MARKS,
    }
    return environment.get_template("page.html.j2")


def _content(results: Json, folder: Path) -> Json:
    methods, known = results["methods"], declarations.metrics(results)
    metrics = {name: known[name] for name in formatting.measured(results, known)}
    groups, items = declarations.groups(results), declarations.items(results)
    return {
        "results": results,
        "created": results["created"][:16].replace("T", " "),
        "heading": f"{formatting.listed([m['label'] for m in methods])} on {results['data']['name']}",
        "seeds": formatting.seeds({len(m["runs"]) for m in methods}),
        "answer": formatting.answer(results),
        "compared": sum(m["label"] != results["baseline"] for m in methods),
        "several_seeds": any(len(formatting.finished(m)) > 1 for m in methods),
        "covered": _covered(methods, metrics, items),
        "adjusted": any("adjusted" in (m["difference"] or {}).get(results["main"], {}) for m in methods),
        "items": items,
        "metrics": metrics,
        "rows": [*_rows(results, metrics), *_reference_rows(results, metrics)],
        "headline": _headline(results),
        "front": fronts.front(results),
        "groups": _groups(methods, groups),
        "about_groups": groups,
        "classes": _classes(results, items),
        "per_class": declarations.per_class(results),
        "curves": _curves(results),
        "losses": _losses(methods, declarations.curve_over(results)),
        "families": _families(methods, known, declarations.families(results)),
        "meanings": _meanings(metrics),
        "diagnostics": _diagnostics(methods),
        "strips": strips.strips(methods, folder, "strips" in declarations.pictures(results)),
        "gallery": _pictures(results, folder, items) if "gallery" in declarations.pictures(results) else None,
        "settings": [(name, _plain(value)) for name, value in results["settings"].items()],
        "arguments": [
            {
                "label": m["label"],
                "title": m["title"],
                "values": [f"{name} = {_plain(value)}" for name, value in m["arguments"].items()],
                "parameters": f"{done[0]['parameters']:,}" if (done := formatting.finished(m)) else "–",
            }
            for m in methods
        ],
        "tuning": tuning.tuning(results),
        "versions": _versions(results),
    }


def _breakable(label: str) -> Markup:
    """A label that may be broken after `:` and `,`."""
    return Markup("<wbr>").join(re.split(r"(?<=[:,])", printable(label)))


def _unbroken(text: str) -> Markup:
    """A text whose numbers stay with their percent sign."""
    return Markup(escape(printable(text)).replace(" %", "\N{NO-BREAK SPACE}%"))


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# The tables


def _reach(methods: Sequence[Json], name: str) -> float:
    """The largest difference or end of an interval, so that the bars of one metric share an axis."""
    differences = [found for method in methods if (found := formatting.difference(method, name))]
    ends = [abs(found[end]) for found in differences for end in ("mean", "low", "high") if found[end] is not None]
    return max(ends, default=1.0)


def _cell(method: Json, name: str, metric: Json, digits: int, reach: float) -> Json:
    """One method on one metric: its mean, and its difference from the baseline as text and as a drawing."""
    cell: Json = {"value": "–", "spread": "", "verdict": "", "bar": "", "change": "", "interval": ""}
    if value := formatting.summary(method, name):
        cell["value"] = formatting.number(formatting.scale(metric) * value["mean"], digits)
        cell["spread"] = formatting.spread(value, metric, digits)
    if found := formatting.difference(method, name):
        digits = formatting.finer(found, metric, digits)
        change = formatting.number(formatting.scale(metric) * found["mean"], digits, sign=True)
        interval = "no interval" if found["low"] is None else formatting.interval(found, metric, digits)
        verdict = formatting.verdict(found, metric)
        says = f"{metric['title']}: {change}{formatting.unit(metric)}, 95 % interval {interval}, {verdict}"
        bar = charts.interval(found["mean"], found["low"], found["high"], reach, verdict, says)
        cell |= {"verdict": verdict, "bar": bar, "change": change, "interval": interval}
    return cell


def _rows(results: Json, metrics: Json) -> list[Json]:
    methods = results["methods"]
    axes = {name: (formatting.column_digits(methods, name, m), _reach(methods, name)) for name, m in metrics.items()}
    rows = []
    for i, method in enumerate(methods):
        done = formatting.finished(method)
        seconds, memory = formatting.summary(method, "seconds"), formatting.summary(method, "memory_mb")
        rows.append(
            {
                "series": i,
                "label": method["label"],
                "title": method["title"],
                "labels": method["labels"],
                "baseline": method["label"] == results["baseline"],
                "cells": [_cell(method, name, metric, *axes[name]) for name, metric in metrics.items()],
                "seconds": formatting.duration(seconds["mean"]) if seconds else "–",
                "memory": f"{memory['mean']:,.0f} MB" if memory else "–",
                "finished": f"{len(done)} of {formatting.seeds([len(method['runs'])])}",
                "failed": [(run["status"], run["seed"], run["error"]) for run in method["runs"] if run not in done],
                "warnings": [(formatting.numbered(seeds), warning) for seeds, warning in formatting.warned(done)],
            }
        )
    return rows


def _reference_rows(results: Json, metrics: Json) -> list[Json]:
    """The rows of what costs no training, whose means stand below those of the methods."""
    references, methods = results.get("references", []), results["methods"]
    digits = {name: formatting.column_digits(methods, name, metric) for name, metric in metrics.items()}
    return [
        {
            "series": None,
            "baseline": False,
            "label": reference["label"],
            "title": "costs no training",
            "labels": reference["labels"],
            "cells": [_cell(reference, name, metric, digits[name], 1.0) for name, metric in metrics.items()],
            "seconds": "–",
            "memory": "",
            "finished": f"{len(formatting.finished(reference))} of {formatting.seeds([len(reference['runs'])])}",
            "failed": [(run["status"], run["seed"], run["error"]) for run in reference["runs"] if "error" in run],
            "warnings": [],
        }
        for reference in references
    ]


def _headline(results: Json) -> list[Json]:
    """The differences on the main metric alone, drawn large beside the answer."""
    name, metric = results["main"], results["metrics"][results["main"]]
    methods = [method for method in results["methods"] if formatting.difference(method, name)]
    reach, digits = _reach(methods, name), formatting.column_digits(results["methods"], name, metric)
    return [
        {"label": method["label"], "power": _power(method, name, metric, digits)}
        | _cell(method, name, metric, digits, reach)
        for method in methods
    ]


def _power(method: Json, name: str, metric: Json, digits: int) -> str:
    """What the seeds of an undecided difference would have shown; "" for a decided one."""
    found = formatting.difference(method, name)
    if found is None or formatting.verdict(found, metric) != "unclear":
        return ""
    return formatting.power(found, metric, digits)


def _covered(methods: Sequence[Json], metrics: Json, items: str) -> str:
    """What the intervals cover: seeds and test items, or the seeds alone."""
    means = [(name, one) for m in methods for name in metrics if (one := formatting.summary(m, name))]
    found = [(name, one["items"]) for name, one in means if one["low"] is not None and "items" in one]
    if not found:
        return ""
    counts = [count for _, count in found if isinstance(count, int)]
    alone = [metrics[name]["title"] for name in metrics if any(other == name and not n for other, n in found)]
    if not counts:
        return "The intervals cover the seeds alone."
    said = f"The intervals cover the seeds and the sampling of the {max(counts):,} test {items}"
    return f"{said}; those of {formatting.listed(alone)} the seeds alone." if alone else f"{said}."


# The charts


def _groups(methods: Sequence[Json], about: declarations.Groups) -> list[Json]:
    """One chart a group of the test data: each method's mean and its seeds."""
    names = list(
        dict.fromkeys(name for m in methods for run in formatting.finished(m) for name in run.get("groups") or {})
    )
    found = []
    for name in names:
        rows = []
        for i, method in enumerate(methods):
            values = [formatting.finite((run.get("groups") or {}).get(name)) for run in formatting.finished(method)]
            if seeds := [formatting.scale(about.metric) * value for value in values if value is not None]:
                rows.append(charts.Bar(i, method["label"], statistics.fmean(seeds), seeds))
        if rows:
            title, unit = about.titles.get(name, name), _unit(about.metric)
            digits = _digits(about.metric, (row.mean for row in rows))
            values_said = ", ".join(f"{row.label} {formatting.number(row.mean, digits)}{unit}" for row in rows)
            says = f"{formatting.capital(about.metric['title'])}, {title}: {values_said}"
            found.append({"name": title, "chart": charts.bars(rows, says, digits, unit)})
    return found


def _unit(metric: Json) -> str:
    """The unit of a metric's values, with a space before it."""
    return " %" if metric["percent"] else ""


def _digits(metric: Json, values: Iterable[float]) -> int:
    """Decimals for values in the unit that is shown."""
    return 1 if metric["percent"] else formatting.figures(map(abs, values))


def _classes(results: Json, items: str) -> Json | None:
    """The score in each class beside its training items, most of them first."""
    data, methods, metric = results["data"], results["methods"], declarations.per_class(results)
    counts = data["counts"].get("train", ())
    order = sorted(range(len(counts)), key=lambda k: -counts[k])
    scores: list[tuple[str, list[float | None]]] = []
    for method in methods:
        runs = [run["per_class"] for run in formatting.finished(method) if run.get("per_class")]
        means = [_mean(run[k] for run in runs) for k in order]
        scores.append((method["label"], [None if mean is None else formatting.scale(metric) * mean for mean in means]))
    known = [value for _, values in scores for value in values if value is not None]
    if not known:
        return None
    names, title, digits = [data["classes"][k] for k in order], metric["title"], _digits(metric, known)
    says = f"{formatting.capital(title)} of {len(scores)} methods in {len(names)} classes; the numbers are in the table"
    says += " below"
    columns = [["–" if value is None else formatting.number(value, digits) for value in values] for _, values in scores]
    ordered = [counts[k] for k in order]
    chart = charts.per_class(names, ordered, scores, says, unit=_unit(metric), digits=digits, items=items)
    return {"chart": chart, "table": zip(names, ordered, zip(*columns, strict=True), strict=True)}


def _mean(values: Iterable[Any]) -> float | None:
    found = [number for value in values if (number := formatting.finite(value)) is not None]
    return statistics.fmean(found) if found else None


def _line(series: int, method: Json, quantity: str, scale: int, over: str) -> charts.Line | None:
    """A quantity over the progress of training: mean, lowest and highest of the finished seeds.

    A row of the curve without a finite number for the progress or the quantity has no place in the chart.
    """
    seen: dict[float, list[float]] = {}
    for run in formatting.finished(method):
        for point in run.get("curve") or []:
            x, y = formatting.finite(point.get(over)), formatting.finite(point.get(quantity))
            if x is not None and y is not None:
                seen.setdefault(x, []).append(scale * y)
    return _of_seeds(series, method["label"], seen)


def _of_seeds(series: int, label: str, seen: dict[float, list[float]]) -> charts.Line | None:
    """A line through the means of the seeds at each x; None without any."""
    if not seen:
        return None
    xs = sorted(seen)
    means, lows, highs = ([pick(seen[x]) for x in xs] for pick in (statistics.fmean, min, max))
    return charts.Line(series, label, xs, means, lows, highs)


def _chart(
    found: Sequence[charts.Line], title: str, unit: str, over: str, width: int = 340, logarithmic: bool = False
) -> Json:
    digits = 1 if unit else formatting.figures(abs(y) for line in found for y in line.mean)
    ends = [
        (line.label, *(formatting.number(y, digits) + unit for y in (line.mean[0], line.mean[-1]))) for line in found
    ]
    says = ", ".join(f"{label} from {first} to {last}" for label, first, last in ends)
    chart = charts.lines(found, unit, f"{title} by {over}: {says}", width, over, logarithmic)
    return {"title": title, "chart": chart}


def _curves(results: Json) -> list[Json]:
    """One chart for each quantity that means the same for every method."""
    methods, over = results["methods"], declarations.curve_over(results)
    found = []
    for name, metric in declarations.curve(results).items():
        lines = (_line(i, method, name, formatting.scale(metric), over) for i, method in enumerate(methods))
        if drawn := [line for line in lines if line]:
            found.append(_chart(drawn, formatting.capital(metric["title"]), _unit(metric), over))
    return found


def _losses(methods: Sequence[Json], over: str) -> list[Json]:
    """One chart a method: losses of different methods have different zeros and units."""
    found = [line for i, method in enumerate(methods) if (line := _line(i, method, "loss", 1, over))]
    return [_chart([line], line.label, "", over, width=250) for line in found]


def _families(methods: Sequence[Json], metrics: Json, families: Sequence[declarations.Family]) -> list[Json]:
    """One chart for each metric that is taken at several numbers, on a logarithmic axis where it can be."""
    found = []
    for family in families:
        first = metrics[next(iter(family.metrics))]
        lines = (_line_of(i, method, family, formatting.scale(first)) for i, method in enumerate(methods))
        if drawn := [line for line in lines if line]:
            logarithmic = min(family.metrics.values()) > 0
            found.append(_chart(drawn, family.title, _unit(first), family.over, logarithmic=logarithmic))
    return found


def _line_of(series: int, method: Json, family: declarations.Family, scale: int) -> charts.Line | None:
    seen: dict[float, list[float]] = {}
    for name, x in family.metrics.items():
        values = [formatting.finite(run["metrics"].get(name)) for run in formatting.finished(method)]
        if known := [scale * value for value in values if value is not None]:
            seen[x] = known
    return _of_seeds(series, method["label"], seen)


def _meanings(metrics: Json) -> list[tuple[str, str]]:
    """What the metrics mean, those of one meaning together."""
    titles: dict[str, list[str]] = {}
    for metric in metrics.values():
        if metric.get("meaning"):
            titles.setdefault(metric["meaning"], []).append(metric["title"])
    return [(formatting.listed(names), meaning) for meaning, names in titles.items()]


def _diagnostics(methods: Sequence[Json]) -> list[Json]:
    """Each figure that helps to understand the metrics: the methods that have it, its mean and range over the seeds."""
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for method in methods:
        own: dict[str, list[float]] = {}
        for run in formatting.finished(method):
            for name, value in (run.get("diagnostics") or {}).items():
                if (number := formatting.finite(value)) is not None:
                    own.setdefault(name, []).append(number)
        for name, values in own.items():
            found.setdefault(name, []).append((method["label"], values))
    return [
        {"title": formatting.capital(name.replace("_", " ")), "rows": _ranges(rows)} for name, rows in found.items()
    ]


def _ranges(rows: Sequence[tuple[str, list[float]]]) -> list[Json]:
    """Mean, lowest and highest value of each row, as text with as many decimals in all of them."""
    digits = formatting.figures(abs(statistics.fmean(values)) for _, values in rows)
    found = []
    for label, values in rows:
        mean, low, high = (formatting.number(pick(values), digits) for pick in (statistics.fmean, min, max))
        found.append({"label": label, "mean": mean, "range": f"{low} to {high}" if len(values) > 1 else "–"})
    return found


# The pictures


def _pictures(results: Json, folder: Path, items: str) -> Json:
    """Maps and neighbours from the first finished seed of each method, and which of them are left out and why."""
    classes = results["data"]["classes"]
    first: pictures.Gallery | None = None
    found: list[Json] = []
    left_out: list[str] = []
    for method in results["methods"]:
        label, done = method["label"], formatting.finished(method)
        if not done:
            left_out.append(f"{label}: no seed finished")
            continue
        try:
            gallery = pictures.read_gallery(folder / done[0]["folder"] / "gallery.npz")
            if first is not None and not _same_images(first, gallery):
                raise InputError("its gallery holds other images than the first method's")
        except InputError as error:
            left_out.append(f"{label}, seed {done[0]['seed']}: {error}")
            continue
        first = first or gallery
        found.append({"label": label, "seed": done[0]["seed"], "gallery": gallery})
    if first is None:
        return {"maps": [], "queries": [], "left_out": left_out}
    sheet, names = pictures.sprite(first.pixels), [_class_name(classes, int(label)) for label in first.labels]
    colours = pictures.colouring(first.labels, classes, results["data"]["counts"].get("train", []), items)
    maps = []
    for entry in found:
        try:
            maps.append(_map(entry, sheet, colours))
        except InputError as error:
            left_out.append(f"{entry['label']}, seed {entry['seed']}: {error}")
    return {
        "left_out": left_out,
        "sprite": sheet,
        "maps": maps,
        "count": len(names),
        "classes": len({label for label in first.labels.tolist() if label >= 0}),
        "colours": colours,
        "queries": _neighbours(found, sheet, names),
        "json": {"names": names, "places": [sheet.place(i) for i in range(len(names))]},
    }


def _same_images(first: pictures.Gallery, other: pictures.Gallery) -> bool:
    return first.pixels.shape == other.pixels.shape and bool((first.pixels == other.pixels).all())


def _class_name(classes: Sequence[str], label: int) -> str:
    return printable(classes[label]) if 0 <= label < len(classes) else "no label"


def _map(entry: Json, sheet: pictures.Sprite, colours: pictures.Colouring) -> Json:
    gallery = entry["gallery"]
    positions = pictures.flatten(gallery.features)
    says = f"Map of {len(positions)} test images as {entry['label']} sees them; arrow keys go from image to image"
    return {
        "label": entry["label"],
        "seed": entry["seed"],
        "drawing": pictures.embedding_map(positions, colours.keys, says),
        "thumbnails": [
            (f"s{colours.keys[i] % charts.COLOURS}", colours.keys[i], f"{place};{sheet.place(i)}")
            for i, place in pictures.thumbnails(positions)
        ],
    }


def _neighbours(found: Sequence[Json], sheet: pictures.Sprite, names: Sequence[str]) -> list[Json]:
    labels = found[0]["gallery"].labels
    queries = pictures.sample(labels)
    nearest = [pictures.neighbours(entry["gallery"].features, queries) for entry in found]
    return [
        {
            "name": names[query],
            "place": sheet.place(query),
            "rows": [
                {
                    "label": entry["label"],
                    "images": [(names[i], sheet.place(i), bool(labels[i] == labels[query])) for i in indices[q]],
                    "right": sum(labels[i] == labels[query] for i in indices[q]),
                }
                for entry, indices in zip(found, nearest, strict=True)
            ],
        }
        for q, query in enumerate(queries)
    ]


def _versions(results: Json) -> str:
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "lightning", "scikit-learn")]
    here = ", ".join([f"Python {platform.python_version()}", *versions])
    return f"Compared with counterpoise {results['counterpoise']}; page written with {here}."
