"""The graph task: which method learns the most useful rows for the nodes of a heterogeneous graph, without labels?

Every method trains on the whole graph. What it is scored by is a logistic regression on a few labelled nodes, over
several draws of them, and k-means against the classes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from counterpoise.data.graphs import load_graph
from counterpoise.errors import InputError, unknown
from counterpoise.files import written
from counterpoise.ops.checks import check_integers, check_matrix
from counterpoise.ops.clusters import kmeans
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import describe
from counterpoise.training.run import Metric, Run, Settings, load_once, run_once
from counterpoise.training.trainer import make_logger

METRICS = {
    "macro_f1": Metric("macro F1"),
    "micro_f1": Metric("micro F1"),
    "nmi": Metric("normalised mutual information"),
    "ari": Metric("adjusted Rand index"),
}
SHOWN = {"macro_f1": "macro F1 %", "micro_f1": "micro F1 %", "nmi": "NMI %"}
MAIN = "macro_f1"
BASELINE = "meow"
LABELLED = 20  # nodes of each class that the regression sees
DRAWS = 10  # of those nodes, and starts of k-means
PATIENCE = 30  # epochs without a lower loss, after which training ends
USED = ("epochs", "data_dir", "download", "device", "threads")
"""The settings that mean something here."""


def check(run: Run, scored: bool = False) -> Any:
    """Refuse a run that cannot work, before anything is written.

    Returns:
        The run's graph.

    Raises:
        InputError: for whatever is at fault.
    """
    for f in fields(Settings):
        if f.name not in USED and getattr(run.settings, f.name) != f.default:
            raise InputError(f"{f.name}: is for images; the task graph takes {', '.join(USED)}")
    if run.imperfect:
        raise InputError("imperfect: is for images, not for graphs")
    graph = graph_of(run)
    _check_classes(labels_of(graph, build(run, graph).target))
    return graph


def graph_of(run: Run) -> Any:
    """The graph of a run."""
    return load_once(run, load_graph)


def build(run: Run, graph: Any) -> Any:
    """The method of a run, drawn from its seed.

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
    kind = catalogue.load_class(run.method)
    given = {"seed": run.seed} if "seed" in inspect.signature(kind).parameters else {}
    return kind(graph, **{**given, **run.arguments})


def labels_of(graph: Any, kind: str) -> torch.Tensor:
    """The labels of the nodes of a kind, as int64; -1 for a node without one.

    Raises:
        InputError: for nodes without labels, or labels that are no integers of at least -1.
    """
    y = graph[kind].get("y")
    if y is None:
        raise InputError(f"graph: expected labels y of the nodes of type {kind}, got none")
    return check_integers(f"graph: labels of {kind}", y, rows=graph[kind].num_nodes, low=-1)


def _check_classes(labels: torch.Tensor) -> None:
    """Refuse what no regression can be fitted to and judged by."""
    counts = labels[labels >= 0].unique(return_counts=True)[1].tolist()
    if len(counts) < 2:
        raise InputError(f"graph: expected labelled nodes of at least 2 classes, got {len(counts)}")
    if min(counts) <= LABELLED:
        raise InputError(f"graph: expected more than {LABELLED} labelled nodes of each class, got {min(counts)}")


def facts(graph: Any) -> dict[str, Any]:
    """What a result tells of its graph: classes, counts, sizes, notes and shape."""
    labelled = next((kind for kind in graph.node_types if graph[kind].get("y") is not None), graph.node_types[0])
    labels = labels_of(graph, labelled)
    counts = labels[labels >= 0].bincount().tolist()
    return {
        "classes": [str(k) for k in range(len(counts))],
        "counts": {"train": counts, "probe": counts, "test": counts},
        "sizes": {kind: graph[kind].num_nodes for kind in graph.node_types},
        "notes": ["all methods see the whole graph, without labels"],
        "shape": [],
    }


def execute(
    run: Run,
    folder: Path,
    *,
    loggers: Sequence[str] = (),
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train and score one run in its folder, which gets the rows of the nodes as `nodes.safetensors`.

    Args:
        run: what is to be run.
        folder: of this run alone.
        loggers: where the losses go besides; see `trainer.make_logger`.
        progress: show a progress bar.
        callbacks: further Lightning callbacks.

    Returns:
        The content of `result.json`; among its diagnostics, `over features` is how much more the rows tell than the
        nodes' own features do, where they have any.
    """
    return run_once(run, folder, lambda: _work(run, folder, tuple(loggers), progress, tuple(callbacks)))


def _work(
    run: Run, folder: Path, loggers: tuple[str, ...], progress: bool, callbacks: tuple[Callback, ...]
) -> dict[str, Any]:
    graph = graph_of(run)
    method = build(run, graph)
    start = time.perf_counter()
    losses = method.fit(
        run.settings.epochs,
        PATIENCE,
        accelerator={"cuda": "gpu"}.get(run.settings.device, run.settings.device),
        devices=1,
        logger=[make_logger(name, folder) for name in loggers],
        enable_progress_bar=progress,
        callbacks=callbacks,
        default_root_dir=folder,
    )
    seconds = time.perf_counter() - start
    rows = method.embed()
    with written(folder / "nodes.safetensors") as aside:
        aside.write_bytes(save({"z": rows.contiguous()}))
    target, pace = graph[method.target], seconds / len(losses)
    metrics, diagnostics = score(rows, target.y), {"epochs": float(len(losses))}
    if target.get("x") is not None:
        diagnostics["over features"] = metrics[MAIN] - score(target.x, target.y)[MAIN]
    return {
        "seed": run.seed,
        "status": "done",
        "warnings": [],
        "metrics": metrics,
        "groups": {},
        "per_class": None,
        "diagnostics": diagnostics,
        "seconds": seconds,
        "curve": [{"epoch": k + 1, "loss": loss, "seconds": pace * (k + 1)} for k, loss in enumerate(losses)],
        "parameters": sum(p.numel() for p in method.parameters()),
        **facts(graph),
    }


def score(rows: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """What the rows tell of the labels.

    Args:
        rows: of the nodes, [nodes, dim].
        labels: their classes; -1 leaves a node out.

    Raises:
        InputError: for rows that are not finite, labels that are no integers of at least -1, fewer than two classes, or
            a class that has not more nodes than the regression is shown.
    """
    rows = rows.detach()
    check_matrix("rows", rows)
    labels = check_integers("labels", labels, rows=len(rows), low=-1)
    _check_classes(labels)
    known = labels >= 0
    x, y = StandardScaler().fit_transform(rows[known].numpy()), labels[known].numpy()
    classes = np.unique(y)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        shown = np.concatenate([rng.permutation(np.flatnonzero(y == label))[:LABELLED] for label in classes])
        rest = np.setdiff1d(np.arange(len(y)), shown)
        told = LogisticRegression(max_iter=1000).fit(x[shown], y[shown]).predict(x[rest])
        found["macro_f1"].append(f1_score(y[rest], told, average="macro"))
        found["micro_f1"].append(f1_score(y[rest], told, average="micro"))
        groups = kmeans(rows[known], len(classes), seed=draw, restarts=5).labels.numpy()
        found["nmi"].append(normalized_mutual_info_score(y, groups))
        found["ari"].append(adjusted_rand_score(y, groups))
    return {name: float(np.mean(values)) for name, values in found.items()}
