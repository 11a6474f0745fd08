"""The survival task: which method ranks items best by the time of their event, and has the best survival curves?

Every method trains on rows with the time of an event or of censoring each. All are judged on the same pairs of test
items: all comparable ones, and these divided by a horizon into pairs of short and of long times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from counterpoise.data.identity import Identity, content_keys, order_of
from counterpoise.data.survival import Survival, SurvivalSplits, load_survival, scikit_survival
from counterpoise.errors import InputError
from counterpoise.learners.hazard import HazardLearner, Predicted, interval_of
from counterpoise.measure.survival import (
    concordance,
    concordance_pairs,
    integrated_brier,
    ipcw_concordance,
    survival_calibration,
)
from counterpoise.measure.undertraining import few_steps
from counterpoise.nets.rows import StandardizedRows
from counterpoise.ops.checks import check_number
from counterpoise.tasks.base import NONE_GIVEN, Offers, Task, blank_encoder, start_encoder
from counterpoise.tasks.kinds import of_kind
from counterpoise.training.run import LearnerSettings, Metric, Run, Scores, load_once

HELD_OUT = 0.2  # of the training rows, for tuning
STEPS = 100  # times at which curves are compared with the truth
INNER = (0.1, 0.9)  # quantiles of the test times between which they lie
HORIZONS = (0.25, 0.5, 0.75)  # quantiles of the training events' times, for calibration
TOP = 0.25  # of the test rows, by weight


@dataclass(frozen=True)
class SurvivalSettings(LearnerSettings):
    """What the methods of the survival task share.

    Args:
        horizon: the time that divides short from long lifetimes, in the unit of the data; `None` takes the data's own,
            or the median time of the training events.
    """

    horizon: float | None = None

    def check(self) -> None:
        super().check()
        if self.horizon is not None:
            check_number("horizon", self.horizon, above=0)


class SurvivalTask(Task[SurvivalSplits]):
    """Times to an event, part of them censored, predicted from rows of numbers."""

    name = "survival"
    settings = SurvivalSettings
    metrics: ClassVar = {
        "c_index": Metric(
            "concordance",
            meaning="the share of comparable pairs of test items in which the earlier event has the higher risk",
        ),
        "c_short": Metric(
            "concordance of short lifetimes", meaning="of the pairs whose earlier event is not after the horizon"
        ),
        "c_long": Metric(
            "concordance of long lifetimes", meaning="of the pairs whose earlier event is after the horizon"
        ),
        "c_weighted": Metric(
            "weighted concordance", meaning="each pair counts as the product of the weights that the data has"
        ),
        "c_ipcw": Metric(
            "concordance by inverse censoring",
            meaning="pairs count by how likely they are not censored (Uno), so that it does not depend on censoring",
        ),
        "brier": Metric(
            "integrated Brier score",
            "lower",
            percent=False,
            meaning="the squared error of the survival curves over time; 0.25 of a curve that is one half throughout",
        ),
        "calibration": Metric(
            "calibration error",
            "lower",
            meaning="predicted less observed shares of survivors, over five groups, mean of three times",
        ),
    }
    shown: ClassVar = {
        "c_index": "C %",
        "c_short": "C short %",
        "c_long": "C long %",
        "c_weighted": "C weighted %",
        "brier": "Brier",
    }
    main = "c_index"
    front = ("c_short", "c_long")
    baseline = "ad-survival:heads=1"
    references: ClassVar = {
        "no-features": "no-features",
        "raw": "raw-cox",
        "untrained": "untrained-cox",
        "start": "start-cox",
    }
    items = "rows"

    def load(self, run: Run) -> SurvivalSplits:
        return load_once(run, prepare)

    def tuning_parts(self, run: Run, parts: SurvivalSplits) -> SurvivalSplits:
        """A fifth of the training rows, drawn by the seed, to choose by."""
        count = len(parts.train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(run.seed))
        held = round(HELD_OUT * count)
        return SurvivalSplits(parts.train.subset(order[held:]), parts.train.subset(order[:held]))

    def sample(self, run: Run, parts: SurvivalSplits, most: int) -> SurvivalSplits:
        """The first rows of each part, which are in a random order."""
        return SurvivalSplits(*(part.subset(torch.arange(min(most, len(part)))) for part in parts))

    def check_parts(self, run: Run, parts: SurvivalSplits, scored: bool) -> None:
        """Refuse data without an event to learn from, or without two comparable items to judge by.

        Raises:
            MissingExtra: without the library of two of the measures, before anything is trained.
        """
        scikit_survival("metrics")
        if not parts.train.events.any():
            raise InputError(f"{run.data}: expected some event in training, got {len(parts.train):,} censored rows")
        test = parts.test
        first = test.times[test.events].min() if test.events.any() else torch.inf
        if not bool((test.times > first).any()):
            raise InputError(f"{run.data}: expected two test rows, one with an event before the other's time, got none")

    def offers(self, run: Run, parts: SurvivalSplits) -> Offers:
        return {
            "samples": lambda: len(parts.train),
            "shape": lambda: list(parts.train.inputs.shape[1:]),
            "columns": lambda: list(parts.train.columns),
            "horizon": lambda: horizon_of(run, parts.train),
        }

    def inputs(self, run: Run, shape: Sequence[int], data: Any = None) -> dict[str, Any]:
        """An encoder of rows, which scales their columns as in training; rows have no views."""
        settings = run.settings
        assert isinstance(settings, LearnerSettings)
        encoder = StandardizedRows(blank_encoder(settings, shape), shape[0])
        if data is not None:
            encoder.fit(data.inputs)
        return {"encoder": start_encoder(settings, encoder), "augment": nn.Identity()}

    def make(self, run: Run, parts: SurvivalSplits, given: Offers = NONE_GIVEN) -> HazardLearner:
        """The method of a run; one that predicts no risks is refused."""
        return of_kind(super().make(run, parts, given), HazardLearner, run, "has no risks to rank by")

    def score(self, run: Run, learner: Any, parts: SurvivalSplits, curve: Sequence[Mapping[str, float]]) -> Scores:
        """All metrics; concordance on each head's own grid beside them, and that of the rows of the largest weights."""
        settings = run.settings
        assert isinstance(settings, LearnerSettings)
        train, test = parts
        at = times_to_judge(test)
        marks = train.times[train.events].quantile(torch.tensor(HORIZONS).double())
        found = learner.predict(test, torch.cat([at, marks]))
        gaps = calibration_at(test, found, marks)
        metrics, items = score_each(parts, found, at, gaps, horizon_of(run, train))
        few = few_steps(len(train), settings.batch_size, settings.epochs, settings.accumulate, settings.steps)
        keys = content_keys(test.inputs) if test.numbers is None else test.numbers
        return Scores(
            metrics,
            diagnostics={**gaps, **_diagnostics(learner, test, found)},
            warnings=[few] if few and learner.trains else [],
            items=items,
            identity=Identity(keys, order_of(zip(test.times.tolist(), test.events.tolist(), strict=True))),
        )

    def facts(self, parts: SurvivalSplits) -> dict[str, Any]:
        """What a result says of its data: no classes, but sizes, notes, shape and columns."""
        return {
            "classes": [],
            "counts": {},
            "sizes": {name: len(part) for name, part in parts._asdict().items()},
            "notes": list(dict.fromkeys([*parts.train.notes, *parts.test.notes])),
            "shape": list(parts.train.inputs.shape[1:]),
            "columns": list(parts.train.columns),
        }


def prepare(data: str, division: int) -> SurvivalSplits:
    """The rows of a run: all that is drawn of them comes from the seed of the division."""
    return load_survival(data, division)


def horizon_of(run: Run, train: Survival) -> float:
    """The time that divides short from long lifetimes: of the settings, else of the data, else the median of events."""
    chosen = getattr(run.settings, "horizon", None) or train.horizon
    return float(train.times[train.events].median()) if chosen is None else float(chosen)


def times_to_judge(test: Survival) -> Float64[Tensor, " steps"]:
    """Times at which curves are judged: evenly between two quantiles of the test times."""
    low, high = test.times.quantile(torch.tensor(INNER).double()).tolist()
    return torch.linspace(low, high, STEPS, dtype=torch.float64).unique()


def score_each(
    parts: SurvivalSplits,
    found: Predicted,
    at: Float[Tensor, " steps"],
    gaps: Mapping[str, float],
    horizon: float,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """All metrics that are defined, and what each test item adds to those that are means over items.

    Args:
        parts: the data.
        found: what is predicted of its test rows; survival first at the times of `at`.
        at: times for the Brier score.
        gaps: calibration errors, of which the metric is the mean.
        horizon: divides short from long times.
    """
    train, test = parts
    asked: dict[str, tuple[Tensor, Tensor | None, float, float | None]] = {
        "c_index": (found.risk, None, 0.0, None),
        "c_short": (found.short, None, 0.0, horizon),
        "c_long": (found.long, None, horizon, None),
    }
    if test.weights is not None:
        asked["c_weighted"] = (found.risk, test.weights, 0.0, None)
    metrics: dict[str, float | None] = {}
    items: dict[str, Tensor] = {}
    for name, (risk, weights, start, end) in asked.items():
        pairs = concordance_pairs(test.times, test.events, risk, weights, start, end)
        metrics[name] = pairs.concordance(SurvivalTask.metrics[name].title)
        if metrics[name] is not None:
            items[name] = pairs.influence()
    known = train.times, train.events
    metrics["c_ipcw"] = ipcw_concordance(*known, test.times, test.events, found.risk)
    metrics["brier"] = integrated_brier(*known, test.times, test.events, found.survival[:, : len(at)], at)
    metrics["calibration"] = sum(gaps.values()) / len(gaps) if gaps else None
    return {name: value for name, value in metrics.items() if value is not None}, items


def calibration_at(test: Survival, found: Predicted, marks: Float[Tensor, " marks"]) -> dict[str, float]:
    """The calibration error at each of some times, where it is defined.

    Args:
        test: the rows that are judged.
        found: what is predicted of them; survival last at the times of `marks`.
        marks: these times.
    """
    gaps = {
        f"calibration at {mark:g}": survival_calibration(test.times, test.events, column, mark)
        for mark, column in zip(marks.tolist(), found.survival[:, -len(marks) :].T, strict=True)
    }
    return {name: gap for name, gap in gaps.items() if gap is not None}


def _diagnostics(learner: HazardLearner, test: Survival, found: Predicted) -> dict[str, float]:
    """Concordance on each head's own grid, and of the rows of the largest weights."""
    figures: dict[str, float | None] = {}
    heads = {"own short": found.short, "own long": found.long} if len(learner.grids()) > 1 else {"own": found.risk}
    for (name, risk), grid in zip(heads.items(), learner.grids(), strict=False):
        edges = grid.cpu()
        place = interval_of(test.times.to(edges), edges, getattr(learner, "closed", "right"))
        within = place < len(edges) - 1
        figures[name] = concordance((place + 1).double(), test.events & within, risk)
    if test.weights is not None:
        top = test.weights.argsort(descending=True)[: max(1, round(TOP * len(test)))]
        figures["largest weights"] = concordance(test.times[top], test.events[top], found.risk[top])
    return {name: value for name, value in figures.items() if value is not None}


TASK = SurvivalTask()
