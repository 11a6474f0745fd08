"""The pretrain task: which method learns the most useful features from these images?

Every method trains the same backbone on the same images, views and number of epochs. What it is scored by is the
backbone's features on test images, read with clean labelled images that were held out.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.data import Images
from counterpoise.data.images import fair_sample
from counterpoise.data.views import to_float
from counterpoise.learners.method import Method
from counterpoise.measure import (
    accuracy,
    alignment,
    balanced_accuracy,
    class_accuracy,
    effective_rank,
    group_accuracy,
    knn_predict,
    linear_probe,
    probe_factors,
    stratified_split,
    tolerance,
    uniformity,
)
from counterpoise.measure.probes import Episodes, few_shot_episodes
from counterpoise.nets import embed
from counterpoise.tasks.images import KNN, NEIGHBOURS, ImageTask, Prepared
from counterpoise.tasks.items import balanced, of_some, weighted
from counterpoise.training.run import EFFECTIVE_RANK, UNIFORMITY, Metric, Scores

ALIGNED = 1000  # test images, at most, of which two views are compared


class Pretrain(ImageTask):
    """Features of images, scored by what simple readers find in them."""

    name = "pretrain"
    metrics: ClassVar = {
        "knn": KNN,
        "linear": Metric("linear probe accuracy", meaning="of a linear classifier that is trained on the features"),
        "balanced": Metric("balanced linear accuracy", meaning="the same, where every class counts alike"),
        "few_shot": Metric("5-shot accuracy", meaning="of the nearest class mean of 5 test images a class"),
        "alignment": Metric(
            "alignment", "lower", percent=False, meaning="the mean squared distance between two views of one image"
        ),
        "uniformity": UNIFORMITY,
        "tolerance": Metric(
            "tolerance", percent=False, meaning="the mean cosine of images of one class; 1 where they are one point"
        ),
        "effective_rank": EFFECTIVE_RANK,
    }
    shown: ClassVar = {"knn": "kNN %", "linear": "linear %", "effective_rank": "rank"}
    main = "knn"
    baseline = "simclr"
    per_class = "knn"

    def score_features(self, learner: Method, parts: Prepared, features: Tensor) -> Scores:
        """All metrics of one encoder; its accuracy per class and group of classes; what it holds of known factors.

        Args:
            learner: for its encoder and its random views.
            parts: the images; without labels on both sides only the geometry is measured.
            features: of the test images, [test, dim].
        """
        probe, test = parts.probe, parts.test
        shown = fair_sample(test.labels, ALIGNED)
        first, second = _two_views(learner, test)
        distances = (first - second).square().sum(1)
        metrics: dict[str, float] = {
            "alignment": float(alignment(first, second)),
            "uniformity": float(uniformity(features)),
            "effective_rank": float(effective_rank(features)),
        }
        if not len(probe) or not test.counts().any():
            return Scores(metrics)
        classes, labels = len(test.classes), test.labels
        known = embed(learner.encoder, probe, to_float)
        neighbours = knn_predict(known, probe.labels, features, classes, k=NEIGHBOURS)
        fitted, valid = stratified_split(probe.labels, 0.75, torch.Generator().manual_seed(0))
        linear = linear_probe(known[fitted], probe.labels[fitted], known[valid], probe.labels[valid], classes)
        linear_labels = linear.predict(features)
        metrics |= {
            "knn": accuracy(neighbours, labels),
            "linear": accuracy(linear_labels, labels),
            "balanced": balanced_accuracy(linear_labels, labels, classes),
        }
        if (test.counts() > 1).any():  # it compares images of one class
            metrics["tolerance"] = float(tolerance(features, labels))
        right, kept = {"knn": neighbours == labels, "linear": linear_labels == labels}, labels >= 0
        items = {name: found[kept].float() for name, found in right.items()}
        items["balanced"] = balanced(right["linear"][kept], labels[kept])
        if kept.all():
            items["alignment"] = of_some(distances, shown, len(test))
        if few := _few_shot(features, labels):
            metrics["few_shot"] = few.mean
            items["few_shot"] = weighted((few.right / few.asked.clamp(min=1))[kept], few.asked[kept])
        per_class = class_accuracy(neighbours, labels, classes)
        return Scores(
            metrics,
            groups=group_accuracy(neighbours, labels, parts.train.counts()),
            per_class=[None if np.isnan(value) else value for value in per_class.tolist()],
            diagnostics=_factors(known, parts, features) if test.factors else {},
            items=items,
        )


def _factors(known: Tensor, prepared: Prepared, features: Tensor) -> dict[str, float]:
    """What the features hold of all else that is known of the images, `factor NAME`, and the mean of it, `factors`."""
    found = probe_factors(known, prepared.probe.factors, features, prepared.test.factors)
    if not found:  # as where a factor has one value only
        return {}
    return {**{f"factor {name}": value for name, value in found.items()}, "factors": float(np.mean([*found.values()]))}


def _few_shot(features: Tensor, labels: Tensor, shots: int = 5, queries: int = 15) -> Episodes | None:
    """5-shot accuracy over at most 5 classes; `None` where fewer than 2 classes have enough test images."""
    enough = int((labels[labels >= 0].bincount() >= shots + queries).sum())
    if enough < 2:
        return None
    return few_shot_episodes(features, labels, shots=shots, ways=min(5, enough), queries=queries)


@torch.no_grad()
def _two_views(learner: Method, test: Images) -> tuple[Tensor, Tensor]:
    """Features of two random views of the same test images, the views being the same for every method."""
    some = test.subset(fair_sample(test.labels, ALIGNED))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (embed(learner.encoder, some, learner.view) for _ in range(2))
    return nn.functional.normalize(first, dim=1), nn.functional.normalize(second, dim=1)


TASK = Pretrain()
