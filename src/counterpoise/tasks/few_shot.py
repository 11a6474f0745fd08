"""The few-shot task: which method's embeddings distinguish new classes by a handful of examples of each?

Every method trains on images of some classes. It is scored by episodes of other classes: each image gets the class
whose examples have the nearest mean.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from counterpoise.data.views import to_float
from counterpoise.learners.method import Method
from counterpoise.measure import effective_rank
from counterpoise.measure.probes import few_shot_episodes
from counterpoise.nets import embed
from counterpoise.tasks.images import Prepared
from counterpoise.tasks.items import identity_of, weighted
from counterpoise.tasks.unseen import UnseenClasses
from counterpoise.training.run import EFFECTIVE_RANK, Metric, Scores

WAYS, EPISODES, QUERIES = 5, 600, 15


class FewShot(UnseenClasses):
    """Embeddings that classify images of new classes by a few examples of each."""

    name = "few-shot"
    needed = 6
    why = "5 examples and one to classify"
    metrics: ClassVar = {
        "one_shot": Metric("1-shot accuracy", meaning="images of new classes classified by 1 example of each class"),
        "five_shot": Metric("5-shot accuracy", meaning="the same by the mean of 5 examples of each class"),
        "effective_rank": EFFECTIVE_RANK,
    }
    shown: ClassVar = {"one_shot": "1-shot %", "five_shot": "5-shot %"}
    main = "five_shot"
    baseline = "protonet"

    def score_features(self, learner: Method, parts: Prepared, features: Tensor) -> Scores:
        """Accuracies over episodes of 5 unseen classes, or of all where there are fewer.

        An episode asks for 15 images of each class, or for as many as all 5 classes that have most can give.

        Args:
            learner: for its encoder.
            parts: the images.
            features: of the test images, [test, dim].
        """
        gallery, test = parts.probe, parts.test
        embeddings = torch.cat([features, embed(learner.encoder, gallery, to_float)])
        labels = torch.cat([test.labels, gallery.labels])
        counts = labels[labels >= 0].bincount().sort(descending=True).values
        kept, items = (labels >= 0).nonzero().flatten(), {}
        metrics = {"effective_rank": float(effective_rank(embeddings))}
        for name, shots in (("one_shot", 1), ("five_shot", 5)):
            ways = min(WAYS, int((counts > shots).sum()))
            queries = min(QUERIES, int(counts[ways - 1]) - shots)
            found = few_shot_episodes(embeddings, labels, shots, ways, EPISODES, queries)
            metrics[name] = found.mean
            items[name] = weighted((found.right / found.asked.clamp(min=1))[kept], found.asked[kept])
        return Scores(metrics, items=items, identity=identity_of([test, gallery], kept))


TASK = FewShot()
