"""Traces: what a run's code computes in a few steps, by which a record stands over refactorings and processors.

The fingerprint of a result changes with every touch of the code below it, and its last digits with the processor. A
trace is a short form of the run itself: some epochs on some hundred items, with the losses, random projections of what
the network gives, and the scores. Where the traces of a record and of the code as it is now agree within tolerances,
no equation has changed. Training is in float64 where the method allows it: rounding is then far below what a changed
equation would show.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from counterpoise import tasks
from counterpoise.data.views import to_input
from counterpoise.engine.given import load_model
from counterpoise.learners.learner import Learner
from counterpoise.nets.features import evaluation
from counterpoise.tasks.base import PLAINLY, Offers, Task
from counterpoise.training.run import LearnerSettings, Run, processor_threads

SEED = 100  # that no claim uses
ITEMS, BATCH, EPOCHS = 128, 32, 2
SHOWN, PROJECTIONS = 32, 8  # items whose outputs are projected, and how often
DTYPES = {"float64": torch.float64, "float32": torch.float32}
TOLERANCE = {"float64": 1e-8, "float32": 2e-3}
"""Largest relative difference of losses and projections, by the dtype of training; see docs/claims.md."""
SCORES = 5e-3
"""Largest relative difference of a score that is no share of items."""


class Trace(TypedDict):
    """What a run computes in a few steps.

    Attributes:
        dtype: of training: "float64" or "float32".
        losses: of each epoch.
        projections: of what the trained network gives for some items, on fixed random directions.
        scores: of the task, by name.
        items: how many test items the scores are of.
    """

    dtype: str
    losses: list[float]
    projections: list[float]
    scores: dict[str, float]
    items: int


def trace(run: Run) -> Trace:
    """The trace of a run's method, arguments, data and settings; whatever its own seed and budget.

    Args:
        run: what is traced.

    Raises:
        InputError: as the run itself.
    """
    short = shortened(run)
    with processor_threads(1):
        if not isinstance(short.settings, LearnerSettings):
            return _traced(short, "float32")  # a graph's method or a study, which trains by itself
        try:
            return _traced(short, "float64")
        except (RuntimeError, TypeError):  # a part of it is written for float32 alone
            return _traced(short, "float32")


def shortened(run: Run) -> Run:
    """The run that stands for another in its trace."""
    changes: dict[str, Any] = {"epochs": EPOCHS, "threads": 1, "device": "cpu"}
    if isinstance(run.settings, LearnerSettings):
        changes |= {"batch_size": min(BATCH, run.settings.batch_size), **PLAINLY}
    return replace(run, seed=SEED, settings=replace(run.settings, **changes))


def difference(recorded: Trace, now: Trace) -> str | None:
    """What differs between two traces by more than other processors make of one; `None` where nothing does.

    Examples:
        >>> first = Trace(dtype="float64", losses=[2.0], projections=[0.5], scores={"knn": 0.5}, items=90)
        >>> difference(first, {**first, "losses": [2.0 + 1e-9], "scores": {"knn": 0.51}})
        >>> difference(first, {**first, "losses": [2.001]})
        'losses 1: 2.001, recorded 2.0'
    """
    if recorded["dtype"] != now["dtype"]:
        return f"dtype: {now['dtype']}, recorded {recorded['dtype']}"
    tolerance = TOLERANCE[now["dtype"]]
    for name in ("losses", "projections"):
        before, after = recorded[name], now[name]
        if len(before) != len(after):
            return f"{name}: {len(after)}, recorded {len(before)}"
        scale = max(map(abs, before), default=0.0) if name == "projections" else 0.0
        for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
            if not _close(old, new, tolerance, scale):
                return f"{name} {number}: {new}, recorded {old}"
    if recorded["scores"].keys() != now["scores"].keys():
        return f"scores: {', '.join(now['scores'])}, recorded {', '.join(recorded['scores'])}"
    one_item = 1.5 / recorded["items"] if recorded["items"] else 0.0
    for name, old in recorded["scores"].items():
        new = now["scores"][name]
        if abs(new - old) > one_item and not _close(old, new, SCORES):
            return f"{name}: {new}, recorded {old}"
    return None


def processor() -> str:
    """The processor's name, and the widest instructions that PyTorch uses on it."""
    return f"{_model_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _close(old: float, new: float, tolerance: float, scale: float = 0.0) -> bool:
    return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance * scale) or (old != old and new != new)


def _traced(run: Run, dtype: str) -> Trace:
    """The trace of a shortened run, trained in a dtype."""
    task = tasks.find(run.task)
    parts = task.sample(run, task.parts(run), ITEMS)
    with TemporaryDirectory() as folder, default_dtype(DTYPES[dtype]):
        learner = task.make(run, parts, _models(task, run, parts, Path(folder)))
        if isinstance(learner, Learner):
            learner.to(DTYPES[dtype])
        curve = task.train(run, learner, parts, Path(folder))
        projections = _projections(task, learner, parts, DTYPES[dtype])
    if isinstance(learner, Learner):
        learner.float()
    scores = task.score(run, learner, parts, curve)
    return {
        "dtype": dtype,
        "losses": [row["loss"] for row in curve if "loss" in row],
        "projections": projections,
        "scores": {**scores.metrics, **scores.diagnostics},
        "items": len(getattr(parts, "test", ())),
    }


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of this dtype while the block runs, where no other is named: weights, views and what is drawn."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _models(task: Task[Any], run: Run, parts: Any, folder: Path) -> Offers:
    """The models that a run stands on, each trained for as few steps as the run; the user's as they are."""
    found: dict[str, Any] = {}
    for given in task.given(run):
        if given.run is None:
            model = load_model(given, run, parts, folder)
        else:
            below, own = tasks.find(given.run.task), shortened(given.run)
            data = below.sample(own, below.parts(own), ITEMS)
            learner = below.make(own, data, _models(below, own, data, folder))
            (place := folder / given.role).mkdir()
            below.train(own, learner, data, place)
            net = below.kept(learner)
            model = None if net is None else task.given_model(given.role, net.eval())
        found[given.role] = lambda model=model: model
    return found


@torch.no_grad()
def _projections(task: Task[Any], learner: Any, parts: Any, dtype: torch.dtype) -> list[float]:
    """What a trained network gives for the first training items, on fixed directions; empty of a study."""
    if not isinstance(learner, nn.Module):
        return []
    outputs: torch.Tensor
    if callable(rows_of := getattr(learner, "embed", None)):  # of a graph's nodes
        outputs = rows_of()
    else:
        net = task.kept(learner)
        assert net is not None
        data = task.training_data(parts)
        inputs, *_ = data.__getitems__(list(range(min(SHOWN, len(data)))))
        with evaluation(net):
            outputs = net(to_input(inputs).to(dtype))
    flat = outputs.double().flatten()
    directions = np.random.default_rng(0).standard_normal((PROJECTIONS, len(flat)))
    return (torch.from_numpy(directions) @ flat / math.sqrt(len(flat))).tolist()


@cache
def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named[0] if named else platform.processor()) or platform.machine()


def trace_all(runs: Mapping[str, Run]) -> dict[str, Trace]:
    """The traces of several runs by their labels, one after the other."""
    return {label: trace(run) for label, run in runs.items()}


def agree(recorded: Mapping[str, Trace], now: Mapping[str, Trace]) -> str | None:
    """The first arm whose traces differ, and how; `None` where all agree."""
    if recorded.keys() != now.keys():
        return f"arms: {', '.join(now)}, recorded {', '.join(recorded)}"
    for arm, old in recorded.items():
        if found := difference(old, now[arm]):
            return f"{arm}: {found}"
    return None
