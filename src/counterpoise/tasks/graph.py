"""The graph task: which method learns the most useful rows for the nodes of a heterogeneous graph, without labels?

Every method trains on the whole graph. What it is scored by is a logistic regression on a few labelled nodes, over
several draws of them, and k-means against the classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from counterpoise.data.graphs import load_graph
from counterpoise.data.identity import Identity, content_keys, order_of
from counterpoise.errors import InputError
from counterpoise.files import written
from counterpoise.ops.checks import check_integers, check_matrix
from counterpoise.ops.clusters import kmeans
from counterpoise.tasks.base import NONE_GIVEN, QUIET, Offers, Task, Watch, make
from counterpoise.tasks.items import weighted
from counterpoise.training.run import Metric, Run, Scores, Settings, load_once
from counterpoise.training.trainer import make_logger

LABELLED = 20  # nodes of each class that the regression sees
DRAWS = 10  # of those nodes, and starts of k-means
PATIENCE = 30  # epochs without a lower loss, after which training ends


class Graph(Task[Any]):
    """Rows for the nodes of a heterogeneous graph, learnt without labels."""

    name = "graph"
    settings = Settings
    metrics: ClassVar = {
        "macro_f1": Metric("macro F1"),
        "micro_f1": Metric("micro F1"),
        "nmi": Metric("normalised mutual information"),
        "ari": Metric("adjusted Rand index"),
    }
    shown: ClassVar = {"macro_f1": "macro F1 %", "micro_f1": "micro F1 %", "nmi": "NMI %"}
    main = "macro_f1"
    baseline = "meow"
    references: ClassVar = {"raw": "raw-nodes"}
    items = "nodes"
    untunable = "whose labelled nodes all score, while its methods train on the whole graph: no node can be held out"

    def load(self, run: Run) -> Any:
        return load_once(run, load_graph)

    def training_data(self, parts: Any) -> Any:
        """The whole graph."""
        return parts

    def check(self, run: Run, scored: bool = False) -> Any:
        """As of any task; and refuse a graph of whose labels no regression can be fitted and judged."""
        graph = super().check(run, scored)
        _check_classes(labels_of(graph, self.make(run, graph).target))
        return graph

    def offers(self, run: Run, parts: Any) -> Offers:
        return {"seed": lambda: run.seed}

    def make(self, run: Run, parts: Any, given: Offers = NONE_GIVEN) -> Any:
        """The method of a run, which holds the graph."""
        return make(run, self.offers(run, parts), lambda: {"graph": parts})

    def train(
        self, run: Run, learner: Any, parts: Any, folder: Path, watch: Watch = QUIET, rank: int | None = None
    ) -> list[dict[str, float]]:
        """Train on the whole graph until the loss has not fallen for `PATIENCE` epochs."""
        if not getattr(learner, "trains", True):
            return []
        start = time.perf_counter()
        losses = learner.fit(
            run.settings.epochs,
            PATIENCE,
            accelerator={"cuda": "gpu"}.get(run.settings.device, run.settings.device),
            devices=1,
            logger=[make_logger(name, folder) for name in watch.loggers],
            enable_progress_bar=watch.progress,
            callbacks=watch.callbacks,
            default_root_dir=folder,
        )
        seconds = (time.perf_counter() - start) / len(losses)
        return [{"epoch": k + 1, "loss": loss, "seconds": seconds * (k + 1)} for k, loss in enumerate(losses)]

    def score(self, run: Run, learner: Any, parts: Any, curve: Sequence[Mapping[str, float]]) -> Scores:
        """Its figures; `over features` is how much more the rows hold than the nodes' own features, if any, do."""
        target = parts[learner.target]
        (metrics, right), diagnostics = score_each(learner.embed(), target.y), {"epochs": float(len(curve))}
        if target.get("x") is not None:
            diagnostics["over features"] = metrics[self.main] - score(target.x, target.y)[self.main]
        identity = _identity(parts, learner.target)
        return Scores(metrics, diagnostics=diagnostics, items={"micro_f1": right}, identity=identity)

    def kept(self, learner: Any) -> Any:
        """The method itself, which holds a row for each node."""
        return learner

    def keep(self, run: Run, learner: Any, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the rows of the target nodes: `nodes.safetensors`."""
        with written(folder / "nodes.safetensors") as aside:
            aside.write_bytes(save({"z": learner.embed().contiguous()}))

    def facts(self, parts: Any) -> dict[str, Any]:
        """What a result says of its graph: classes, counts, sizes, notes and shape."""
        labelled = next((kind for kind in parts.node_types if parts[kind].get("y") is not None), parts.node_types[0])
        labels = labels_of(parts, labelled)
        counts = labels[labels >= 0].bincount().tolist()
        return {
            "classes": [str(k) for k in range(len(counts))],
            "counts": {"train": counts, "probe": counts, "test": counts},
            "sizes": {kind: parts[kind].num_nodes for kind in parts.node_types},
            "notes": ["all methods see the whole graph, without labels"],
            "shape": [],
        }


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


def _identity(graph: Any, kind: str) -> Identity:
    """Which labelled nodes they are: those of a graph with the same edges and labels, by their numbers."""
    labels = labels_of(graph, kind)
    whole = order_of([*labels.tolist(), *(content_keys(edges).tolist() for edges in graph.edge_index_dict.values())])
    return Identity(whole + (labels >= 0).nonzero().flatten(), whole)


def score(rows: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """What the rows hold of the labels.

    Args:
        rows: of the nodes, [nodes, dim].
        labels: their classes; -1 leaves a node out.

    Raises:
        InputError: as in `score_each`.
    """
    return score_each(rows, labels)[0]


def score_each(rows: torch.Tensor, labels: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
    """As `score`, and what each labelled node adds to the micro F1 over all draws, which is the accuracy.

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
    found: dict[str, list[float]] = {name: [] for name in Graph.metrics}
    asked, right = np.zeros(len(y)), np.zeros(len(y))
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        shown = np.concatenate([rng.permutation(np.flatnonzero(y == label))[:LABELLED] for label in classes])
        rest = np.setdiff1d(np.arange(len(y)), shown)
        predicted = LogisticRegression(max_iter=1000).fit(x[shown], y[shown]).predict(x[rest])
        asked[rest] += 1
        right[rest] += predicted == y[rest]
        found["macro_f1"].append(f1_score(y[rest], predicted, average="macro"))
        found["micro_f1"].append(f1_score(y[rest], predicted, average="micro"))
        groups = kmeans(rows[known], len(classes), seed=draw, restarts=5).labels.numpy()
        found["nmi"].append(normalized_mutual_info_score(y, groups))
        found["ari"].append(adjusted_rand_score(y, groups))
    each = weighted(torch.from_numpy(right / asked.clip(1)), torch.from_numpy(asked))
    return {name: float(np.mean(values)) for name, values in found.items()}, each


TASK = Graph()
