"""A room's methods on several sets of data, with the same backbone, views and budget: which one helps?

What a module such as `benchmarks.contrast` declares as a `Table` is compared here, first all methods at their defaults,
then the baseline and the best others tuned alike, and written to docs/results/NAME.{md,json,png}. What was run before
by the same code is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measuring import RESULTS, machine_line, markdown_table, write_results
from counterpoise import compare, tasks
from counterpoise.report import answer, formatting

JOBS = 2
OUT = Path("counterpoise-out")
TUNED = 3
"""How many of the best methods are tuned beside the baseline."""


class Set(NamedTuple):
    """A set of data, and what of the settings depends on it."""

    title: str
    data: str
    settings: dict[str, Any]
    imperfect: tuple[str, ...] = ()


class Table(NamedTuple):
    """What is compared, and how it is told.

    Args:
        name: of the files, and of the module that declares it.
        title: of the page.
        task: of the comparison.
        methods: as `counterpoise compare` takes them.
        baseline: one of them.
        seeds: how many.
        trials: of tuning, for the baseline and each of the best.
        common: settings of all sets.
        sets: what they are compared on.
        shown: metrics of a set's table, the first one decides, with their headings.
        remark: what the page says besides.
    """

    name: str
    title: str
    task: str
    methods: list[str]
    baseline: str
    seeds: int
    trials: int
    common: dict[str, Any]
    sets: list[Set]
    shown: dict[str, str]
    remark: str

    @property
    def main(self) -> str:
        """The metric that decides."""
        return next(iter(self.shown))

    def metric(self, name: str) -> dict[str, Any]:
        """How a metric is told, in the form of a comparison's results."""
        return asdict(tasks.find(self.task).metrics[name])


def compared(table: Table, one: Set) -> dict[str, Any]:
    """The comparisons on one set: all methods at their defaults, and the best of them tuned."""
    folder = OUT / f"room-{table.name}" / one.data.replace(":", "-")
    found = _compare(table, one, table.methods, folder)
    best = [row["label"] for row in by_mean(table, found["methods"]) if row["label"] != table.baseline][:TUNED]
    tuned = _compare(table, one, [table.baseline, *best], folder.with_name(f"{folder.name}-tuned"), table.trials)
    return {
        "title": one.title,
        "notes": found["data"]["notes"],
        "inputs": found["data"]["sizes"],
        "defaults": _kept(found),
        "tuned": {**_kept(tuned), "chosen": {row["label"]: row["arguments"] for row in tuned["methods"]}},
    }


def _compare(table: Table, one: Set, methods: list[str], folder: Path, trials: int = 0) -> dict[str, Any]:
    return compare(
        methods,
        one.data,
        task=table.task,
        imperfect=one.imperfect,
        seeds=table.seeds,
        baseline=table.baseline,
        tune=trials,
        jobs=JOBS,
        out=str(folder),
        **table.common,
        **one.settings,
    )


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    """A comparison without what only its report needs."""
    kept = ("label", "title", "labels", "summary", "difference")
    rows = {
        kind: [
            {name: row[name] for name in kept if name in row}
            | {"failed": [run["error"] for run in row["runs"] if run["status"] != "done"]}
            for row in found[kind]
        ]
        for kind in ("methods", "references")
    }
    return {"command": found["command"], "answer": answer(found), "learnt": formatting.learnt(found), **rows}


def by_mean(table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have a mean of the deciding metric, the best first."""
    means = [(found["mean"], row) for row in rows if (found := formatting.summary(row, table.main))]
    sign = -1 if table.metric(table.main)["better"] == "higher" else 1
    return [row for _, row in sorted(means, key=lambda pair: sign * pair[0])]


def verdict(table: Table, row: dict[str, Any]) -> str:
    """Whether a method is better or worse than the baseline by the deciding metric."""
    if row["difference"] is None:
        return "baseline"
    found = formatting.difference(row, table.main)
    return "failed" if found is None else formatting.verdict(found, table.metric(table.main)).replace("unclear", "—")


def overview(table: Table, sets: list[dict[str, Any]]) -> str:
    """One row a method: better or worse than the baseline on which sets."""
    of = [{row["label"]: row for row in one["defaults"]["methods"]} for one in sets]
    rows = [[name(row), *(verdict(table, rows[row["label"]]) for rows in of)] for row in of[0].values()]
    return markdown_table(["method", *(one["title"] for one in sets)], rows)


def in_short(table: Table, sets: list[dict[str, Any]]) -> str:
    """What a user should choose: what helped on which sets and by how much, what did not matter, what cost accuracy."""
    lines = [f"- **{one['title']}**: {learnt}" for one in sets if (learnt := one["defaults"]["learnt"])]
    rows_of_sets = [{row["label"]: row for row in one["defaults"]["methods"]} for one in sets]
    for title, reads in (("Without labels", False), ("With labels of the training images", True)):
        said: dict[str, list[str]] = {"better": [], "—": [], "worse": [], "failed": []}
        for label in (row["label"] for row in rows_of_sets[0].values() if row["labels"] == reads):
            if label != table.baseline:
                for found, text in _verdicts(table, label, rows_of_sets, sets):
                    said[found].append(text)
        if not any(said.values()):
            continue
        lines.append(f"- **{title}**, better than {table.baseline}: {'; '.join(said['better']) or 'none'}.")
        for found, words in (("—", "No difference shown on any set"), ("worse", "Worse"), ("failed", "Failed")):
            if said[found]:
                lines.append(f"  {words}: {'; '.join(said[found])}.")
    for one in sets:
        rows = [row for row in by_mean(table, one["tuned"]["methods"]) if row["difference"]]
        said = [f"{row['label']} {_change(table, row)} ({verdict(table, row)})" for row in rows]
        lines.append(f"- **Tuned alike, on {one['title']}**, against {table.baseline}: {', '.join(said)}.")
    return "\n".join(lines)


def _verdicts(
    table: Table, label: str, rows: list[dict[str, dict[str, Any]]], sets: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """What is said of a method, with the sets that it is said of; of one without any difference, its name alone."""
    found = [
        (verdict(table, row[label]), f"{_change(table, row[label])} on {one['title']}")
        for row, one in zip(rows, sets, strict=True)
    ]
    if all(kind == "—" for kind, _ in found):
        yield "—", label
    for kind in ("better", "worse", "failed"):
        if where := [text for this, text in found if this == kind]:
            yield kind, f"{label} ({', '.join(where)})"


def _change(table: Table, row: dict[str, Any]) -> str:
    """A row's difference from the baseline, in the metric's unit."""
    metric, found = table.metric(table.main), formatting.difference(row, table.main)
    if found is None:
        return "failed"
    digits = formatting.column_digits([row], table.main, metric)
    return formatting.number(formatting.scale(metric) * found["mean"], digits, sign=True) + formatting.unit(metric)


def name(row: dict[str, Any]) -> str:
    """A method's label, linked to its page where it has one, and with a star where it reads labels."""
    slug = row["label"].partition(":")[0]
    page = RESULTS.parent / "papers" / f"{slug}.md"
    label = f"[{row['label']}](../papers/{slug}.md)" if page.exists() else row["label"]
    return label + ("\\*" if row.get("labels") else "")


def rows_of(table: Table, found: dict[str, Any]) -> str:
    """A comparison's table, the best method first, and then what costs no training."""
    metrics = {shown: table.metric(shown) for shown in table.shown}
    digits = {shown: formatting.column_digits(found["methods"], shown, metric) for shown, metric in metrics.items()}
    main = table.main
    done = by_mean(table, found["methods"])
    missing = [row for row in found["methods"] if row not in done]
    cells = [
        [
            name(row),
            *(
                formatting.mean_cell(formatting.summary(row, shown), metric, digits[shown])
                for shown, metric in metrics.items()
            ),
            formatting.change(formatting.difference(row, main), metrics[main], digits[main]) if learns else "—",
            f"{row['summary']['seconds']['mean']:.0f}" if learns and row["summary"] else "—",
        ]
        for rows, learns in ((done + missing, True), (by_mean(table, found["references"]), False))
        for row in rows
    ]
    return markdown_table(["method", *table.shown.values(), f"{table.shown[main]} less {table.baseline}'s", "s"], cells)


def section(table: Table, one: dict[str, Any]) -> str:
    """What a set's comparisons say."""
    defaults, tuned, inputs = one["defaults"], one["tuned"], one["inputs"]
    failed = [f"{row['label']} failed: {row['failed'][0]}" for row in defaults["methods"] if row["failed"]]
    chosen = [
        f"{label}: {', '.join(f'{key} {value}' for key, value in arguments.items())}"
        for label, arguments in tuned["chosen"].items()
    ]
    return "\n\n".join(
        [
            f"## {one['title']}",
            f"{inputs['train']:,} to learn from and {inputs['test']:,} to be judged by with seed 0"
            f"{': ' * bool(one['notes'])}{'; '.join(one['notes'])}.",
            defaults["answer"],
            rows_of(table, defaults),
            *failed,
            f"`{defaults['command']}`",
            f"Tuned alike, {table.trials} trials each: {tuned['answer']}",
            rows_of(table, tuned),
            f"Chosen: {'; '.join(chosen)}.",
            f"`{tuned['command']}`",
        ]
    )


def page(table: Table, sets: list[dict[str, Any]]) -> str:
    """The page of all sets."""
    compared_with = len(sets[0]["defaults"]["methods"]) - 1
    decides = table.metric(table.main)["title"]
    return "\n\n".join(
        [
            f"# {table.title}",
            in_short(table, sets),
            f"Each method with its own defaults, on the same backbone, views, batches of {table.common['batch_size']} "
            f"and steps; {table.seeds} seeds, which decide the data's order and division, the weights and the views. "
            "± and brackets are 95 % intervals over seeds and test items, of differences paired by seed. "
            f'"Better" and "worse" than {table.baseline} is said where {decides} differs beyond chance by Holm\'s '
            f"adjustment over the {compared_with} methods of a set. The baseline and the {TUNED} best are compared "
            f"again with arguments tuned alike, on data held out of training. {table.remark}Budgets are small and "
            "backbones tiny: it is a first answer, for small inputs.",
            overview(table, sets),
            f"![Differences in {decides}, with their intervals]({table.name}.png)",
            *(section(table, one) for one in sets),
            f"{machine_line()} `python -m benchmarks.{table.name}`",
        ]
    )


def draw(table: Table, sets: list[dict[str, Any]], path: Path) -> None:
    """The paired differences of each set in a panel of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scale = formatting.scale(table.metric(table.main))
    count = len(sets[0]["defaults"]["methods"])
    figure, panels = pyplot.subplots(1, len(sets), figsize=(11, 1.5 + 0.24 * count), sharey=True, layout="constrained")
    for panel, one in zip(panels, sets, strict=True):
        rows = [row for row in reversed(one["defaults"]["methods"]) if row["label"] != table.baseline]
        panel.axvline(0, color="0.6", linewidth=1)
        for place, row in enumerate(rows):
            if found := formatting.difference(row, table.main):
                colour = {"better": "tab:green", "worse": "tab:red"}.get(verdict(table, row), "0.35")
                panel.plot([scale * found["low"], scale * found["high"]], [place] * 2, color=colour, linewidth=2)
                panel.plot(scale * found["mean"], place, "o", color=colour, markersize=5)
        panel.set_yticks(range(len(rows)), [row["label"] + "*" * row["labels"] for row in rows])
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.set_title(one["title"], fontsize=10)
        panel.set_xlabel(f"{table.shown[table.main]} less {table.baseline}'s")
        panel.grid(axis="x", color="0.9")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(table: Table) -> None:
    """Compare, and write the page."""
    torch.set_num_threads(1)
    sets = [compared(table, one) for one in table.sets]
    draw(table, sets, RESULTS / f"{table.name}.png")
    write_results(table.name, {"sets": sets}, page(table, sets))
