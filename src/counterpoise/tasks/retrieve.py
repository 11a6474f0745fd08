"""The retrieve task: which method's embeddings find images of one class, for classes that training has not seen?

Every method trains on images of some classes. What it is scored by are the embeddings of images of other classes, each
of which seeks its own class among all others.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.measure import effective_rank, uniformity
from counterpoise.measure.opis import epsilon_opis, opis, utility_curves
from counterpoise.measure.retrieval import clustering_nmi, retrieval
from counterpoise.method import Method
from counterpoise.nets import embed
from counterpoise.tasks import images
from counterpoise.tasks.images import Prepared, facts
from counterpoise.tasks.runs import Metric, Run
from counterpoise.tasks.unseen import images_of

__all__ = ["BASELINE", "MAIN", "METRICS", "SHOWN", "check", "execute", "facts", "score"]

KS = (1, 2, 4, 8)
METRICS = {
    **{f"recall_{k}": Metric(f"Recall@{k}") for k in KS},
    "map_r": Metric("MAP@R"),
    "r_precision": Metric("R-precision"),
    "nmi": Metric("normalised mutual information of k-means"),
    "opis": Metric("OPIS: how unequally one threshold serves the classes", "lower", percent=False),
    "epsilon_opis": Metric("ε-OPIS: the same of the best and the worst tenth of them", "lower", percent=False),
    "utility": Metric("mean utility of one threshold"),
    "uniformity": Metric("uniformity", "lower", percent=False),
    "effective_rank": Metric("effective rank", "higher", percent=False),
}
SHOWN = {"recall_1": "R@1 %", "map_r": "MAP@R %", "nmi": "NMI %", "opis": "OPIS"}
MAIN = "recall_1"
BASELINE = "multi-similarity"


def check(run: Run, scored: bool = False) -> Prepared:
    """Refuse a run that cannot work; see `images.check`.

    Raises:
        InputError: where fewer than two unseen classes have two images.
    """
    prepared = images.check(run, scored, images_of)
    several = int((prepared.probe.counts() + prepared.test.counts() > 1).sum())
    if several < 2:
        raise InputError(f"{run.data}: expected at least 2 unseen classes with 2 images or more, got {several}")
    return prepared


def execute(run: Run, folder: Path, **options: Any) -> dict[str, Any]:
    """Train and score one run in its folder; see `images.train_and_score`."""
    return images.train_and_score(run, folder, score, source=images_of, **options)


def score(method: Method, prepared: Prepared, features: Tensor) -> dict[str, Any]:
    """All metrics of the embeddings of unseen classes.

    Args:
        method: for its encoder.
        prepared: the images.
        features: of the test images, [test, dim].
    """
    _, gallery, test = prepared
    embeddings = torch.cat([features, embed(method.encoder, gallery, to_float)])
    labels = torch.cat([test.labels, gallery.labels])
    counts = labels.bincount(minlength=len(test.classes))
    if single := [test.classes[i] for i in (counts == 1).nonzero().flatten().tolist()]:
        more = ", …" if len(single) > 3 else ""
        warnings.warn(f"{len(single)} classes have one image, which has nothing to find: {', '.join(single[:3])}{more}")
    found, utility = retrieval(embeddings, labels, ks=KS), utility_curves(embeddings, labels).utility
    metrics = {
        **{f"recall_{k}": found.recall[k] for k in KS},
        "map_r": found.map_r,
        "r_precision": found.r_precision,
        "nmi": clustering_nmi(embeddings, labels),
        "opis": opis(utility),
        "epsilon_opis": epsilon_opis(utility),
        "utility": float(utility.mean()),
        "uniformity": float(uniformity(embeddings)),
        "effective_rank": float(effective_rank(embeddings)),
    }
    return {"metrics": metrics, "groups": {}, "per_class": None, "diagnostics": {}}
