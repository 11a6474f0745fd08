"""The regress task: which method's features tell a number best?

Every method trains on inputs with a number each. What it is scored by are the numbers that it tells of unseen inputs,
or, if it only makes features, those that a ridge regression on its frozen features tells.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from counterpoise.data.targets import Targets, TargetSplits, load_targets
from counterpoise.data.views import Views
from counterpoise.errors import InputError, unknown
from counterpoise.measure import collapse, effective_rank
from counterpoise.measure.undertraining import few_steps
from counterpoise.nets import backbone, embed
from counterpoise.nets.heads import mlp
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import describe
from counterpoise.tasks.images import keep_encoder
from counterpoise.training.run import EFFECTIVE_RANK, Metric, Run, Settings, load_once, run_once
from counterpoise.training.trainer import check_images, fit

METRICS = {
    "mae": Metric("mean absolute error", "lower", percent=False),
    "r2": Metric("R²", percent=False),
    "mae_few": Metric("mean absolute error where training has few", "lower", percent=False),
    "probe_mae": Metric("mean absolute error of a ridge regression on the features", "lower", percent=False),
    "order": Metric("rank correlation of distances of features and of numbers", percent=False),
    "effective_rank": EFFECTIVE_RANK,
}
SHOWN = {"mae": "MAE", "mae_few": "MAE few", "r2": "R²"}
MAIN = "mae"
BASELINE = "regression"
BINS = 20  # of the training targets' range; the sparsest third of those that hold any are "few"
STRENGTHS = tuple(np.logspace(-3, 5, 17))
PAIRED = 1000  # test inputs whose distances are compared
UNUSED = ("size", "data_dir", "download")  # the settings that mean nothing here
MILD = "crop=0.8"  # a flip or a turn would change what is to be told


def check(run: Run, scored: bool = False) -> TargetSplits:
    """Refuse a run that cannot work, before anything is written.

    Returns:
        The run's data.

    Raises:
        InputError: for whatever is at fault; training or test targets that are all one number among others, since
            nothing can be learnt of them, and R² has no value.
    """
    if run.imperfect:
        raise InputError("imperfect: is for images with labels, not for regression")
    for f in fields(Settings):
        if f.name in UNUSED and getattr(run.settings, f.name) != f.default:
            raise InputError(f"{f.name}: is for images with labels, not for regression")
    if run.settings.process_group().size > 1:
        raise InputError("devices: expected 1; the task regress trains in one process")
    data = data_of(run)
    check_images(len(data.train), run.settings.batch_size, run.settings.process_group())
    for name, part in data._asdict().items():
        if len(part.targets.unique()) < 2:
            raise InputError(
                f"{run.data}: expected at least 2 different {name} targets, got {len(part)} inputs with "
                f"{len(part.targets.unique())}"
            )
    build(run, data.train).check_images(data.train, min(run.settings.batch_size, len(data.train)))
    return data


def data_of(run: Run) -> TargetSplits:
    """The data of a run."""
    return load_once(run, load_targets)


def build(run: Run, train: Targets) -> Any:
    """The method of a run on a fresh backbone, or for rows on a small perceptron, drawn from the run's seed.

    Raises:
        InputError: for an unknown method or argument, or one out of range.
    """
    tasks = catalogue.find(run.method).tasks
    if run.task not in tasks:
        raise InputError(f"method '{run.method}' does not serve the task {run.task}; it serves: {', '.join(tasks)}")
    known = {argument.name for argument in describe(*catalogue.method_source(run.method)).arguments}
    for name in run.arguments:
        if name not in known:
            raise unknown(f"argument of {run.method}", name, known)
    torch.manual_seed(run.seed)
    given = {
        "samples": len(train),
        "mean": float(train.targets.mean()),
        "deviation": float(train.targets.std()),
    }
    kind = catalogue.load_class(run.method)
    wanted = inspect.signature(kind).parameters
    return kind(
        _encoder(run, train.inputs.shape[1:]),
        augment=_augment(run, train),
        **{**{name: value for name, value in given.items() if name in wanted}, **run.arguments},
    )


class Rows(nn.Sequential):
    """A perceptron of two layers: rows to 64 features."""

    features = 64

    def __init__(self, width: int):
        super().__init__(mlp(width, 64, 64), nn.ReLU())


def _encoder(run: Run, shape: Sequence[int]) -> nn.Module:
    return backbone(run.settings.backbone, shape[0], shape[1]) if len(shape) == 3 else Rows(shape[0])


def _augment(run: Run, train: Targets) -> nn.Module:
    if not train.images:
        return nn.Identity()
    return Views.of(train.inputs.shape[2], run.settings.augmentations or MILD)


def facts(data: TargetSplits) -> dict[str, Any]:
    """What a result tells of its data: no classes, but sizes, notes and shape."""
    return {
        "classes": [],
        "counts": {},
        "sizes": {name: len(part) for name, part in data._asdict().items()},
        "notes": list(dict.fromkeys([*data.train.notes, *data.test.notes])),
        "shape": list(data.train.inputs.shape[1:]),
    }


def execute(
    run: Run,
    folder: Path,
    *,
    loggers: Sequence[str] = (),
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train and score one run in its folder, going on where an earlier call was stopped.

    Args:
        run: what is to be run.
        folder: of this run alone; gets the checkpoint, the curve and the encoder.
        loggers: where the curve goes besides; see `trainer.fit`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The content of `result.json`.
    """
    return run_once(run, folder, lambda: _work(run, folder, tuple(loggers), progress, tuple(callbacks)))


def _work(
    run: Run, folder: Path, loggers: tuple[str, ...], progress: bool, callbacks: tuple[Callback, ...]
) -> dict[str, Any]:
    data = data_of(run)
    method = build(run, data.train)
    curve = fit(
        method,
        data.train,
        epochs=run.settings.epochs,
        batch_size=run.settings.batch_size,
        seed=run.seed,
        folder=folder,
        precision=run.settings.precision,
        accumulate=run.settings.accumulate,
        loggers=loggers,
        device=run.settings.device,
        progress=progress,
        callbacks=callbacks,
    )
    train, test = (embed(method.encoder, part, plain) for part in data)
    few = few_steps(len(data.train), run.settings.batch_size, run.settings.epochs, run.settings.accumulate)
    keep_encoder(folder, method.encoder, run.config(), facts(data))
    return {
        "seed": run.seed,
        "status": "done",
        "warnings": [found for found in (collapse(test), few) if found],
        "metrics": score(train, test, data, method.predict(test)),
        "groups": {},
        "per_class": None,
        "diagnostics": {},
        "seconds": curve[-1]["seconds"],
        "curve": curve,
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        **facts(data),
    }


def plain(inputs: Tensor) -> Tensor:
    """Images from -1 to 1, without any change; rows as they are."""
    return inputs.float() / 127.5 - 1 if inputs.dtype == torch.uint8 else inputs


def score(
    train: Float[Tensor, "train dim"],
    test: Float[Tensor, "test dim"],
    data: TargetSplits,
    told: Float[Tensor, " test"] | None = None,
) -> dict[str, float]:
    """All metrics that there are: no `order` where all distances are one, as of features that have collapsed.

    Args:
        train: features of the training inputs.
        test: features of the test inputs.
        data: their targets.
        told: the numbers that the method itself tells of the test inputs; those of the probe if not given.
    """
    known, goal = data.train.targets.numpy(), data.test.targets.numpy()
    probe = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(train.numpy(), known)
    by_probe = probe.predict(test.numpy())
    numbers = by_probe if told is None else told.numpy()
    gaps = np.abs(numbers - goal)
    few = is_few(known, goal)
    some = torch.linspace(0, len(test) - 1, min(PAIRED, len(test))).long()
    apart = torch.pdist(test[some]).numpy(), torch.pdist(data.test.targets[some, None]).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rank = float(spearmanr(*apart).statistic)
    return {
        "mae": float(gaps.mean()),
        "r2": float(1 - (gaps**2).sum() / ((goal - goal.mean()) ** 2).sum()),
        **({"order": rank} if np.isfinite(rank) else {}),
        **({"mae_few": float(gaps[few].mean())} if few.any() else {}),
        "probe_mae": float(np.abs(by_probe - goal).mean()),
        "effective_rank": float(effective_rank(test)),
    }


def is_few(known: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Which targets lie where training has few: in the sparsest third of the filled bins of its range, or outside.

    Args:
        known: training targets.
        goal: those that are asked about.

    >>> is_few(np.array([0.0] * 9 + [1.0] * 8 + [2.0]), np.array([0.0, 1.0, 2.0, 7.0]))
    array([False, False,  True,  True])
    """
    counts, edges = np.histogram(known, BINS)
    filled = np.sort(counts[counts > 0])
    sparse = counts <= filled[max(0, len(filled) // 3 - 1)]
    place = np.clip(np.searchsorted(edges, goal, side="right") - 1, 0, BINS - 1)
    return sparse[place] | (goal < edges[0]) | (goal > edges[-1])
