"""Equal tuning: as many trials for every method, on data held out of training for that alone, before any is scored.

A trial is an ordinary run (`Run.tuning`) with a seed that no comparison and no claim uses. It lies below `tuning/`
beside `runs/` and is found again by its name, so that a call that was stopped goes on. What to try next is asked in
waves of a fixed size, from the figures of the waves before, in the order of the trials: so neither the number of jobs
nor a stop changes what is chosen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from counterpoise.engine.pool import run_all
from counterpoise.errors import MissingExtra, unknown
from counterpoise.files import make_output_folder
from counterpoise.registry.ledger import TUNING_SEED
from counterpoise.registry.search import Range, Space, Spread, combinations
from counterpoise.training.run import Result, Run

FOLDER = "tuning"  # of a comparison: its trials
WAVE = 4  # trials that are asked for together, whatever the number of jobs
STARTUP = 8  # trials at random before the sampler learns from them
DIGITS = 3  # of a number that is drawn from a range, so that a user can write it


class Trial(NamedTuple):
    """One trial.

    Attributes:
        arguments: of the method that it tried.
        settings: of the task that it tried.
        figure: what it is judged by; `None` for a trial that failed, or has no such figure: it counts as the worst.
        seconds: of training; `None` for one that failed.
        error: what it failed with.
        folder: of its run, below that of the comparison.
    """

    arguments: dict[str, Any]
    settings: dict[str, Any]
    figure: float | None
    seconds: float | None
    error: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Tuned:
    """What was chosen for one arm, and from what.

    Attributes:
        arguments: of the method; none where all trials failed.
        settings: of the task; likewise.
        trials: in their order; of equal figures the first is chosen.
    """

    arguments: dict[str, Any]
    settings: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def error(self) -> str | None:
        """Why nothing could be chosen, where all trials failed."""
        if any(trial.figure is not None for trial in self.trials):
            return None
        return f"all {len(self.trials)} trials failed; the first of them: {self.trials[0].error}"

    @property
    def seconds(self) -> float:
        """Training time of all trials together; of those that were the same run, once."""
        return sum({trial.folder: trial.seconds or 0.0 for trial in self.trials}.values())

    def content(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "arguments": self.arguments,
            "settings": self.settings,
            "seconds": self.seconds,
            "trials": [trial._asdict() for trial in self.trials],
        }


class Proposals(Protocol):
    """What is tried of one arm."""

    def ask(self) -> list[dict[str, Any]]:
        """The values of the next wave of trials; none where there are no more."""

    def tell(self, figures: Sequence[float]) -> None:
        """What came of that wave: the higher, the better; minus infinity for a trial that failed."""


class Grid:
    """Every combination of the values of a space, all in one wave.

    Examples:
        >>> grid = Grid({"lr": [0.001, 0.01]})
        >>> grid.ask(), grid.ask()
        ([{'lr': 0.001}, {'lr': 0.01}], [])
    """

    def __init__(self, space: Space):
        self.left = list(combinations(space))

    def ask(self) -> list[dict[str, Any]]:
        asked, self.left = self.left, []
        return asked

    def tell(self, figures: Sequence[float]) -> None:
        """Nothing depends on it."""


class Sampled:
    """Values that Optuna's TPE sampler draws: the defaults first, some at random, then near those that did well.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.

    Args:
        space: what is tuned.
        defaults: the method's own values, which are the first trial.
        trials: how many, 1 or more.

    Raises:
        MissingExtra: where Optuna is not installed.
    """

    def __init__(self, space: Spread, defaults: Mapping[str, Any], trials: int):
        self.optuna = load_optuna()
        self.space, self.defaults, self.count, self.told = dict(space), dict(defaults), trials, 0
        self.pending: list[Any] = []
        with warnings.catch_warnings(), _quiet(self.optuna):
            warnings.simplefilter("ignore")  # options that are marked as new
            sampler = self.optuna.samplers.TPESampler(seed=TUNING_SEED, n_startup_trials=STARTUP, constant_liar=True)
            self.study = self.optuna.create_study(direction="maximize", sampler=sampler)
        self.distributions = {name: self._distribution(values) for name, values in self.space.items()}

    def ask(self) -> list[dict[str, Any]]:
        number = min(WAVE, self.count - self.told)
        if not number:
            return []
        first = [dict(self.defaults)] if self.told == 0 else []
        self.pending = [self.study.ask(self.distributions) for _ in range(number - len(first))]
        return [*first, *(self._values(trial.params) for trial in self.pending)]

    def tell(self, figures: Sequence[float]) -> None:
        self.told += len(figures)
        if len(figures) > len(self.pending):
            self._tell_of_defaults(figures[0])
            figures = figures[1:]
        for trial, figure in zip(self.pending, figures, strict=True):
            self.study.tell(trial, figure)

    def _tell_of_defaults(self, figure: float) -> None:
        """Add the trial of the defaults, unless one of them is not among the values that can be drawn."""
        params = {}
        for name, values in self.space.items():
            value = self.defaults[name]
            if isinstance(values, Range):
                if not values.low <= value <= values.high:
                    return
                params[name] = value
            elif value in values:
                params[name] = values.index(value)
            else:
                return
        made = self.optuna.trial.create_trial(params=params, distributions=self.distributions, value=figure)
        self.study.add_trial(made)

    def _distribution(self, values: Sequence[Any] | Range) -> Any:
        """Of a list, the places are drawn: its values may be of any kind."""
        if isinstance(values, Range):
            return self.optuna.distributions.FloatDistribution(values.low, values.high, log=True)
        return self.optuna.distributions.CategoricalDistribution(range(len(values)))

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: float(f"{params[name]:.{DIGITS}g}") if isinstance(values, Range) else values[params[name]]
            for name, values in self.space.items()
        }


def load_optuna() -> Any:
    """Optuna, imported now.

    Raises:
        MissingExtra: where it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "tune") from error
    return optuna


class Arm(NamedTuple):
    """What is tuned.

    Attributes:
        run: one run of it, of any seed.
        proposals: what is tried of it.
    """

    run: Run
    proposals: Proposals


def tune(
    arms: Mapping[str, Arm],
    by: str,
    better: str,
    folder: Path,
    jobs: int,
    console: Console,
    ray: str | None = None,
) -> dict[str, Tuned]:
    """Choose for each arm, by its trials, the arguments and settings that do best on data held out for that.

    Args:
        arms: by their labels.
        by: the figure that chooses: a metric, a group or a diagnostic of a run.
        better: "higher" or "lower".
        folder: of the comparison; the trials lie below its `tuning/`.
        jobs: trials at the same time.
        console: shows how far it is.
        ray: address of a Ray cluster; see `run_all`.

    Raises:
        InputError: for a figure that no trial has.
    """
    found: dict[str, list[Trial]] = {label: [] for label in arms}
    while wave := {label: asked for label, arm in arms.items() if (asked := arm.proposals.ask())}:
        trials = {
            (f"{label}, trial {len(found[label]) + place}", TUNING_SEED): trial_run(arms[label].run, values)
            for label, asked in wave.items()
            for place, values in enumerate(asked, 1)
        }
        results = run_all(trials, make_output_folder(folder / FOLDER, "comparison"), jobs, console, ray)
        _check_figure(by, results.values())
        in_order = iter([results[key] for key in trials])
        for label, asked in wave.items():
            made = [_trial(arms[label].run, values, next(in_order), by) for values in asked]
            arms[label].proposals.tell([_height(trial, better) for trial in made])
            found[label] += made
    return {label: _chosen(trials, better) for label, trials in found.items()}


def trial_run(run: Run, values: Mapping[str, Any]) -> Run:
    """The run that tries some values of what another run has.

    Args:
        run: of the arm; the trial has its division of the data, or else that of its own seed.
        values: of arguments and settings; a setting comes before an argument of that name.
    """
    arguments, changes = divided(run, values)
    settings = replace(run.settings, **changes)
    return replace(
        run,
        seed=TUNING_SEED,
        division=TUNING_SEED if run.division is None else run.division,
        tuning=True,
        arguments={**run.arguments, **arguments},
        settings=settings,
        files=run.files if settings == run.settings else None,
    )


def divided(run: Run, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which of some values are of the method's arguments, and which of the task's settings."""
    known = {f.name for f in fields(run.settings)}
    arguments = {name: value for name, value in values.items() if name not in known}
    return arguments, {name: value for name, value in values.items() if name in known}


def _trial(run: Run, values: Mapping[str, Any], result: Result, by: str) -> Trial:
    arguments, settings = divided(run, values)
    if result["status"] != "done":
        return Trial(arguments, settings, None, None, error=result["error"])
    figure = _figures(result).get(by)
    known = figure is not None and math.isfinite(figure)
    error = None if known else f"has no {by}, as what has collapsed or diverged"
    return Trial(
        arguments, settings, figure if known else None, result["seconds"], error, f"{FOLDER}/{result['folder']}"
    )


def _figures(result: Result) -> dict[str, Any]:
    """All figures of a run by name."""
    return {**result["metrics"], **result["groups"], **result["diagnostics"]}


def _check_figure(by: str, results: Iterable[Result]) -> None:
    """Refuse to choose by a figure that no trial has."""
    done = [_figures(result) for result in results if result["status"] == "done"]
    if done and not any(by in figures for figures in done):
        raise unknown("tune: figure to choose by", by, (name for figures in done for name in figures))


def _height(trial: Trial, better: str) -> float:
    """The higher, the better."""
    if trial.figure is None:
        return -math.inf
    return trial.figure if better == "higher" else -trial.figure


def _chosen(trials: Sequence[Trial], better: str) -> Tuned:
    best = max(trials, key=lambda trial: _height(trial, better))  # of equal ones the first
    if best.figure is None:
        return Tuned({}, {}, tuple(trials))
    return Tuned(best.arguments, best.settings, tuple(trials))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from printing what it begins."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
