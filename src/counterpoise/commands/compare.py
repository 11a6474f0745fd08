"""Methods × seeds on one task and one data set: a table that says which of them helps, and how sure that is."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoise import tasks
from counterpoise.commands.arms import Arm, Rows, choose_baseline, parse_arms
from counterpoise.commands.evidence import summarise
from counterpoise.commands.tuning import check_tuning, division_of, tuned_arms
from counterpoise.data.state import data_state, state_key
from counterpoise.engine.budget import settled_budget
from counterpoise.engine.given import RUNS
from counterpoise.engine.pool import Key, Stopped, attempt, run_all
from counterpoise.errors import InputError, RunFailed, printable
from counterpoise.files import (
    check_output,
    check_output_folder,
    make_output_folder,
    output,
    read_json,
    short_name,
    write_json,
)
from counterpoise.ops.checks import check_number
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import as_words, plain
from counterpoise.registry.signatures import check_arguments
from counterpoise.report import answer, formatting, write_report
from counterpoise.terminal import make_console
from counterpoise.training.launch import node
from counterpoise.training.run import Result, Run, Settings, make_settings, other_state, processor_threads
from counterpoise.version import __version__


def compare(
    methods: Sequence[str],
    data: str | Path,
    *,
    task: str = "pretrain",
    imperfect: Sequence[str] = (),
    seeds: int = 3,
    baseline: str | None = None,
    tune: int = 0,
    jobs: int = 1,
    ray: str | None = None,
    references: bool = True,
    out: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Compare methods on one task and one data set, with the same backbone, views and budget for all.

    Every (method, seed) run is kept in `out` under a name made of its configuration and of the code behind it.
    A call that was stopped goes on where it was; only the run it was at starts again, at its last epoch. At Ctrl-C the
    runs that are done are reported, as incomplete. A run that fails is reported as such, and the others go on: the
    Python function returns as usual, the command exits with status 1.

    Args:
        methods: slugs from `counterpoise list`, each with arguments of its own as in "dcl:temperature=0.5";
            "room:contrast" stands for all methods of that room, and "./mine.py:MyMethod" for a `counterpoise.Method`,
            or an objective of two views, in a file of your own.
        data: a known set such as "fashion-mnist", or a path to a folder of images, a CSV or a Parquet file; for regress
            "rotations", "digit-sums", "diabetes" or a table of numbers; for survival "two-regimes", "flchain", "gbsg2",
            "whas500", "aids" or a table with columns time and event; for graph "planted", "pyg:DBLP".
        task: what the methods are to do: "pretrain" (features of images), "classify" (their classes), "robust"
            (their classes under attack), "retrieve" or "few-shot" (images of classes that training has not seen),
            "compose" (queries of an image and words), "regress" (numbers), "survival" (times to an event), "zero-shot"
            (new classes by their names), or "graph" (nodes of a heterogeneous graph).
        imperfect: what to do to the data, such as "long-tail=100" or "label-noise=0.4"; docs/data.md has them all.
        seeds: how many seeds each method runs with; the seed decides data, weights, order and views.
        baseline: which of the methods the others are measured against; the task's own, or else the first.
        tune: trials for every method, the baseline among them, over the arguments that the catalogue declares (search),
            learning rate and weight decay; needs the extra `tune`. What is best on data that is held out of training
            for that alone is compared. One division into train and test data serves all seeds; docs/tuning.md.
        jobs: runs at the same time, in processes of their own.
        ray: address of a Ray cluster that the runs are spread over, or "local"; its machines must share `out` and data.
        references: also score what costs no training: the raw inputs, an untrained encoder, and the weights to start
            from where `init` names some. A method that is no better has learnt nothing that shows.
        out: folder of the results; by default "counterpoise-out/TASK-DATA".
        quiet: print neither progress nor the table.
        **settings: any of the task's settings, such as backbone, size, epochs, batch_size; for images those of
            `counterpoise.training.run.ImageSettings`.

    Returns:
        What `results.json` holds: for each method its runs, the mean and 95 % interval of every metric over seeds and
        test items, and that of the paired differences to the baseline with its p-value (`p`), the same by Holm's
        adjustment over the methods (`adjusted`), the difference that would have been shown with 80 % power
        (`detectable`), and how many seeds a difference of one point would need (`needed`). `out` also gets
        `results.csv` and `report.html`.

    Raises:
        InputError: for names and numbers that are refused, before anything is run.
        KeyboardInterrupt: at Ctrl-C, once the runs that are done are reported.
    """
    source, target, settings = plain(data), plain(out), plain(settings)
    seeds, tune, jobs, imperfect = plain(seeds), plain(tune), plain(jobs), as_words("imperfect", imperfect)
    check_arguments("commands.compare", "compare", data=source, task=task, baseline=baseline, ray=ray, out=target)
    check_number("seeds", seeds, at_least=1, whole=True)
    check_number("tune", tune, at_least=0, whole=True)
    check_number("jobs", jobs, at_least=1, whole=True)
    about_task = tasks.find(task)
    arms = parse_arms(as_words("methods", methods), task)
    against = choose_baseline(arms, baseline, task)
    shared = make_settings(about_task.settings, settings)
    check_processes(shared, jobs, ray)
    folder = Path(target or f"counterpoise-out/{task}-{short_name(source)}")
    check_results(folder, source, task)
    runs = make_runs(arms, source, task, imperfect, seeds, shared, division_of(tune))
    for arm in arms:  # refuse what cannot work before hours are spent on what can
        about_task.check(runs[arm.label, 0], scored=True)
    check_tuning(runs, tune)
    beside = reference_arms(runs[against, 0]) if references else {}
    make_output_folder(folder, "comparison")
    console = make_console(quiet)
    shared = settled_budget(sorted(runs.values(), key=lambda run: run is not runs[against, 0]), folder, console)
    runs = {key: replace(run, settings=shared) for key, run in runs.items()}
    if node() > 0:
        return train_along(runs, folder)
    arms, tuning = tuned_arms(arms, runs, tune, folder, jobs, console, ray)
    own = {arm.label: dict(arm.arguments) for arm in arms}
    runs = {(label, seed): replace(run, arguments=own[label]) for (label, seed), run in runs.items()}
    head = {
        "counterpoise": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(
            arms, source, task, imperfect, seeds, against, jobs, ray, folder, shared, tune, references
        ),
        **about_task.declared(shared),
        "settings": {**asdict(shared), "seeds": seeds, "imperfect": list(imperfect)},
        "baseline": against,
        **({} if tuning is None else {"tuning": tuning}),
    }
    quick = {(arm.label, seed): replace(run, seed=seed) for arm, run in beside.items() for seed in range(seeds)}
    runs = {**quick, **runs}
    rows = Rows(arms, against, list(beside))
    try:
        results = run_all(runs, folder, jobs, console, ray)
    except Stopped as stop:
        if any(result["status"] == "done" for result in stop.results.values()):
            report(outcome(head, rows, runs, stop.results, folder), folder, shared.threads, console)
        raise
    content = outcome(head, rows, runs, results, folder)
    report(content, folder, shared.threads, console)
    return content


def check_processes(settings: Settings, jobs: int, ray: str | None) -> None:
    """Refuse several runs at a time beside runs of several processes, and both beside a cluster."""
    group = settings.process_group()
    if ray and (jobs > 1 or group.nodes > 1):
        raise InputError("ray: spreads the runs by itself; expected jobs 1 and nodes 1 with it")
    if group.size > 1 and jobs > 1:
        raise InputError(f"jobs: expected 1 where each run has several processes of its own, got {jobs}")


def make_runs(
    arms: Sequence[Arm],
    data: str,
    task: str,
    imperfect: tuple[str, ...],
    seeds: int,
    settings: Settings,
    division: int | None = None,
) -> dict[Key, Run]:
    """The runs of a comparison by label and seed, seed by seed, all on the files as they are now."""
    state, files = state_key(data_state(data, settings.data_dir)), state_key(other_state(settings))
    return {
        (arm.label, seed): Run(
            arm.method,
            data,
            seed,
            dict(arm.arguments),
            imperfect,
            settings,
            task,
            state,
            files=files,
            division=division,
        )
        for seed in range(seeds)
        for arm in arms
    }


def reference_arms(run: Run) -> dict[Arm, Run]:
    """The references of a comparison, each with its run of the first seed.

    Args:
        run: of the baseline with the first seed.
    """
    task = tasks.find(run.task)
    found = {name: task.reference_run(run, name) for name in task.references}
    return {Arm(catalogue.find(one.method).title.lower(), one.method): one for one in found.values() if one is not None}


def train_along(runs: dict[Key, Run], folder: Path) -> dict[str, Any]:
    """What a machine does that only trains along: the first one scores, keeps and reports.

    Raises:
        RunFailed: if any run fails.
    """
    failed = [result["error"] for run in runs.values() if (result := attempt(run, folder / RUNS))["status"] == "failed"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(runs)} runs failed; the first of them: {failed[0]}")
    return {}


def outcome(
    head: dict[str, Any], rows: Rows, runs: dict[Key, Run], results: dict[Key, Result], folder: Path
) -> dict[str, Any]:
    """The content of results.json: what was compared, what came out, and on which data."""
    first = next(iter(runs.values()))
    task = tasks.find(first.task)
    facts = {"name": first.data, "items": task.items, **about(first, results)}
    return {**head, **summarise(rows, results, task.metrics, folder, task.main), "data": facts}


def report(content: dict[str, Any], folder: Path, threads: int, console: Console) -> None:
    """Keep what a comparison has found as JSON, CSV and HTML, and print the table and the answer."""
    with output(folder / "results.json") as aside:
        write_json(aside, content)
    write_csv(folder / "results.csv", content)
    with processor_threads(threads):
        write_report(content, folder, folder / "report.html")
    console.print(table(content))
    console.print(printable(answer(content)), soft_wrap=True)
    for line in formatting.warnings(content["methods"]):
        console.print(line, soft_wrap=True)
    console.print(printable(f"report: {folder / 'report.html'}"), soft_wrap=True)


def check_results(folder: Path, data: str, task: str) -> None:
    """Refuse a folder whose files a comparison must not replace; before anything is run.

    Raises:
        InputError: if it holds what is no comparison's, results of other data or another task, or results that were
            changed since they were written.
    """
    check_output_folder(folder, "comparison")
    for name in ("results.json", "results.csv", "report.html"):
        check_output(folder / name)
    if (folder / "results.json").exists():
        found = read_json(folder / "results.json")
        before = found["task"], os.path.realpath(found["data"]["name"])
        if before != (task, os.path.realpath(data)):
            held = f"{found['task']} on {found['data']['name']}"
            raise InputError(f"{folder}: holds the comparison of {held}; choose another folder (out, --out)")


def command_line(
    arms: Sequence[Arm],
    data: str,
    task: str,
    imperfect: Sequence[str],
    seeds: int,
    baseline: str,
    jobs: int,
    ray: str | None,
    folder: Path,
    settings: Settings,
    tune: int = 0,
    references: bool = True,
) -> str:
    """The command that repeats a comparison."""
    words = ["counterpoise", "compare", "--task", task, "--data", data]
    for spec in imperfect:
        words += ["--imperfect", spec]
    words += ["--methods", ",".join(arm.label for arm in arms), "--baseline", baseline, "--seeds", str(seeds)]
    words += ["--tune", str(tune)] if tune else []
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value != f.default:
            flag = f"--{f.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    words += [] if references else ["--no-references"]
    words += ["--ray", ray] if ray else ["--jobs", str(jobs)]
    words += ["--out", str(folder)]
    return shlex.join(words)


def about(run: Run, results: dict[Key, Result]) -> dict[str, Any]:
    """The data's classes, counts, notes and shape, as any finished run has them, or else from the data itself."""
    names = ("classes", "counts", "sizes", "notes", "shape", "items")
    for result in results.values():
        if result["status"] == "done":
            return {name: value for name, value in result.items() if name in names}
    task = tasks.find(run.task)
    return task.facts(task.check(run))


def write_csv(path: Path, content: dict[str, Any]) -> None:
    """One row a run: method, seed, status, every metric, time, memory and folder."""
    names = ["label", "seed", "status", *content["metrics"], "seconds", "memory_mb", "folder", "error"]
    with output(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for row in (*content["methods"], *content.get("references", ())):
            for run in row["runs"]:
                writer.writerow({**run, **run.get("metrics", {}), "label": row["label"]})


def table(content: dict[str, Any]) -> Table:
    """The comparison as a table for the terminal, without columns that would be empty; the report has every metric."""
    caption = "mean with its 95 % interval"
    if content.get("references"):
        caption += "; the last rows cost no training"
    if any(row["labels"] for row in content["methods"]):
        caption += "; * reads the labels"
    title = Text(printable(f"{content['task']} on {content['data']['name']}"), "table.title")
    out = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("method", overflow="fold")
    metrics, methods = content["metrics"], content["methods"]
    shown = {name: content["shown"][name] for name in formatting.measured(content, content["shown"])}
    digits = {name: formatting.column_digits(methods, name, metrics[name]) for name in shown}
    main = content["main"]
    for heading in (*shown.values(), f"{shown[main].removesuffix(' %')} less {content['baseline']}'s", "s", "MB"):
        out.add_column(Text(printable(heading)), justify="right", overflow="fold")
    for row in (*methods, *(references := content.get("references", []))):
        if references and row is references[0]:
            out.add_section()
        failed = [run for run in row["runs"] if run["status"] == "failed"]
        summary = row["summary"]
        cells = [formatting.mean_cell(formatting.summary(row, name), metrics[name], digits[name]) for name in shown]
        against = formatting.change(formatting.difference(row, main), metrics[main], digits[main])
        used = [f"{summary[name]['mean']:.0f}" if name in summary else "—" for name in ("seconds", "memory_mb")]
        note = f" ({len(failed)} of {len(row['runs'])} failed)" if failed else ""
        label = printable(row["label"] + ("*" if row["labels"] else "") + note)
        out.add_row(*map(Text, (label, *cells, against, *used)))
    return out
