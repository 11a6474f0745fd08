"""The few-shot task: which method's embeddings tell new classes apart from a handful of examples of each?

Every method trains on images of some classes. It is scored by episodes of other classes: each image is told by the
nearest mean of the examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoise.data.views import to_float
from counterpoise.learners.method import Method
from counterpoise.measure import effective_rank, few_shot_accuracy
from counterpoise.nets import embed
from counterpoise.tasks import images
from counterpoise.tasks.images import Prepared, facts
from counterpoise.tasks.unseen import check_counts, images_of
from counterpoise.training.run import EFFECTIVE_RANK, Metric, Run

__all__ = ["BASELINE", "MAIN", "METRICS", "SHOWN", "check", "execute", "facts", "score"]

METRICS = {
    "one_shot": Metric("1-shot accuracy", meaning="images of new classes classified by 1 example of each class"),
    "five_shot": Metric("5-shot accuracy", meaning="the same by the mean of 5 examples of each class"),
    "effective_rank": EFFECTIVE_RANK,
}
SHOWN = {"one_shot": "1-shot %", "five_shot": "5-shot %"}
MAIN = "five_shot"
BASELINE = "protonet"
WAYS, EPISODES, QUERIES = 5, 600, 15


def check(run: Run, scored: bool = False) -> Prepared:
    """Refuse a run that cannot work; see `images.check`.

    Raises:
        InputError: where fewer than two unseen classes have the images for an episode.
    """
    check_counts(images_of(run), 6, "5 examples and one to tell")
    return images.check(run, scored, images_of)


def execute(run: Run, folder: Path, **options: Any) -> dict[str, Any]:
    """Train and score one run in its folder; see `images.train_and_score`."""
    return images.train_and_score(run, folder, score, source=images_of, **options)


def score(method: Method, prepared: Prepared, features: Tensor) -> dict[str, Any]:
    """Accuracies over episodes of 5 unseen classes, or of all where there are fewer.

    An episode asks for 15 images of each class, or for as many as all 5 classes that have most can give.

    Args:
        method: for its encoder.
        prepared: the images.
        features: of the test images, [test, dim].
    """
    _, gallery, test = prepared
    embeddings = torch.cat([features, embed(method.encoder, gallery, to_float)])
    labels = torch.cat([test.labels, gallery.labels])
    counts = labels[labels >= 0].bincount().sort(descending=True).values
    metrics = {"effective_rank": float(effective_rank(embeddings))}
    for name, shots in (("one_shot", 1), ("five_shot", 5)):
        ways = min(WAYS, int((counts > shots).sum()))
        queries = min(QUERIES, int(counts[ways - 1]) - shots)
        metrics[name] = few_shot_accuracy(embeddings, labels, shots, ways, EPISODES, queries)[0]
    return {"metrics": metrics, "groups": {}, "per_class": None, "diagnostics": {}}
