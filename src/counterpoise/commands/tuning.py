"""What `compare --tune` and the claims share: which arms are tuned over what, and what a result says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from counterpoise import tasks
from counterpoise.commands.arms import Arm
from counterpoise.engine.pool import Key
from counterpoise.engine.tuning import Arm as TunedArm
from counterpoise.engine.tuning import Grid, Sampled, load_optuna, trial_run, tune
from counterpoise.errors import InputError, RunFailed
from counterpoise.registry import catalogue
from counterpoise.registry.ledger import TUNING_SEED, Claim
from counterpoise.registry.search import defaults_of, space_text, tuning_space
from counterpoise.training.run import Run


def division_of(tune: int) -> int | None:
    """The division of the data of a comparison: where methods are tuned one for all its runs, the trials' among them.

    With a division for each seed, the trials would train on what another seed is scored by, and choose by it.
    """
    return TUNING_SEED if tune else None


def check_tuning(runs: Mapping[Key, Run], trials: int) -> None:
    """Refuse to tune what cannot be, before anything is written.

    Args:
        runs: of the comparison, by label and seed.
        trials: of each method; 0 tunes nothing.

    Raises:
        InputError: for a task or data of which nothing can be held out, a method with nothing to tune, or seeds among
            which is that of tuning.
        MissingExtra: where Optuna is not installed.
    """
    if not trials:
        return
    seeds = 1 + max(seed for _, seed in runs)
    if seeds > TUNING_SEED:
        raise InputError(f"seeds: expected at most {TUNING_SEED}, since seed {TUNING_SEED} tunes, got {seeds}")
    load_optuna()
    for run in _to_tune(runs).values():
        task = tasks.find(run.task)
        task.check_tunable()
        if getattr(run.settings, "nodes", 1) > 1:
            raise InputError("tune: chooses on one machine; expected nodes 1 with it")
        tuning_space(run.method, run.arguments)
        task.check(trial_run(run, {}), scored=True)


def _to_tune(runs: Mapping[Key, Run]) -> dict[str, Run]:
    """A run of each method by its label; of none that costs no training, and has nothing to choose."""
    return {label: run for (label, seed), run in runs.items() if seed == 0 and run.method not in catalogue.REFERENCES}


def tuned_arms(
    arms: Sequence[Arm],
    runs: Mapping[Key, Run],
    trials: int,
    folder: Path,
    jobs: int,
    console: Console,
    ray: str | None = None,
) -> tuple[list[Arm], dict[str, Any] | None]:
    """The rows of a comparison with the arguments that tuning chose, and what its results say of that.

    A method all of whose trials fail keeps its own arguments: its runs then fail, and those of the others go on.

    Args:
        arms: as they were asked for.
        runs: theirs, by label and seed.
        trials: of each; 0 tunes nothing.
        folder: of the comparison.
        jobs: trials at the same time.
        console: shows how far it is.
        ray: address of a Ray cluster.
    """
    to_tune = _to_tune(runs) if trials else {}
    if not to_tune:
        return list(arms), None
    task = tasks.find(next(iter(to_tune.values())).task)
    spaces = {label: tuning_space(run.method, run.arguments) for label, run in to_tune.items()}
    tried = {
        label: TunedArm(run, Sampled(spaces[label], defaults_of(run.method, spaces[label]), trials))
        for label, run in to_tune.items()
    }
    found = tune(tried, task.main, task.metrics[task.main].better, folder, jobs, console, ray)
    chosen = {label: one.arguments for label, one in found.items()}
    tuned = [
        replace(arm, arguments=tuple({**dict(arm.arguments), **chosen.get(arm.label, {})}.items())) for arm in arms
    ]
    methods = {label: {"space": space_text(spaces[label]), **one.content()} for label, one in found.items()}
    return tuned, {"trials": trials, "seed": TUNING_SEED, "by": task.main, "methods": methods}


def tune_claim(
    claim: Claim, runs: Mapping[str, Run], folder: Path, jobs: int, console: Console
) -> dict[str, dict[str, Any]]:
    """What is chosen for each arm of a claim, as its record holds it; empty where nothing is tuned.

    Args:
        claim: what is declared.
        runs: one of each arm.
        folder: of the claims' runs.
        jobs: trials at the same time.
        console: shows how far it is.

    Raises:
        RunFailed: where all trials of an arm fail, since a claim with runs missing has no verdict.
    """
    if not claim.spaces:
        return {}
    by, better = chooser(claim)
    arms = {label: TunedArm(runs[label], Grid(space)) for label, space in claim.spaces.items()}
    chosen = tune(arms, by, better, folder, jobs, console)
    for label, found in chosen.items():
        if found.error:
            raise RunFailed(f"claim {claim.slug}: tune: {label}: {found.error}")
    return {label: found.content() for label, found in chosen.items()}


def chooser(claim: Claim) -> tuple[str, str]:
    """The figure that chooses in a claim, and which of its values is better, "higher" or "lower".

    Raises:
        InputError: for a task of which nothing can be held out; where nothing says which value is the best.
    """
    task = tasks.find(claim.task)
    try:
        task.check_tunable()
    except InputError as error:
        raise InputError(f"claim {claim.slug}: {error}") from error
    by = claim.by or task.main
    if claim.best:
        return by, {"highest": "higher", "lowest": "lower"}[claim.best]
    if by not in task.metrics:
        raise InputError(
            f"claim {claim.slug}: best: expected highest or lowest, since {by} is no metric of the task {task.name}"
        )
    return by, task.metrics[by].better
