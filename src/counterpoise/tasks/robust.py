"""The robust task: whose network still names the class where an attack may move every pixel a little?

Methods are those of the task classify, on the same images. Each trained network is attacked by itself: an image counts
where the network is right at every point that the attacks visit, which are PGD on cross-entropy and on the margin, each
from several random starts. This is an upper bound of what a network withstands; attacks that are longer, or have more
starts, are settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from counterpoise.data.images import shape_of
from counterpoise.errors import InputError
from counterpoise.learners.classifier import Classifier
from counterpoise.measure import accuracy, class_accuracy, group_accuracy
from counterpoise.measure.robustness import attacked_predictions
from counterpoise.nets.features import device_of, dtype_of, evaluation
from counterpoise.ops.checks import check_number
from counterpoise.tasks.base import NONE_GIVEN, Offers
from counterpoise.tasks.classify import Classify
from counterpoise.tasks.images import Prepared, by_group, is_rows
from counterpoise.tasks.items import balanced
from counterpoise.training.run import ImageSettings, Metric, Run, Scores, Settings


@dataclass(frozen=True)
class RobustSettings(ImageSettings):
    """What the methods of the task robust share.

    Args:
        attack: how far the attack that scores may move each pixel, as a share of the range of pixels (L-infinity),
            above 0; methods that train against attacks have a radius of their own.
        pgd_steps: steps of each attack that scores.
        pgd_restarts: random starts of each attack that scores.
    """

    attack: float = 0.1
    pgd_steps: int = 20
    pgd_restarts: int = 2

    def check(self) -> None:
        super().check()
        check_number("attack", self.attack, above=0, at_most=1)
        check_number("pgd_steps", self.pgd_steps, at_least=1, whole=True)
        check_number("pgd_restarts", self.pgd_restarts, at_least=1, whole=True)


class Robust(Classify):
    """Networks that classify images, scored by what they name under attack."""

    name = "robust"
    settings = RobustSettings
    metrics: ClassVar = {
        "robust": Metric(
            "robust accuracy",
            meaning="the share of test images whose class is named rightly at every point that the attacks visit",
        ),
        "balanced_robust": Metric(
            "balanced robust accuracy", meaning="the mean over classes of the share that is named rightly under attack"
        ),
        **Classify.metrics,
    }
    shown: ClassVar = {
        "robust": "robust %",
        "accuracy": "accuracy %",
        "balanced_robust": "balanced robust %",
        "balanced": "balanced %",
    }
    main = "robust"
    front = ("accuracy", "robust")
    baseline = "pgd-at"
    per_class = "robust"
    takes_rows = False

    def declared(self, settings: Settings) -> dict[str, Any]:
        """As of classify, but that the scores of subgroups are those under attack."""
        found = super().declared(settings)
        if found["groups"]:
            found["groups"]["metric"] = self.main
        return found

    def load(self, run: Run) -> Prepared:
        """As of classify; rows of numbers are refused, of which an attack as a share of a range says nothing."""
        if is_rows(run.data):
            raise InputError(
                f"data: the task robust moves values by a share (attack) of the range that all have in common, which "
                f"pixels have and the columns of rows have not; expected images, got rows of numbers, {run.data}; the "
                "task classify takes them"
            )
        return super().load(run)

    def given_run(self, run: Run, role: str, value: str) -> Run:
        """As of any task on images: the attack does not concern a start, which is that of other tasks."""
        plain = ImageSettings(**{f.name: getattr(run.settings, f.name) for f in fields(ImageSettings)})
        return super().given_run(replace(run, settings=plain), role, value)

    def make(self, run: Run, parts: Prepared, given: Offers = NONE_GIVEN) -> Classifier:
        """The method of a run; one that no attack can follow is refused."""
        learner = super().make(run, parts, given)
        _check_attackable(run.method, learner, shape_of(parts.train))
        return learner

    def score(self, run: Run, learner: Any, parts: Prepared, curve: Sequence[Mapping[str, float]]) -> Scores:
        """As of classify, and what the network names under attack; by the group of the settings, under attack."""
        settings = run.settings
        assert isinstance(settings, RobustSettings)
        found = super().score(replace(run, settings=replace(settings, group=None)), learner, parts, curve)
        if "accuracy" not in found.metrics:  # no test image has a label
            return found
        found = _attacked(found, learner, parts, settings, run.seed)
        return by_group(found, parts.test, settings.group, self.main) if settings.group else found


def _check_attackable(method: str, learner: Classifier, shape: Sequence[int]) -> None:
    """Refuse a method that predicts by other than its network, or by one without a gradient.

    An attack would go another way, or none, and the method would seem to withstand it.
    """
    if type(learner).predict is not Classifier.predict:
        raise InputError(
            f"method '{method}': predicts in a way of its own, which no attack on its network follows; expected `net` "
            "to give its logits, and `predict` as Classifier has it"
        )
    net = learner.net
    x = torch.zeros(2, *shape, device=device_of(net), dtype=dtype_of(net), requires_grad=True)
    with evaluation(net), torch.enable_grad():
        if not net(x).requires_grad:
            raise InputError(f"method '{method}': its logits have no gradient by the images, so no attack follows it")


def _attacked(found: Scores, learner: Classifier, parts: Prepared, settings: RobustSettings, seed: int) -> Scores:
    """Scores with those under attack."""
    test = parts.test.subset((parts.test.labels >= 0).nonzero().flatten())
    named = attacked_predictions(learner.net, test, settings.attack, settings.pgd_steps, settings.pgd_restarts, seed)
    right, recall = named == test.labels, class_accuracy(named, test.labels, len(test.classes))
    metrics = {"robust": accuracy(named, test.labels), "balanced_robust": float(recall.nanmean())}
    return replace(
        found,
        metrics={**metrics, **found.metrics},
        groups=group_accuracy(named, test.labels, parts.train.counts()),
        per_class=[None if value != value else value for value in recall.tolist()],
        items={"robust": right.float(), "balanced_robust": balanced(right, test.labels), **found.items},
        warnings=[*found.warnings, *_another_radius(learner, settings)],
    )


def _another_radius(learner: Classifier, settings: RobustSettings) -> list[str]:
    """The warning about a method that was trained against a nearer or a farther attack than it is scored by."""
    radius = getattr(learner, "radius", 0)
    if not radius or abs(radius - settings.attack) < 1e-9:
        return []
    return [f"trained against attacks of radius {radius:g}, scored by those of radius {settings.attack:g}"]


TASK = Robust()
