"""The classify task: whose network names the class of new images best, for every class alike?

A network is judged by its own logits on test images. All labelled images but those of the test are trained on: where
other tasks hold some out to read features with, nothing reads them here, and a classifier that lacks a fifth of its
labels is judged too low. It is so for every method. While a run trains, the curve therefore shows accuracy on training
images, by the labels that were given: how far they are fitted, and under label noise, too far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from counterpoise.data.images import fair_sample
from counterpoise.data.imperfect import make_imperfect_with_truth, parse_spec
from counterpoise.data.parts import Labelled
from counterpoise.errors import first_few
from counterpoise.learners.classifier import Classifier
from counterpoise.measure import accuracy, class_accuracy, group_accuracy
from counterpoise.measure.classification import (
    calibration_error,
    each_in_top,
    each_negative_log_likelihood,
    negative_log_likelihood,
    top_accuracy,
    wrong_learnt,
)
from counterpoise.measure.online import OnlineProbe
from counterpoise.measure.separation import auroc
from counterpoise.measure.subgroups import macro_std, macro_std_null
from counterpoise.tasks.base import NONE_GIVEN, Offers
from counterpoise.tasks.images import WATCHED, ImageTask, Prepared, by_group, hold_out, load_labelled
from counterpoise.tasks.items import balanced
from counterpoise.tasks.kinds import of_kind
from counterpoise.training.run import EFFECTIVE_RANK, ImageSettings, Metric, Run, Scores, Settings

GROUP = "group"  # the factor, or column of a table, that names subgroups unless the settings name another
TOP = 5
OUTSIDERS = "outsiders"  # the imperfection, and the metric


@runtime_checkable
class WeighsPool(Protocol):
    """A method that says itself how far each training item is of the classes that have labels."""

    def membership(self, data: Any) -> Tensor:
        """One number for each item of the training data; the larger, the likelier."""


class Classify(ImageTask):
    """Networks that classify images, or rows of numbers, scored by their own logits."""

    name = "classify"
    metrics: ClassVar = {
        "balanced": Metric("balanced accuracy", meaning="the mean over classes of the share that is named rightly"),
        "accuracy": Metric("accuracy", meaning="the share of test images whose class is named rightly"),
        "worst_class": Metric("worst class", meaning="the accuracy of the class that has the lowest"),
        "ece": Metric(
            "calibration error",
            "lower",
            meaning="how far confidence and accuracy are apart, over 15 bins of confidence (ECE)",
        ),
        "nll": Metric(
            "negative log-likelihood",
            "lower",
            percent=False,
            meaning="of the true class, in nats; confident errors cost most",
        ),
        "top_5": Metric("top-5 accuracy", meaning="whether the class is among the five with the highest scores"),
        "worst_group": Metric("worst group", meaning="the accuracy of the subgroup of images that has the lowest"),
        "outsiders": Metric(
            "AUROC of outsiders",
            meaning="how often an unlabelled training image of a class of the test has a larger weight than one of "
            "another class, or the network is surer of it; 50 % by chance",
        ),
        "macro_std": Metric(
            "MacroStd",
            "lower",
            meaning="how far the accuracies of subgroups of the same class are apart; above 0 by chance alone, too",
        ),
    }
    shown: ClassVar = {"balanced": "balanced %", "accuracy": "accuracy %", "worst_class": "worst class %", "nll": "NLL"}
    main = "balanced"
    curve: ClassVar = {
        "fitted": Metric(
            "training accuracy",
            meaning="on up to 1,000 training images of all classes alike, by the labels that were given",
        ),
        "effective_rank": EFFECTIVE_RANK,
    }
    front = ("accuracy", "macro_std")
    baseline = "cross-entropy"
    per_class = "accuracy"
    takes_rows = True
    references: ClassVar = {"raw": "raw-linear", "untrained": "untrained-linear", "start": "start-linear"}

    def declared(self, settings: Settings) -> dict[str, Any]:
        """As of any task, but that the scores of subgroups are accuracies."""
        found = super().declared(settings)
        if found["groups"]:
            found["groups"]["metric"] = "accuracy"
        return found

    def prepare(self) -> Callable[..., Prepared]:
        return prepare

    def tuning_parts(self, run: Run, parts: Prepared) -> Prepared:
        """Of the labelled training images of every class, some to choose by; their true labels stay unknown."""
        rest, chosen_by = hold_out(run, parts.train)
        return Prepared(rest, rest.subset(torch.arange(0)), chosen_by)

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        """As of any task on images, the training images standing for those that others hold out for the probes."""
        super().check_parts(run, replace(parts, probe=parts.train), scored)

    def summary(self, run: Run, parts: Prepared) -> str:
        """How many images are trained on, and how many are not, in one line."""
        if run.train_on_all:
            return super().summary(run, parts)
        train, test = len(parts.train), len(parts.test)
        return f"training on {train:,} {parts.train.items}; held out: {test:,} for the test; --all trains on them, too"

    def make(self, run: Run, parts: Prepared, given: Offers = NONE_GIVEN) -> Classifier:
        """The method of a run; one without logits is refused."""
        return of_kind(super().make(run, parts, given), Classifier, run, "has no logits to classify by")

    def kept(self, learner: Classifier) -> nn.Module:
        """The whole network, which classifies."""
        return learner.net

    def probe(self, run: Run, parts: Prepared) -> OnlineProbe:
        return Fitting(parts.train, super().probe(run, parts).unseen)

    def score(self, run: Run, learner: Any, parts: Prepared, curve: Sequence[Mapping[str, float]]) -> Scores:
        """As of any task on images; with subgroups, outsiders, and a warning of classes that could not be learnt."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        found = super().score(replace(run, settings=replace(settings, group=None)), learner, parts, curve)
        found = replace(found, warnings=[*found.warnings, *_never_learnt(parts)])
        if any(parse_spec(spec)[1] == OUTSIDERS for spec in run.imperfect):
            found = _with_outsiders(found, learner, parts)
        return _with_subgroups(found, parts.test, settings.group)

    def score_features(self, learner: Classifier, parts: Prepared, features: Tensor) -> Scores:
        """All metrics of the logits; accuracy per class and group of classes; wrong labels learnt."""
        test, diagnostics = parts.test, _wrong_learnt(learner, parts)
        if not test.counts().any():
            return Scores({}, diagnostics=diagnostics)
        labels, classes = test.labels, len(test.classes)
        logits = learner.predict(test)
        predicted = logits.argmax(1)
        recall = class_accuracy(predicted, labels, classes)
        metrics = {
            "balanced": float(recall.nanmean()),
            "accuracy": accuracy(predicted, labels),
            "worst_class": float(recall[~recall.isnan()].min()),
            "ece": calibration_error(logits, labels),
            "nll": negative_log_likelihood(logits, labels),
        }
        if classes > TOP:
            metrics["top_5"] = top_accuracy(logits, labels, TOP)
        return Scores(
            metrics,
            groups=group_accuracy(predicted, labels, parts.train.counts()),
            per_class=[None if value != value else value for value in recall.tolist()],
            diagnostics=diagnostics,
            items=_items(logits, predicted, labels),
        )


class Fitting(OnlineProbe):
    """Measures while a network trains how far it fits its labels; of unseen images, the shape of the features alone.

    Args:
        train: the training images, of which up to 1,000 with a label are used.
        unseen: images whose features give the effective rank and the uniformity; their labels are not read.
    """

    def __init__(self, train: Labelled, unseen: Labelled):
        super().__init__(None, unseen)
        labelled = train.subset((train.labels >= 0).nonzero().flatten())
        self.train = labelled.subset(fair_sample(labelled.labels, WATCHED))

    def __call__(self, learner: Any) -> tuple[dict[str, float], str | None]:
        """The figures, and the name of the collapse if there is one."""
        figures, collapse = super().__call__(learner)
        fitted = accuracy(learner.predict(self.train).argmax(1), self.train.labels)
        return {"fitted": fitted, **figures}, collapse


def prepare(
    data: str,
    imperfect: tuple[str, ...],
    seed: int,
    division: int,
    size: int | None,
    data_dir: str | None,
    download: bool,
) -> Prepared:
    """The images of a run, the same for every method of one seed: all that are not of the test are trained on."""
    splits = load_labelled(data, division, size, data_dir, download)
    (train, test), truth = make_imperfect_with_truth(splits, imperfect, seed)
    return Prepared(train, train.subset(torch.arange(0)), test, truth)


def _items(logits: Tensor, predicted: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What each labelled test image adds to the metrics that are means over them."""
    kept = labels >= 0
    right, truth = (predicted == labels)[kept], labels[kept]
    items = {
        "balanced": balanced(right, truth),
        "accuracy": right.float(),
        "nll": each_negative_log_likelihood(logits, labels),
    }
    return items | ({"top_5": each_in_top(logits, labels, TOP)} if logits.shape[1] > TOP else {})


def _with_subgroups(found: Scores, test: Labelled, asked: str | None) -> Scores:
    """Scores with the accuracy of each subgroup, and that of the worst as a metric, where the images have subgroups.

    An image of a rare class has a larger weight in the balanced accuracy; in that of a subgroup all count alike.

    Args:
        found: the scores.
        test: to score by.
        asked: the factor that the settings name, whose values then stand beside the groups of classes; without one, a
            factor "group" counts.
    """
    factor = asked or GROUP
    if "accuracy" not in found.items or factor not in test.factors:
        return found
    judged = by_group(found, test, factor, "accuracy")
    accuracies = {name: value for name, value in judged.groups.items() if name not in found.groups}
    if accuracies:
        found = replace(found, metrics={**found.metrics, "worst_group": min(accuracies.values())})
    if len(accuracies) > 1:
        found = _with_macro_std(found, test, factor)
    if asked:
        return replace(found, groups=judged.groups, diagnostics=found.diagnostics | judged.diagnostics)
    return replace(found, diagnostics=found.diagnostics | accuracies)


def _with_macro_std(found: Scores, test: Labelled, factor: str) -> Scores:
    """Scores with MacroStd, and what chance alone gives; without where it is not defined, which is then a warning."""
    kept = test.labels >= 0
    labels = test.labels[kept]
    rows = torch.where(found.items["accuracy"] > 0, labels, -1), labels, test.factors[factor][kept]
    value = macro_std(*rows).value
    null = None if value is None else macro_std_null(*rows)
    if value is None or null is None:
        return found
    by_chance = {"MacroStd by chance": null.mean, "MacroStd by chance, 97.5 %": null.high, "MacroStd p": null.p}
    return replace(found, metrics={**found.metrics, "macro_std": value}, diagnostics=found.diagnostics | by_chance)


def _with_outsiders(found: Scores, learner: Classifier, parts: Prepared) -> Scores:
    """Scores with how well the method tells the unlabelled training images of the test's classes from the others.

    By its own weights where it has some, else by the largest probability.
    """
    if parts.truth is None:
        return found
    pool = ((parts.train.labels < 0) & (parts.truth >= 0)).nonzero().flatten()
    inside = parts.test.counts()[parts.truth[pool]] > 0
    if inside.all() or not inside.any():
        kind = "outsiders" if len(pool) and not inside.any() else "of the test's classes"
        what = f"all {len(pool):,} unlabelled {parts.train.items} are {kind}" if len(pool) else "nothing is unlabelled"
        return replace(found, warnings=[*found.warnings, f"the AUROC of outsiders is undefined: {what}"])
    if isinstance(learner, WeighsPool):
        values = learner.membership(parts.train)[pool]
    else:
        values = learner.predict(parts.train.subset(pool)).amax(1)
    value = auroc(values, inside)
    assert value is not None
    return replace(found, metrics={**found.metrics, OUTSIDERS: value})


def _wrong_learnt(learner: Classifier, parts: Prepared) -> dict[str, float]:
    """The share of the wrong labels that the network has learnt; empty where none is known to be wrong."""
    if parts.truth is None:
        return {}
    given = parts.train.labels
    wrong = ((given >= 0) & (parts.truth >= 0) & (given != parts.truth)).nonzero().flatten()
    if not len(wrong):
        return {}
    some = parts.train.subset(wrong)
    share = wrong_learnt(learner.predict(some).argmax(1), some.labels, parts.truth[wrong])
    assert share is not None
    return {"wrong_learnt": share}


def _never_learnt(parts: Prepared) -> list[str]:
    """The warning about classes of the test that training has no label of, and that no method can name."""
    there = parts.test.counts()
    never = ((there > 0) & (parts.train.counts() == 0)).nonzero().flatten().tolist()
    if not never:
        return []
    count = int(there[never].sum())
    names = first_few([parts.test.classes[label] for label in never])
    return [f"no training label of {len(never)} classes ({names}): their {count:,} test images count as wrong"]


TASK = Classify()
