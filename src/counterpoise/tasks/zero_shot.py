"""The zero-shot task: who names images of classes that training has not seen, by their names alone?

Some classes are new: those that the test alone has, or, where it has none, a fifth of all, drawn by the seed. Training
gets the labelled images of the others, and images of new classes without a label, of which it may learn what it can:
all of the training part, and half of the test part. Methods are scored by the other half, among the names of the new
classes, and by test images of the seen classes, among all names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from counterpoise.data import Images, load
from counterpoise.data.images import fair_sample, joined
from counterpoise.data.imperfect import make_imperfect_with_truth
from counterpoise.errors import InputError
from counterpoise.files import read_json
from counterpoise.learners.describer import Describer
from counterpoise.measure import balanced_accuracy, class_accuracy, stratified_split
from counterpoise.measure.separation import auroc
from counterpoise.measure.zero_shot import area_seen_new, harmonic
from counterpoise.nets.towers import Towers
from counterpoise.tasks.base import NONE_GIVEN, Given, Offers, is_run
from counterpoise.tasks.images import ImageTask, Prepared, hold_out
from counterpoise.tasks.items import balanced, identity_of, of_some
from counterpoise.tasks.kinds import of_kind
from counterpoise.training.run import ImageSettings, Metric, Run, Scores

NEW = 1 / 5  # of the classes, where the test has none of its own


class ZeroShot(ImageTask):
    """Methods that compare images with the names of classes, scored by classes that training has not seen."""

    name = "zero-shot"
    metrics: ClassVar = {
        "new": Metric(
            "accuracy on new classes",
            meaning="of images of new classes, chosen between the names of these; the mean over classes",
        ),
        "seen": Metric(
            "accuracy on seen classes",
            meaning="of test images of seen classes, chosen between the names of these; the mean over classes",
        ),
        "harmonic": Metric(
            "harmonic mean",
            meaning="of the accuracies on seen and on new classes, both chosen between all names",
        ),
        "area": Metric(
            "area of seen and new",
            meaning="under the curve of these two accuracies, over all constants by which seen classes may be lowered",
        ),
        "doubt": Metric(
            "AUROC of doubt",
            meaning="how well doubt tells images of new classes from those of seen ones; 50 % is chance",
        ),
    }
    shown: ClassVar = {"new": "new %", "seen": "seen %", "harmonic": "harmonic %", "area": "area %", "doubt": "doubt %"}
    main = "new"
    front = ("seen", "new")
    baseline = "zero-shot"
    per_class = "new"
    curve: ClassVar = {}
    roles: ClassVar = {"towers": "clip"}
    recipes: ClassVar = {"towers": ("clip",)}
    references: ClassVar = {"untrained": "untrained-towers"}
    trains_on_all = False

    def prepare(self) -> Callable[..., Prepared]:
        return prepare

    def sample(self, run: Run, parts: Prepared, most: int) -> Prepared:
        """Images of all classes alike, and of those without a label, or some where there are many."""
        train, test = parts.train, parts.test
        hidden = (train.labels < 0).nonzero().flatten()
        kept = torch.cat([fair_sample(train.labels, most), hidden[:most]]).unique()
        return replace(parts, train=train.subset(kept), test=test.subset(fair_sample(test.labels, most)), truth=None)

    def tuning_parts(self, run: Run, parts: Prepared) -> Prepared:
        """A fifth of the seen classes, drawn by the seed, stand for new ones; of the others some images are held out.

        Images without a label stay out, since they show classes that scores are made of.

        Raises:
            InputError: where fewer than 2 classes would be new, or are left.
        """
        train = parts.train
        labelled = train.subset((train.labels >= 0).nonzero().flatten())
        drawn = _drawn(labelled.labels.unique(), run.seed, f"tune: {run.data}")
        rest, chosen_by = hold_out(run, labelled)
        is_new = torch.isin(rest.labels, drawn)
        seen, new = (rest.subset(some.nonzero().flatten()) for some in (~is_new, is_new))
        return _judged(seen, joined([chosen_by, new]), drawn, run.seed)

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Refuse data without test images of two seen and two new classes, or without an image to learn from."""
        seen, new = _seen_and_new(parts)
        for kind, classes in (("seen", seen), ("new", new)):
            if len(classes) < 2:
                raise InputError(f"{run.data}: expected test images of at least 2 {kind} classes, got {len(classes)}")

    def offers(self, run: Run, parts: Prepared) -> Offers:
        """As any task on images; how many have no label, the names of all classes, and of the new ones."""
        classes = parts.train.classes
        return {
            **super().offers(run, parts),
            "unlabelled": lambda: int((parts.train.labels < 0).sum()),
            "names": lambda: list(classes),
            "new_names": lambda: [classes[k] for k in _seen_and_new(parts)[1]],
        }

    def resolve(self, run: Run, role: str, value: str) -> Given:
        """Towers are those of a recipe, or of a run in a folder."""
        if role == "towers" and value not in (*self.recipes[role], "none") and not is_run(value):
            raise InputError(f"given: towers: expected {self.recipes[role][0]} or the folder of its run, got '{value}'")
        return super().resolve(run, role, value)

    def given_run(self, run: Run, role: str, value: str) -> Run:
        """Towers are trained on the run's own images and names."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        own = replace(settings, given=None)
        return replace(run, method=value, arguments={}, settings=own, files=None)

    def blank_models(self, run: Run, shape: Sequence[int]) -> Offers:
        """Towers with random weights, of the arguments of the run that has trained them."""
        return {given.role: partial(self._blank_towers, run, given, shape) for given in self.given(run)}

    def _blank_towers(self, run: Run, given: Given, shape: Sequence[int]) -> Towers | None:
        if given.backbone is None:
            return None
        arguments = {}
        if given.source is not None:
            arguments = read_json(Path(given.source).expanduser() / "config.json")["arguments"]
        own = {name: arguments[name] for name in ("text", "dim", "template") if name in arguments}
        return Towers(self.given_net(run, given.role, given.backbone, shape), **own)

    def make(self, run: Run, parts: Prepared, given: Offers = NONE_GIVEN) -> Describer:
        """The method of a run; one that compares no names is refused."""
        return of_kind(super().make(run, parts, given), Describer, run, "compares no names with images")

    def kept(self, learner: Describer) -> nn.Module:
        """The towers."""
        return learner.net

    def probe(self, run: Run, parts: Prepared) -> Any:
        """Nothing: names alone say what a class is, and they are all scored at the end."""

    def summary(self, run: Run, parts: Prepared) -> str:
        """How many images are trained on with and without a label, and how many classes are new."""
        hidden = int((parts.train.labels < 0).sum())
        seen, new = _seen_and_new(parts)
        return (
            f"training on {len(parts.train) - hidden:,} images of {len(seen)} classes, and {hidden:,} without a label; "
            f"held out: {len(parts.test):,} for the test, of these and {len(new)} new classes"
        )

    def score_features(self, learner: Describer, parts: Prepared, features: Tensor) -> Scores:
        """All metrics of the scores by names; accuracy of each new class."""
        test, (seen, new) = parts.test, _seen_and_new(parts)
        classes, labelled = len(test.classes), (test.labels >= 0).nonzero().flatten()
        metrics, items, recall = {}, {}, {}
        for kind, own in (("new", new), ("seen", seen)):
            some = torch.isin(test.labels, torch.tensor(own)).nonzero().flatten()
            labels = test.labels[some]
            predicted = torch.tensor(own)[learner.scores(features[some], [test.classes[k] for k in own]).argmax(1)]
            metrics[kind] = balanced_accuracy(predicted, labels, classes)
            recall[kind] = class_accuracy(predicted, labels, classes).tolist()
            each = balanced(predicted == labels, labels)
            items[kind] = of_some(each, torch.searchsorted(labelled, some), len(labelled))
        rows, labels, columns = features[labelled], test.labels[labelled], torch.tensor(sorted([*seen, *new]))
        scores = learner.scores(rows, [test.classes[k] for k in columns.tolist()])
        predicted, of_new = columns[scores.argmax(1)], torch.isin(labels, torch.tensor(new))
        apart = [balanced_accuracy(predicted[kind], labels[kind], classes) for kind in (~of_new, of_new)]
        metrics["harmonic"] = harmonic(*apart)
        is_new = torch.isin(columns, torch.tensor(new)).long()
        metrics["area"] = area_seen_new(scores, torch.searchsorted(columns, labels), is_new)
        doubt = auroc(learner.doubt(rows, [test.classes[k] for k in seen]), of_new)
        if doubt is not None:
            metrics["doubt"] = doubt
        return Scores(
            metrics,
            per_class=[None if value != value else value for value in recall["new"]],
            diagnostics={"seen among all": apart[0], "new among all": apart[1]},
            items=items,
            identity=identity_of([test], labelled),
        )


def prepare(
    data: str,
    imperfect: tuple[str, ...],
    seed: int,
    division: int,
    size: int | None,
    data_dir: str | None,
    download: bool,
) -> Prepared:
    """Labelled images of seen classes and others of new ones without a label to learn from; test images of both.

    Raises:
        InputError: as `load`; where fewer than 2 classes would be new, or seen.
    """
    splits = load(data, size=size, data_dir=data_dir, download=download, seed=division)
    (train, test), _ = make_imperfect_with_truth(splits, imperfect, seed)
    known, judged = (part.labels[part.labels >= 0].unique() for part in (train, test))
    new = judged[~torch.isin(judged, known)]
    if not len(new):
        new = _drawn(known, division, data)
    return _judged(train, test, new, division)


def _drawn(classes: Tensor, seed: int, where: str) -> Tensor:
    """A fifth of some classes, at least 2."""
    count = max(2, round(len(classes) * NEW))
    if len(classes) - count < 2:
        raise InputError(
            f"{where}: expected at least 4 classes, a fifth of which (2 or more) is new, got {len(classes)}"
        )
    return classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:count]]


def _judged(train: Images, test: Images, new: Tensor, seed: int) -> Prepared:
    """What is learnt from and judged by, where some classes are new.

    Args:
        train: with labels of all classes.
        test: with images of both kinds; half of those of new classes are learnt from, without a label.
        new: the classes whose labels are taken away.
        seed: divides the test images of new classes.
    """
    hidden = replace(train, labels=torch.where(torch.isin(train.labels, new), -1, train.labels))
    is_new = torch.isin(test.labels, new)
    of_new = is_new.nonzero().flatten()
    kept, given = stratified_split(test.labels[of_new], 0.5, torch.Generator().manual_seed(seed))
    pool = test.subset(of_new[given])
    learnt = joined([hidden, replace(pool, labels=torch.full_like(pool.labels, -1))])
    judging = torch.cat([(~is_new).nonzero().flatten(), of_new[kept]]).sort().values
    return Prepared(learnt, learnt.subset(torch.arange(0)), test.subset(judging))


def _seen_and_new(parts: Prepared) -> tuple[list[int], list[int]]:
    """The classes of the test that training has labels of, and those that it has not."""
    there, learnt = parts.test.counts() > 0, parts.train.counts() > 0
    return (there & learnt).nonzero().flatten().tolist(), (there & ~learnt).nonzero().flatten().tolist()


TASK = ZeroShot()
