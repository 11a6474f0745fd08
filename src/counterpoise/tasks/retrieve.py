"""The retrieve task: which method's embeddings find images of one class, for classes that training has not seen?

Every method trains on images of some classes. What it is scored by are the embeddings of images of other classes, each
of which seeks its own class among all others.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from counterpoise.data.views import to_float
from counterpoise.learners.method import Method
from counterpoise.measure import effective_rank, uniformity
from counterpoise.measure.opis import epsilon_opis, opis, utility_curves
from counterpoise.measure.retrieval import clustering_nmi, retrieval_each
from counterpoise.nets import embed
from counterpoise.tasks.images import Prepared
from counterpoise.tasks.items import identity_of
from counterpoise.tasks.unseen import UnseenClasses
from counterpoise.training.run import EFFECTIVE_RANK, UNIFORMITY, Metric, Scores

KS = (1, 2, 4, 8)


class Retrieve(UnseenClasses):
    """Embeddings that find images of one class, for classes that training has not seen."""

    name = "retrieve"
    needed = 2
    why = "one that seeks and one to find"
    metrics: ClassVar = {
        **{
            f"recall_{k}": Metric(
                f"Recall@{k}", meaning="the share of images with one of their class among the k nearest"
            )
            for k in KS
        },
        "map_r": Metric(
            "MAP@R",
            meaning="of an image with R others of its class: at each of the first R places that holds one of them, the "
            "share of these so far; summed, divided by R, and averaged over images. All R of them first give 100 %",
        ),
        "r_precision": Metric(
            "R-precision", meaning="the share of an image's class among its R nearest, where R others are of its class"
        ),
        "nmi": Metric(
            "normalised mutual information of k-means",
            meaning="how much it says of an image's class in which of as many clusters as classes it lies: 0 % is "
            "nothing, 100 % is all",
        ),
        "opis": Metric(
            "OPIS: how unequally one threshold serves the classes",
            "lower",
            percent=False,
            meaning="pairs nearer than a threshold are taken for one class; OPIS is the variance over classes of the "
            "threshold's utility for each, averaged over the thresholds that take 1 % to 10 % of the pairs of "
            "different classes for one: 0 where one threshold serves all classes alike, 0.25 at worst",
        ),
        "epsilon_opis": Metric(
            "ε-OPIS: the same of the best and the worst tenth of them",
            "lower",
            percent=False,
            meaning="the squared difference between the utility of the best and of the worst tenth of the classes",
        ),
        "utility": Metric(
            "mean utility of one threshold",
            meaning="of one class at one threshold: the harmonic mean of the share of its pairs that lie within the "
            "threshold and of the share of its pairs with other classes that do not; averaged over both",
        ),
        "uniformity": UNIFORMITY,
        "effective_rank": EFFECTIVE_RANK,
    }
    shown: ClassVar = {"recall_1": "R@1 %", "map_r": "MAP@R %", "nmi": "NMI %", "opis": "OPIS"}
    main = "recall_1"
    baseline = "multi-similarity"

    def score_features(self, learner: Method, parts: Prepared, features: Tensor) -> Scores:
        """All metrics of the embeddings of unseen classes.

        Args:
            learner: for its encoder.
            parts: the images.
            features: of the test images, [test, dim].
        """
        gallery, test = parts.probe, parts.test
        embeddings = torch.cat([features, embed(learner.encoder, gallery, to_float)])
        labels = torch.cat([test.labels, gallery.labels])
        counts = labels[labels >= 0].bincount(minlength=len(test.classes))
        if single := [test.classes[i] for i in (counts == 1).nonzero().flatten().tolist()]:
            more = ", …" if len(single) > 3 else ""
            warnings.warn(
                f"{len(single)} of {len(counts)} classes have 1 image, which has nothing to find: retrieval needs 2: "
                f"{', '.join(single[:3])}{more}"
            )
        each, utility = (
            retrieval_each(embeddings, labels, ks=KS, ties="average"),
            utility_curves(embeddings, labels).utility,
        )
        found = each.means()
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
        items = {f"recall_{k}": each.recall[k] for k in KS} | {"map_r": each.map_r, "r_precision": each.r_precision}
        return Scores(metrics, items=items, identity=identity_of([test, gallery], each.able))


TASK = Retrieve()
