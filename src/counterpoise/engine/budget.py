"""Minutes of training turned into optimiser steps, by a short measurement before runs are named.

Every method of a comparison gets the same steps, measured once, with its baseline. They stand in each run's name, in
the results and in the command that repeats it; minutes would be other steps on every machine and at every call.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import Callback
from rich.console import Console

from counterpoise import tasks
from counterpoise.data.images import shape_of
from counterpoise.engine.given import run_name
from counterpoise.errors import InputError, printable
from counterpoise.files import read_json, write_json
from counterpoise.learners.learner import Learner
from counterpoise.registry import catalogue
from counterpoise.tasks.base import Watch
from counterpoise.training.run import LearnerSettings, Run, Settings, processor_threads
from counterpoise.training.trainer import steps_done

FILE = "budget.json"
WARM, TIMED = 3, 7  # steps
PATIENCE = 30.0  # seconds after which fewer timed steps are enough


class Pace(NamedTuple):
    """How fast a method trains.

    Attributes:
        step: seconds of one step of the optimiser.
        epoch: seconds between epochs, for probe and checkpoint.
        each: steps of an epoch.
    """

    step: float
    epoch: float
    each: int

    def steps(self, minutes: float) -> int:
        """The steps that take so many minutes, with what comes between epochs; at least one.

        Examples:
            >>> Pace(step=0.5, epoch=5.0, each=10).steps(minutes=1)
            60
        """
        return max(1, round(60 * minutes / (self.step + self.epoch / self.each)))


def settled_budget(runs: Sequence[Run], folder: Path, console: Console) -> Settings:
    """The settings of some runs, with steps in the place of minutes where these are given.

    Args:
        runs: of all methods, whose settings are the same; the first that trains is measured.
        folder: keeps what was measured, so that the same call goes on with the same steps.
        console: what was measured is printed to it.

    Raises:
        InputError: if none of the methods has anything to train, or several processes train together.
    """
    settings = runs[0].settings
    if not isinstance(settings, LearnerSettings) or settings.minutes is None:
        return settings
    key, path = run_name(runs[0]), folder / FILE
    found = read_json(path) if path.exists() else {}
    if found.get("key") != key:
        method, pace = _first_pace(runs)
        found = {"key": key, "method": method, **pace._asdict(), "steps": pace.steps(settings.minutes)}
        write_json(path, found)
    steps = found["steps"]
    console.print(
        printable(
            f"{settings.minutes:g} minutes: {steps:,} steps, measured with {catalogue.short_slug(found['method'])} "
            f"({1000 * found['step']:.0f} ms a step, {found['epoch']:.1f} s between epochs)"
        ),
        soft_wrap=True,
    )
    return replace(settings, minutes=None, steps=steps)


def _first_pace(runs: Sequence[Run]) -> tuple[str, Pace]:
    """The first method that trains, and its pace."""
    for run in runs:
        if (pace := measure_pace(run)) is not None:
            return run.method, pace
    raise InputError("minutes: none of the methods has anything to train; leave it out")


def measure_pace(run: Run) -> Pace | None:
    """Train a method for a few steps in a folder that is thrown away; `None` where it has nothing to train.

    Models that it stands on have random weights here.

    Args:
        run: what is measured, with its own data and settings.

    Raises:
        InputError: where several processes train together.
    """
    settings = run.settings
    assert isinstance(settings, LearnerSettings)
    if settings.process_group().size > 1:
        raise InputError("minutes: are measured in one process; expected epochs or steps with several devices or nodes")
    few = replace(settings, minutes=None, steps=WARM + TIMED)
    run, task, watch = replace(run, settings=few), tasks.find(run.task), Stopwatch()
    with processor_threads(settings.threads), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again from the run itself
        parts = task.load(run)
        learner = task.make(run, parts, task.blank_models(run, shape_of(task.training_data(parts))))
        if not (isinstance(learner, Learner) and learner.trains):
            return None
        task.train(run, learner, parts, Path(folder), Watch(callbacks=(watch,)))
    return watch.pace()


class Stopwatch(Callback):
    """Times the steps of a short training, and what comes after the last."""

    def __init__(self) -> None:
        self.spans: list[float] = []
        self.since: float | None = None  # when the step began
        self.done = self.each = 0
        self.start = self.end = self.after = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = time.perf_counter()
        self.each = max(1, trainer.num_training_batches // trainer.accumulate_grad_batches)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.since = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.since is None:
            self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now, done = time.perf_counter(), steps_done(trainer)
        if done == self.done or self.since is None:  # gradients are still being added up
            return
        if done > WARM:
            self.spans.append(now - self.since)
        self.since = self.end = now  # fetching the next batch is part of the next step
        self.done = done
        if now - self.start > PATIENCE and len(self.spans) > 1:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.after = time.perf_counter() - self.end

    def pace(self) -> Pace:
        """What was measured: the median step, so that one that was disturbed does not count."""
        return Pace(statistics.median(self.spans), self.after, self.each)
