"""Claims: each paper's central claim run as it was declared, and judged as it was fixed in advance."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from counterpoise.commands.evidence import POINT, ItemsOf, difference, figure, summary, unit_of
from counterpoise.commands.tuning import chooser, division_of, tune_claim
from counterpoise.engine.pool import run_all
from counterpoise.engine.traces import Trace, agree, processor, trace_all
from counterpoise.errors import InputError, RunFailed, printable, unknown
from counterpoise.files import make_folder, make_output_folder, write_json, written
from counterpoise.measure.intervals import Estimate, holds, interval, interval_of, verdict
from counterpoise.registry.ledger import (
    OUT_OF_REGIME,
    WRITTEN_BY,
    Claim,
    Statement,
    declared,
    ledger_page,
    read,
    statement_line,
    verdict_text,
)
from counterpoise.tasks import find
from counterpoise.terminal import make_console
from counterpoise.training.run import Metric, Run, make_settings
from counterpoise.version import __version__


def claim(
    slugs: Sequence[str] = (),
    *,
    all: bool = False,
    report: bool = False,
    verify: bool = False,
    jobs: int = 1,
    ledger: str = "results/claims",
    page: str = "docs/results/claims.md",
    out: str = "counterpoise-out/claims",
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Run claims again and record what comes out, verify what is recorded, or write the ledger's page from it.

    Args:
        slugs: whose claims.
        all: every declared claim.
        report: run nothing; write the page of recorded results.
        verify: check those whose code has changed since they were recorded. A record stands for the new code where a
            few steps of each arm give what they gave (its traces, within tolerances that hold for any processor), or
            else its whole first seed the same figures, to the last digit; of any other, what differs is printed.
        jobs: runs at the same time, in processes of their own.
        ledger: folder of the recorded results, one JSON file a claim.
        page: the Markdown file that `report` writes.
        out: folder of the runs.
        quiet: print nothing.

    Returns:
        The records, as in the ledger; with `verify` those that stand.

    Raises:
        InputError: for a slug without a declared claim; for a claim that is to be run and cannot be, since it requires
            a reference, or its arms cannot be tuned.
        RunFailed: if a run failed.
    """
    known = declared()
    for slug in slugs:
        if slug not in known:
            raise unknown("claim", slug, known)
    chosen = [known[slug] for slug in (known if all else slugs)]
    if not chosen:
        raise InputError(f"claim: expected a SLUG or --all. Declared: {', '.join(known)}")
    console = make_console(quiet)
    folder = Path(ledger)
    if report:
        recorded = [read(folder, one) for one in chosen]
        shown = {one.task: find(one.task).shown for one in chosen}
        _write_page(Path(page), ledger_page(chosen, recorded, shown))
        console.print(printable(f"wrote {page}"))
        return [record for record in recorded if record]
    for one in [] if verify else chosen:  # rather now than after hours of work
        check_runnable(one)
    make_folder(folder)
    for one in chosen:  # what is no record must not be replaced
        read(folder, one)
    if verify:
        known_traces = traced(chosen, folder, jobs)
        found = [verified(one, folder, Path(out), jobs, console, known_traces.get(one.slug)) for one in chosen]
        return [record for record in found if record]
    records = []
    for one in chosen:
        record = settle(one, Path(out), jobs, console)
        write_json(folder / f"{one.slug}.json", record)
        for statement in record["requires"]:
            console.print(statement_line(statement, "required"))
        for statement in record["statements"]:
            console.print(statement_line(statement))
        console.print(printable(f"{one.slug}: {verdict_text(record)}") + "\n")
        records.append(record)
    return records


def _write_page(path: Path, text: str) -> None:
    """Write the ledger's page; a page that is none is not replaced."""
    if path.exists() and WRITTEN_BY not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path}: is there, and is no ledger's page; name another with page (--page)")
    make_folder(path.parent)
    with written(path) as aside:
        aside.write_text(text, encoding="utf-8")


def check_runnable(claim: Claim) -> None:
    """Refuse a claim that cannot be run, before anything is.

    Raises:
        InputError: for arguments, settings or values to try that its methods or task do not have; for arms that cannot
            be tuned; for a requirement by a reference that its task does not have, or its arm does not stand on.
    """
    claim.check()
    if claim.spaces:
        chooser(claim)
    reference_runs(claim, runs(claim))


def runs(claim: Claim, chosen: Mapping[str, Mapping[str, Any]] | None = None) -> dict[tuple[str, int], Run]:
    """Every run that a claim needs, by arm and seed.

    Args:
        claim: what is declared.
        chosen: for each arm that was tuned, the `arguments` and `settings` that were chosen.
    """
    found, division = {}, division_of(len(claim.spaces))
    for seed in claim.all_seeds:
        for label, arm in claim.arms.items():
            tuned = (chosen or {}).get(label, {"arguments": {}, "settings": {}})
            options = {**(claim.settings or {}), **arm.get("settings", {}), **tuned["settings"]}
            settings = make_settings(find(claim.task).settings, options)
            imperfect = tuple(arm.get("imperfect", claim.imperfect))
            data = arm.get("data", claim.data)
            arguments = {**arm.get("arguments", {}), **tuned["arguments"]}
            found[label, seed] = Run(
                arm["method"], data, seed, arguments, imperfect, settings, claim.task, division=division
            )
    return found


def first_runs(claim: Claim, own: Mapping[tuple[str, int], Run]) -> dict[str, Run]:
    """Of a claim's runs those with its first seed, by arm."""
    return {label: own[label, claim.all_seeds[0]] for label in claim.arms}


def reference_runs(claim: Claim, arms: Mapping[tuple[str, int], Run]) -> dict[tuple[str, int], Run]:
    """The runs of what a claim requires comparisons with, by name and seed; see `Claim.references`.

    Args:
        claim: what is declared.
        arms: its runs. A reference has the data and settings of the arm after its colon, or else of the first.

    Raises:
        InputError: for a reference that the task does not have, and that is no model which the arm stands on.
    """
    task, found = find(claim.task), {}
    for name in claim.references:
        reference, _, arm = name.partition(":")
        label = arm or next(iter(claim.arms))
        for seed in claim.all_seeds:
            run = arms[label, seed]
            if reference in task.references:
                one = task.reference_run(run, reference)
            else:
                one = next((given.run for given in task.given(run) if given.role == reference), None)
            if one is None:
                raise InputError(f"claim {claim.slug}: requires: {name}: the arm {label} has no {reference} to score")
            found[name, seed] = one
    return found


def settle(claim: Claim, out: Path, jobs: int = 1, console: Console | None = None) -> dict[str, Any]:
    """Run a claim's arms over its seeds and judge its statements, if what it requires holds.

    Raises:
        InputError: for a claim that cannot be run; see `check_runnable`.
        RunFailed: if a run failed, since a claim with runs missing has no verdict.
    """
    check_runnable(claim)
    console = console or make_console(quiet=True)
    console.print(f"{claim.slug}: {claim.words}")
    folder = make_output_folder(out, "comparison")
    chosen = tune_claim(claim, first_runs(claim, runs(claim)), folder, jobs, console)
    own = runs(claim, chosen)
    results = run_all({**own, **reference_runs(claim, own)}, folder, jobs, console)
    items = ItemsOf(out)
    for (label, seed), result in results.items():
        if result["status"] == "failed":
            raise RunFailed(f"claim {claim.slug}: {label}, seed {seed} failed: {result['error']}")
    return {
        "slug": claim.slug,
        "says": claim.words,
        **judge_claim(claim, results, items),
        "tune": claim.spaces,
        "by": claim.by,
        "best": claim.best,
        "chosen": chosen,
        "arms": {label: _arm(label, results, claim.all_seeds, items) for label in claim.arms},
        "references": {name: _arm(name, results, claim.all_seeds, items) for name in claim.references},
        "data": claim.data,
        "imperfect": list(claim.imperfect),
        "seeds": _recorded_seeds(claim),
        "notes": next(iter(results.values()))["notes"],
        "seconds": sum(result["seconds"] for result in results.values()),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": f"counterpoise claim {claim.slug}",
        "code": claim.code(),
        "versions": {
            "counterpoise": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "traces": trace_all(first_runs(claim, own)),
        "processor": processor(),
    }


def verified(
    claim: Claim,
    folder: Path,
    out: Path,
    jobs: int = 1,
    console: Console | None = None,
    traces: dict[str, Trace] | None = None,
) -> dict[str, Any] | None:
    """The record of a claim, if it stands for the code as it is now.

    It does where the traces of all arms agree (see `engine.traces`); or else, and of a record without traces, where the
    first seed gives the same figures to the last digit.

    Args:
        claim: what is declared.
        folder: of the ledger; a record that stands is written there for the new code, with the day.
        out: folder of the runs.
        jobs: runs at the same time.
        console: where the outcome is printed.
        traces: of its arms, where these are known already.

    Returns:
        The record, or `None` where there is none, or it does not stand. Arms that are tuned have the arguments and
        settings that were chosen when it was recorded.

    Raises:
        InputError: for a claim that must be run and cannot be; see `check_runnable`.
    """
    console = console or make_console(quiet=True)
    record = read(folder, claim)
    if record is None:
        console.print(f"{claim.slug}: is not recorded yet")
        return None
    if not record.pop("stale"):
        return record
    if not _is_declared_alike(claim, record):
        console.print(f"{claim.slug}: is declared in another way since; it must be run again")
        return None
    check_runnable(claim)
    own = runs(claim, record.get("chosen"))
    if "traces" in record:
        traces = traces or trace_all(first_runs(claim, own))
        if (differs := agree(record["traces"], traces)) is None:
            return _standing(claim, record, folder, "the traces of all arms agree", console)
        console.print(printable(f"{claim.slug}: its traces differ, so that the first seed is run: {differs}"))
    seed = claim.all_seeds[0]
    first = {key: run for key, run in {**own, **reference_runs(claim, own)}.items() if key[1] == seed}
    results = run_all(first, make_output_folder(out, "comparison"), jobs, console)
    failed = [result["error"] for result in results.values() if result["status"] == "failed"]
    before = [*record.get("requires", []), *record["statements"]]
    for statement, recorded in zip([*claim.requires, *claim.statements], before, strict=True):
        now = failed[0] if failed else judge(statement, results, [seed])["values"][0]
        if now != recorded["values"][0]:
            differs = f"{statement.says}: {now} with seed {seed}, recorded {recorded['values'][0]}"
            console.print(printable(f"{claim.slug}: must be run again. {differs}"))
            return None
    return _standing(claim, record, folder, "the first seed gives the same figures", console)


def _standing(claim: Claim, record: dict[str, Any], folder: Path, why: str, console: Console) -> dict[str, Any]:
    """A record that stands, written for the code as it is now."""
    record |= {"code": claim.code(), "verified": datetime.now(timezone.utc).date().isoformat()}
    write_json(folder / f"{claim.slug}.json", record)
    console.print(f"{claim.slug}: stands, {why}")
    return record


def traced(claims: Sequence[Claim], folder: Path, jobs: int) -> dict[str, dict[str, Trace]]:
    """The traces of those claims whose records are stale and have some, several claims at a time.

    Args:
        claims: that are verified.
        folder: of the ledger.
        jobs: processes.
    """
    wanted = {}
    for one in claims:
        record = read(folder, one)
        if record and record["stale"] and "traces" in record and _is_declared_alike(one, record):
            own = runs(one, record.get("chosen"))
            wanted[one.slug] = {label: own[label, 0] for label in one.arms}
    if len(wanted) < 2 or jobs < 2:
        return {slug: trace_all(arms) for slug, arms in wanted.items()}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return dict(zip(wanted, pool.map(trace_all, wanted.values()), strict=True))


def _is_declared_alike(claim: Claim, record: Mapping[str, Any]) -> bool:
    """Whether a record is of the same statements, seeds and tuning as are declared now."""

    def as_declared(key: str) -> list[dict[str, Any]]:
        margin = {"margin": 0}  # of records that are older than margins
        return [{f.name: {**margin, **row}[f.name] for f in fields(Statement)} for row in record.get(key, [])]

    return (
        as_declared("statements") == [asdict(statement) for statement in claim.statements]
        and as_declared("requires") == [asdict(statement) for statement in claim.requires]
        and record["seeds"] == _recorded_seeds(claim)
        and (record.get("tune", {}), record.get("by"), record.get("best")) == (claim.spaces, claim.by, claim.best)
        and record.get("chosen", {}).keys() == claim.spaces.keys()
    )


def _recorded_seeds(claim: Claim) -> int | list[int]:
    """As JSON gives them back."""
    return list(claim.seeds) if isinstance(claim.seeds, tuple) else claim.seeds


Results = Mapping[tuple[str, int], Mapping[str, Any]]


def judge_claim(claim: Claim, results: Results, items: ItemsOf | None = None) -> dict[str, Any]:
    """The verdict of a claim, and what it requires and states with figures and verdicts.

    Args:
        claim: what is declared.
        results: of every arm and seed.
        items: what each test item adds to the metrics of a run.

    Returns:
        `verdict`, `requires` and `statements`. The verdict is that of all statements where they agree, "refuted" where
        one of them is, and else "inconclusive"; it is "out of regime", and so is that of every statement, where a
        requirement does not hold by its mean over the seeds.
    """
    metrics = find(claim.task).metrics
    requires = [judge_requirement(statement, results, claim.all_seeds, items) for statement in claim.requires]
    statements = [judge(statement, results, claim.all_seeds, metrics, items) for statement in claim.statements]
    if any(requirement["verdict"] != "holds" for requirement in requires):
        statements = [{**statement, "verdict": OUT_OF_REGIME} for statement in statements]
    verdicts = {statement["verdict"] for statement in statements}
    return {
        "verdict": verdicts.pop() if len(verdicts) == 1 else "refuted" if "refuted" in verdicts else "inconclusive",
        "requires": requires,
        "statements": statements,
    }


def judge(
    statement: Statement,
    results: Results,
    seeds: Sequence[int],
    metrics: Mapping[str, Metric] | None = None,
    items: ItemsOf | None = None,
) -> dict[str, Any]:
    """A statement with its values seed by seed, their interval over seeds and test items, and the verdict.

    Args:
        statement: what is expected.
        results: of every arm that it weighs, and every seed.
        seeds: whose runs are judged.
        metrics: of the task, which say what one point is.
        items: what each test item adds to the metrics of a run.

    Returns:
        The statement's fields; `values`, the weighted sum of each seed with the margin added; those of
        `evidence.difference`; and `verdict`.
    """
    values, found = _estimated(statement, results, seeds, items)
    shares = any(statement.metric in results[arm, seeds[0]]["groups"] for arm in statement.of)
    unit = POINT if shares else unit_of((metrics or {}).get(statement.metric))
    outcome = verdict(interval_of(found), statement.expect)
    return {**asdict(statement), "values": values, **difference(found, unit), "verdict": outcome}


def judge_requirement(
    statement: Statement, results: Results, seeds: Sequence[int], items: ItemsOf | None = None
) -> dict[str, Any]:
    """As `judge`, of a requirement: its verdict is "holds" or "does not hold", by the mean alone."""
    values, found = _estimated(statement, results, seeds, items)
    outcome = "holds" if holds(interval_of(found), statement.expect) else "does not hold"
    return {**asdict(statement), "values": values, **summary(found), "verdict": outcome}


def _estimated(
    statement: Statement, results: Results, seeds: Sequence[int], items: ItemsOf | None
) -> tuple[list[float], Estimate]:
    """The figure of each seed, and the estimate over seeds and test items."""
    values = _values(statement, results, seeds)
    of_seeds = [[(weight, results[arm, seed]) for arm, weight in statement.of.items()] for seed in seeds]
    return values, figure(values, of_seeds, statement.metric, items or ItemsOf())


def _values(statement: Statement, results: Results, seeds: Sequence[int]) -> list[float]:
    """The figure of each seed: the weighted sum over the arms, and the margin."""
    return [
        sum(weight * value(results[arm, seed], statement.metric) for arm, weight in statement.of.items())
        + statement.margin
        for seed in seeds
    ]


def value(result: Mapping[str, Any], name: str) -> float:
    """One figure of a run, wherever it stands: a metric, a group's accuracy, or a diagnostic."""
    everything = {**result["metrics"], **result["groups"], **result["diagnostics"]}
    if name not in everything:
        raise unknown("metric", name, everything)
    return float(everything[name])


def _arm(label: str, results: Results, seeds: Sequence[int], items: ItemsOf) -> dict[str, Any]:
    done = [results[label, seed] for seed in seeds]
    names = [*done[0]["metrics"], *done[0]["groups"], *done[0]["diagnostics"]]
    of_seeds = [[(1, run)] for run in done]
    figures = {name: summary(figure([value(run, name) for run in done], of_seeds, name, items)) for name in names}
    return {**figures, "seconds": interval([run["seconds"] for run in done]).mean}
