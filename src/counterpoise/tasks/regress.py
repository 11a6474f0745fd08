"""The regress task: which method's features predict a number best?

Every method trains on inputs with a number each. It is scored by the numbers that it predicts of unseen inputs,
or, if it only makes features, by those that a ridge regression on its frozen features predicts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from counterpoise.data.identity import Identity, content_keys, order_of
from counterpoise.data.images import shape_of
from counterpoise.data.targets import TargetSplits, load_targets
from counterpoise.data.views import Views, to_input
from counterpoise.errors import InputError
from counterpoise.measure import collapse, effective_rank
from counterpoise.measure.undertraining import few_steps
from counterpoise.nets import embed
from counterpoise.tasks.base import Offers, Task, blank_encoder, start_encoder
from counterpoise.tasks.items import weighted
from counterpoise.training.run import EFFECTIVE_RANK, LearnerSettings, Metric, Run, Scores, load_once

BINS = 20  # of the training targets' range; the sparsest third of those that hold any are "few"
STRENGTHS = tuple(np.logspace(-3, 5, 17))
HELD_OUT = 0.2  # of the training inputs, for tuning
PAIRED = 1000  # test inputs whose distances are compared
AUGMENTATIONS = "crop=0.8"  # a flip or a turn would change what is to be predicted


class Regress(Task[TargetSplits]):
    """Numbers of unseen inputs, predicted by the method itself or by a ridge regression on its features."""

    name = "regress"
    metrics: ClassVar = {
        "mae": Metric("mean absolute error", "lower", percent=False),
        "r2": Metric("R²", percent=False),
        "mae_few": Metric("mean absolute error where training has few", "lower", percent=False),
        "probe_mae": Metric("mean absolute error of a ridge regression on the features", "lower", percent=False),
        "order": Metric("rank correlation of distances of features and of numbers", percent=False),
        "effective_rank": EFFECTIVE_RANK,
    }
    shown: ClassVar = {"mae": "MAE", "mae_few": "MAE few", "r2": "R²"}
    main = "mae"
    baseline = "regression"
    references: ClassVar = {"raw": "raw", "untrained": "untrained", "start": "start"}
    items = "inputs"

    def load(self, run: Run) -> TargetSplits:
        return load_once(run, prepare)

    def tuning_parts(self, run: Run, parts: TargetSplits) -> TargetSplits:
        """A fifth of the training inputs, drawn by the seed, to choose by."""
        count = len(parts.train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(run.seed))
        held = round(HELD_OUT * count)
        return TargetSplits(parts.train.subset(order[held:]), parts.train.subset(order[:held]))

    def sample(self, run: Run, parts: TargetSplits, most: int) -> TargetSplits:
        """The first inputs of each part, which are in a random order."""
        return TargetSplits(*(part.subset(torch.arange(min(most, len(part)))) for part in parts))

    def check_parts(self, run: Run, parts: TargetSplits, scored: bool) -> None:
        """Refuse targets that are all one number: nothing can be learnt of them, and R² has no value."""
        for name, part in parts._asdict().items():
            if len(part.targets.unique()) < 2:
                raise InputError(
                    f"{run.data}: expected at least 2 different {name} targets, got {len(part)} inputs with "
                    f"{len(part.targets.unique())}"
                )

    def offers(self, run: Run, parts: TargetSplits) -> Offers:
        targets = parts.train.targets
        return {
            "samples": lambda: len(targets),
            "shape": lambda: list(shape_of(parts.train)),
            "mean": lambda: float(targets.mean()),
            "deviation": lambda: float(targets.std()),
        }

    def inputs(self, run: Run, shape: Sequence[int], data: Any = None) -> dict[str, Any]:
        """An encoder of images with mild views, or one of rows, which have no views."""
        settings = run.settings
        assert isinstance(settings, LearnerSettings)
        encoder = start_encoder(settings, blank_encoder(settings, shape))
        if len(shape) == 1:
            return {"encoder": encoder, "augment": nn.Identity()}
        return {"encoder": encoder, "augment": Views.of(shape[2], settings.augmentations or AUGMENTATIONS)}

    def score(self, run: Run, learner: Any, parts: TargetSplits, curve: Sequence[Mapping[str, float]]) -> Scores:
        settings = run.settings
        assert isinstance(settings, LearnerSettings)
        train, test = (embed(learner.net, part, to_input) for part in parts)
        few = few_steps(len(parts.train), settings.batch_size, settings.epochs, settings.accumulate, settings.steps)
        metrics, items = score_each(train, test, parts, learner.predict(test))
        warnings = [found for found in (collapse(test), few) if found and learner.trains]
        keys = content_keys(parts.test.inputs) if parts.test.numbers is None else parts.test.numbers
        identity = Identity(keys, order_of(parts.test.targets.tolist()))
        return Scores(metrics, warnings=warnings, items=items, identity=identity)

    def facts(self, parts: TargetSplits) -> dict[str, Any]:
        """What a result says of its data: no classes, but sizes, notes and shape."""
        return {
            "classes": [],
            "counts": {},
            "sizes": {name: len(part) for name, part in parts._asdict().items()},
            "notes": list(dict.fromkeys([*parts.train.notes, *parts.test.notes])),
            "shape": list(parts.train.inputs.shape[1:]),
        }


def prepare(data: str, division: int) -> TargetSplits:
    """The inputs and targets of a run: all that is drawn of them comes from the seed of the division."""
    return load_targets(data, division)


def score(
    train: Float[Tensor, "train dim"],
    test: Float[Tensor, "test dim"],
    data: TargetSplits,
    predicted: Float[Tensor, " test"] | None = None,
) -> dict[str, float]:
    """All metrics that there are: no `order` where all distances are one, as of features that have collapsed.

    Args:
        train: features of the training inputs.
        test: features of the test inputs.
        data: their targets.
        predicted: the numbers that the method itself predicts of the test inputs; those of the probe if not given.
    """
    return score_each(train, test, data, predicted)[0]


def score_each(
    train: Float[Tensor, "train dim"],
    test: Float[Tensor, "test dim"],
    data: TargetSplits,
    predicted: Float[Tensor, " test"] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """As `score`, and what each test input adds to those metrics that are means over them.

    Args:
        train: features of the training inputs; the others, too, are as in `score`.
        test: features of the test inputs.
        data: their targets.
        predicted: the method's own numbers.
    """
    known, goal = data.train.targets.numpy(), data.test.targets.numpy()
    probe = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(train.numpy(), known)
    by_probe = probe.predict(test.numpy())
    numbers = by_probe if predicted is None else predicted.numpy()
    gaps = np.abs(numbers - goal)
    few = is_few(known, goal)
    some = torch.linspace(0, len(test) - 1, min(PAIRED, len(test))).long()
    apart = torch.pdist(test[some]).numpy(), torch.pdist(data.test.targets[some, None]).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank = float(spearmanr(*apart).statistic)
    by_probe_gaps = np.abs(by_probe - goal)
    items = {"mae": torch.from_numpy(gaps), "probe_mae": torch.from_numpy(by_probe_gaps)}
    if few.any():
        items["mae_few"] = weighted(items["mae"], torch.from_numpy(few))
    metrics = {
        "mae": float(gaps.mean()),
        "r2": float(1 - (gaps**2).sum() / ((goal - goal.mean()) ** 2).sum()),
        **({"order": rank} if np.isfinite(rank) else {}),
        **({"mae_few": float(gaps[few].mean())} if few.any() else {}),
        "probe_mae": float(by_probe_gaps.mean()),
        "effective_rank": float(effective_rank(test)),
    }
    return metrics, items


def is_few(known: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Which targets lie where training has few: in the sparsest third of the filled bins of its range, or outside.

    Args:
        known: training targets.
        goal: those that are asked about.

    Examples:
        >>> is_few(np.array([0.0] * 9 + [1.0] * 8 + [2.0]), np.array([0.0, 1.0, 2.0, 7.0]))
        array([False, False,  True,  True])
    """
    counts, edges = np.histogram(known, BINS)
    filled = np.sort(counts[counts > 0])
    sparse = counts <= filled[max(0, len(filled) // 3 - 1)]
    place = np.clip(np.searchsorted(edges, goal, side="right") - 1, 0, BINS - 1)
    return sparse[place] | (goal < edges[0]) | (goal > edges[-1])


TASK = Regress()
