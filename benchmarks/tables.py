"""A room's methods on several sets of data, with the same backbone, views and budget: which one helps?

What a module such as `benchmarks.contrast` declares as a `Table` is compared here, and written to
docs/results/NAME.{md,json,png}. What was run before by the same code is not run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measuring import RESULTS, machine_line, markdown_table, write_results
from counterpoise import compare, tasks
from counterpoise.measure import interval
from counterpoise.report import answer, formatting
from counterpoise.training.run import Run, make_settings

JOBS = 2
OUT = Path("counterpoise-out")


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
        common: settings of all sets.
        sets: what they are compared on.
        shown: metrics of a set's table, the first one decides, with their headings.
        remark: what the page says besides.
        raw: the deciding metric without any training, and what that is called.
    """

    name: str
    title: str
    task: str
    methods: list[str]
    baseline: str
    seeds: int
    common: dict[str, Any]
    sets: list[Set]
    shown: dict[str, str]
    remark: str
    raw: tuple[str, Callable[[Any], float]]

    @property
    def main(self) -> str:
        """The metric that decides."""
        return next(iter(self.shown))

    def metric(self, name: str) -> dict[str, Any]:
        """How a metric is told, in the form of a comparison's results."""
        return asdict(tasks.find(self.task).metrics[name])


def compared(table: Table, one: Set) -> dict[str, Any]:
    """The comparison on one set, without what only its report needs."""
    folder = OUT / f"room-{table.name}" / one.data.replace(":", "-")
    found = compare(
        table.methods,
        one.data,
        task=table.task,
        imperfect=one.imperfect,
        seeds=table.seeds,
        baseline=table.baseline,
        jobs=JOBS,
        out=str(folder),
        **table.common,
        **one.settings,
    )
    kept = ("label", "title", "labels", "summary", "difference")
    return {
        "title": one.title,
        "command": found["command"],
        "notes": found["data"]["notes"],
        "inputs": found["data"]["sizes"],
        "answer": answer(found),
        "methods": [
            {name: row[name] for name in kept}
            | {"failed": [run["error"] for run in row["runs"] if run["status"] != "done"]}
            for row in found["methods"]
        ],
        "raw": raw(table, one),
    }


def raw(table: Table, one: Set) -> dict[str, Any]:
    """What the raw inputs give, over the same seeds."""
    values = []
    for seed in range(table.seeds):
        settings = make_settings(tasks.find(table.task).settings, {**table.common, **one.settings})
        run = Run(table.baseline, one.data, seed, {}, one.imperfect, settings, table.task)
        values.append(table.raw[1](tasks.find(table.task).check(run)))
    return asdict(interval(values))


def verdict(table: Table, row: dict[str, Any]) -> str:
    """Whether a method is better or worse than the baseline by the deciding metric."""
    if row["difference"] is None:
        return "baseline"
    found = formatting.difference(row, table.main)
    return "failed" if found is None else formatting.verdict(found, table.metric(table.main)).replace("unclear", "—")


def overview(table: Table, sets: list[dict[str, Any]]) -> str:
    """One row a method: better or worse than the baseline on which sets."""
    of = [{row["label"]: row for row in one["methods"]} for one in sets]
    rows = [[name(row), *(verdict(table, rows[row["label"]]) for rows in of)] for row in sets[0]["methods"]]
    return markdown_table(["method", *(one["title"] for one in sets)], rows)


def name(row: dict[str, Any]) -> str:
    """A method's label, linked to its page where it has one, and with a star where it reads labels."""
    slug = row["label"].partition(":")[0]
    page = RESULTS.parent / "papers" / f"{slug}.md"
    label = f"[{row['label']}](../papers/{slug}.md)" if page.exists() else row["label"]
    return label + ("\\*" if row["labels"] else "")


def section(table: Table, one: dict[str, Any]) -> str:
    """A set's table, the best method first."""
    metrics = {shown: table.metric(shown) for shown in table.shown}
    digits = {shown: formatting.column_digits(one["methods"], shown, metric) for shown, metric in metrics.items()}
    main, best_first = table.main, -1 if metrics[table.main]["better"] == "higher" else 1
    done = [row for row in one["methods"] if row["summary"]]
    done.sort(key=lambda row: best_first * row["summary"][main]["mean"])
    rows = done + [row for row in one["methods"] if not row["summary"]]
    cells = [
        [
            name(row),
            *(
                formatting.mean_cell(formatting.summary(row, shown), metric, digits[shown])
                for shown, metric in metrics.items()
            ),
            formatting.change(formatting.difference(row, main), metrics[main], digits[main]),
            f"{row['summary']['seconds']['mean']:.0f}" if row["summary"] else "—",
        ]
        for row in rows
    ]
    bare = formatting.mean_cell(one["raw"], metrics[main], digits[main])
    cells.append([table.raw[0], bare, *["—"] * (len(table.shown) + 1)])
    unbeaten = done and best_first * (one["raw"]["mean"] - done[0]["summary"][main]["mean"]) < 0
    remarks = [f"No method's mean is better than that of {table.raw[0]}."] if unbeaten else []
    headings = ["method", *table.shown.values(), f"{table.shown[table.main]} less {table.baseline}'s", "s"]
    failed = [f"{row['label']} failed: {row['failed'][0]}" for row in rows if row["failed"]]
    inputs = one["inputs"]
    return "\n\n".join(
        [
            f"## {one['title']}",
            f"{inputs['train']:,} to learn from and {inputs['test']:,} to be judged by with seed 0"
            f"{': ' * bool(one['notes'])}{'; '.join(one['notes'])}.",
            " ".join([one["answer"], *remarks]),
            markdown_table(headings, cells),
            *failed,
            f"`{one['command']}`",
        ]
    )


def page(table: Table, sets: list[dict[str, Any]]) -> str:
    """The page of all sets."""
    compared_with = len(sets[0]["methods"]) - 1
    decides = table.metric(table.main)["title"]
    return "\n\n".join(
        [
            f"# {table.title}",
            f"Each method with its own defaults, on the same backbone, views, batches of {table.common['batch_size']} "
            f"and epochs; {table.seeds} seeds, which decide the data's order and division, the weights and the views. "
            "± and brackets are 95 % intervals over seeds and test items, of differences paired by seed. "
            f'"Better" and "worse" than {table.baseline} is said where {decides} differs beyond chance by Holm\'s '
            f"adjustment over the {compared_with} methods of a set. {table.remark}Budgets are small and backbones "
            "tiny: it is a first answer, for small inputs.",
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
    figure, panels = pyplot.subplots(
        1, len(sets), figsize=(11, 1.5 + 0.24 * len(sets[0]["methods"])), sharey=True, layout="constrained"
    )
    for panel, one in zip(panels, sets, strict=True):
        rows = [row for row in reversed(one["methods"]) if row["label"] != table.baseline]
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
