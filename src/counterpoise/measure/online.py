"""A probe that measures an encoder during training."""

from __future__ import annotations

from typing import Any

from torch import nn

from counterpoise.data.images import fair_sample
from counterpoise.data.parts import Labelled
from counterpoise.data.views import to_input
from counterpoise.measure.geometry import collapse, effective_rank, uniformity
from counterpoise.measure.probes import knn_accuracy
from counterpoise.nets.features import embed


class OnlineProbe:
    """Measures a learner's encoder during training, since a falling loss does not show that it learns anything useful.

    Args:
        labelled: labelled images, or rows of numbers, for the kNN vote; `None` if there are no labels.
        unseen: images to classify, whose features also give effective rank and uniformity.
        neighbours: k of the kNN vote.
        most: largest number of images of each set, drawn from all classes, to keep measuring cheap.
    """

    def __init__(self, labelled: Labelled | None, unseen: Labelled, neighbours: int = 20, most: int = 1000):
        self.labelled: Any = None if labelled is None else labelled.subset(fair_sample(labelled.labels, most))
        self.unseen: Any = unseen.subset(fair_sample(unseen.labels, most))
        self.neighbours = neighbours

    def __call__(self, learner: Any) -> tuple[dict[str, float], str | None]:
        """Compute the figures by name, and the name of a collapse if there is one.

        Args:
            learner: has an `encoder` of images to features, or is such a network itself.
        """
        net: nn.Module = getattr(learner, "encoder", learner)
        features = embed(net, self.unseen, to_input)
        figures = {"effective_rank": float(effective_rank(features)), "uniformity": float(uniformity(features))}
        if self.labelled is not None:
            known = embed(net, self.labelled, to_input)
            figures["knn"] = knn_accuracy(
                known, self.labelled.labels, features, self.unseen.labels, len(self.labelled.classes), k=self.neighbours
            )
        return figures, collapse(features)
