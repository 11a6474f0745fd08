"""What the tasks share that train an encoder of images: their data, what a method is offered, and what is scored.

The images that a score needs labels of are held out *before* the data was made imperfect: so a score shows what the
features hold, not how well the reader copes with the imperfection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from counterpoise.data import Images, load
from counterpoise.data.images import fair_sample, joined
from counterpoise.data.imperfect import make_imperfect_with_truth
from counterpoise.data.views import Views, to_float
from counterpoise.errors import InputError, first_few, unknown
from counterpoise.learners.method import Method
from counterpoise.measure.online import OnlineProbe
from counterpoise.measure.undertraining import few_steps, flat_probe, poor_shape
from counterpoise.nets import embed
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import given_values
from counterpoise.tasks.base import Given, Offers, Task, is_run, start_encoder
from counterpoise.training.run import (
    EFFECTIVE_RANK,
    UNIFORMITY,
    ImageSettings,
    Metric,
    Run,
    Scores,
    load_once,
)

KNN = Metric(
    "kNN accuracy",
    meaning="whether the nearest labelled images of a test image are of its class; it judges the embedding "
    "itself, without training anything on it",
)
NEIGHBOURS = 20
HELD_OUT = 200  # labelled images per class for the probes; fewer where a fifth of the class is less
WATCHED = 1000  # training images that the curve and the pictures are made of where none is held out


@dataclass(frozen=True)
class Prepared:
    """Images to train on (imperfect), labelled ones for the probes (clean, held out), and unseen ones to score by.

    Attributes:
        train: the training images, as a method sees them.
        probe: labelled images that were held out.
        test: images to score by.
        truth: the class of each training image, of those too whose label was hidden; only the task sees it.
    """

    train: Images
    probe: Images
    test: Images
    truth: Int64[Tensor, " train"] | None = None

    @property
    def images(self) -> dict[str, Images]:
        """The three sets by name."""
        return {"train": self.train, "probe": self.probe, "test": self.test}


class ImageTask(Task[Prepared]):
    """A task whose methods train an encoder of images.

    Attributes:
        augmentations: steps of the random views unless the settings name some; `None` takes all but the blur.
    """

    settings = ImageSettings
    curve: ClassVar = {"knn": KNN, "effective_rank": EFFECTIVE_RANK, "uniformity": UNIFORMITY}
    pictures = ("gallery",)
    roles: ClassVar = {"start": "simclr"}
    recipes: ClassVar = {"start": ("simclr", "moco")}
    imperfections = True
    distributed = True
    trains_on_all = True
    augmentations: ClassVar[str | None] = None

    def prepare(self) -> Callable[..., Prepared]:
        """The function that makes the three sets of images of a run from its data, imperfections and seed."""
        return prepare

    def load(self, run: Run) -> Prepared:
        """The images of a run; of one that trains on all images, none to score it by."""
        if not run.train_on_all:
            return load_once(run, self.prepare())
        if run.imperfect:
            raise InputError("all: trains on every image as it is; expected no imperfection of the data beside it")
        train = joined(list(load_once(run, prepare).images.values()))
        nothing = train.subset(torch.arange(0))
        return Prepared(train, nothing, nothing)

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        if len(parts.test) < 2 and not run.train_on_all:
            raise InputError(f"{run.data}: expected at least 2 test images, got {len(parts.test)}; more data is needed")
        if scored and not len(parts.probe):
            raise InputError(f"{run.data}: {_unscored(parts.train)}; `counterpoise train` needs none")
        group = getattr(run.settings, "group", None)
        if group and not run.train_on_all and group not in parts.test.factors:
            raise unknown("group: factor of the test images", group, parts.test.factors)
        if not run.train_on_all:
            self.check_classes(run, parts, scored)

    def check_classes(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Refuse images that would be scored by classes which training has no labels of, or by one class alone."""
        _check_classes(run.data, parts, scored)

    def summary(self, run: Run, parts: Prepared) -> str:
        """How many images are trained on, and how many are not, in one line."""
        train, probe, test = map(len, parts.images.values())
        if run.train_on_all:
            return f"training on all {train:,} images; none is held out, so there are no scores"
        offer = "; --all trains on them, too" if self.trains_on_all else ""
        return f"training on {train:,} images; held out: {probe:,} for the probes and {test:,} for the test{offer}"

    def offers(self, run: Run, parts: Prepared) -> Offers:
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        return {
            "samples": lambda: len(parts.train),
            "classes": lambda: len(parts.train.classes),
            "batch_size": lambda: settings.batch_size,
        }

    def inputs(self, run: Run, shape: Sequence[int]) -> dict[str, Any]:
        """An encoder, and random views of the training images."""
        settings, (channels, height, _) = run.settings, shape
        assert isinstance(settings, ImageSettings)
        steps = settings.augmentations or self.augmentations
        encoder = start_encoder(settings, channels, height)
        return {"encoder": encoder, "augment": Views(height) if steps is None else Views.of(height, steps)}

    def given_run(self, run: Run, role: str, value: str) -> Run:
        """A start is an encoder that a self-supervised method trains on the run's own images."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        own = replace(settings, given=None, init=None, freeze=False)
        if value in self.recipes[role]:
            return replace(run, method=value, arguments={}, settings=own, task="pretrain")
        own = replace(own, backbone=value)
        return replace(run, method=self.roles[role], arguments={}, settings=own, task="pretrain")

    def given_model(self, role: str, net: nn.Module) -> nn.Module:
        """Of a network that classifies, a start is the encoder."""
        return getattr(net, "encoder", net) if role == "start" else net

    def given(self, run: Run) -> list[Given]:
        """As of any task; but the weights of `init` are the start of a method that asks for one, too."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        if settings.init and "start" not in given_values(settings.given):
            start = f"start={settings.init}" if is_run(settings.init) else f"start={settings.backbone}@{settings.init}"
            given = ",".join(filter(None, (settings.given, start)))
            return super().given(replace(run, settings=replace(settings, given=given)))
        return super().given(run)

    def kept(self, learner: Any) -> nn.Module:
        """The encoder, whose features these tasks score."""
        return learner.encoder

    def probe(self, run: Run, parts: Prepared) -> OnlineProbe:
        labelled = parts.probe if len(parts.probe) and parts.test.counts().any() else None
        return OnlineProbe(labelled, _watched(parts), NEIGHBOURS)

    def score(self, run: Run, learner: Method, parts: Prepared, curve: Sequence[Mapping[str, float]]) -> Scores:
        """The task's `score_features`, with the method's diagnostics, warnings and pictures."""
        watched = _watched(parts)
        features = embed(learner.encoder, watched, to_float)
        warnings = [*_left_out(parts), *undertraining(run, parts, curve, features)]
        assert isinstance(run.settings, ImageSettings)
        if run.train_on_all:
            warnings.append(f"no scores: all {len(parts.train)} images were trained on and none is held out")
            return Scores({}, warnings=warnings, gallery=(watched, features))
        found = self.score_features(learner, parts, features)
        diagnostics = found.diagnostics | learner.diagnostics(*parts.images.values())
        found = replace(
            found, diagnostics=diagnostics, warnings=[*found.warnings, *warnings], gallery=(watched, features)
        )
        return by_group(found, parts.test, run.settings.group) if run.settings.group else found

    def score_features(self, learner: Any, parts: Prepared, features: Tensor) -> Scores:
        """The task's figures.

        Args:
            learner: trained.
            parts: the images.
            features: of the test images, [test, dim].
        """
        raise NotImplementedError

    def facts(self, parts: Prepared) -> dict[str, Any]:
        """What a result says of its images: classes, counts, sizes, notes and shape."""
        classes, counts = parts.test.classes, {name: x.counts().tolist() for name, x in parts.images.items()}
        if parts.train.classes != classes:  # it is judged by classes that training has not seen
            known, new = [0] * len(parts.train.classes), [0] * len(classes)
            counts = {name: [*new, *found] if name == "train" else [*found, *known] for name, found in counts.items()}
            classes = (*classes, *parts.train.classes)
        value_range = getattr(parts.train, "value_range", None)  # of images of more than 8 bits
        return {
            "classes": list(classes),
            "counts": counts,
            "sizes": {name: len(images) for name, images in parts.images.items()},
            "notes": list(dict.fromkeys([*parts.train.notes, *parts.test.notes])),
            "shape": list(parts.test.pixels.shape[1:]),
            **({} if value_range is None else {"value_range": list(value_range)}),
        }


def prepare(
    data: str, imperfect: tuple[str, ...], seed: int, size: int | None, data_dir: str | None, download: bool
) -> Prepared:
    """The three sets of images of a run; the same for every method of one seed."""
    splits = load(data, size=size, data_dir=data_dir, download=download, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    held = _held_out(splits.train.labels, generator)
    rest = torch.ones(len(splits.train), dtype=torch.bool)
    rest[held] = False
    probe = splits.train.subset(held)
    divided = splits._replace(train=splits.train.subset(rest.nonzero().flatten()))
    (train, test), truth = make_imperfect_with_truth(divided, imperfect, seed)
    if probe.pixels.shape[1] != test.pixels.shape[1]:  # a tint turned the others from grey to colour
        probe = probe.with_channels(test.pixels.shape[1])
    return Prepared(train, probe, test, truth)


def _held_out(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every class, a fifth of its images, at most `HELD_OUT`; none from a class of one."""
    held = []
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero().flatten()
        count = min(HELD_OUT, max(1, len(members) // 5)) if len(members) > 1 else 0
        held.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(held).sort().values if held else torch.empty(0, dtype=torch.int64)


def _unscored(train: Images) -> str:
    """Why there are no labelled images to score by."""
    counts = train.counts()
    if not counts.any():
        return "has no labels to score by"
    largest = train.classes[int(counts.argmax())]
    return (
        "expected a class with at least 2 labelled training images, since the probes hold out one of 2, got none; "
        f"the largest, '{largest}', has {int(counts.max())}"
    )


def _check_classes(data: str, prepared: Prepared, scored: bool) -> None:
    """Refuse images that would be scored by classes which training has no labels of, or by one class alone."""
    parts = prepared.probe, prepared.test
    learnt, judged = ([images.classes[i] for i in images.counts().nonzero()] for images in parts)
    if scored and len(learnt) == 1:
        raise InputError(
            f"{data}: has one class, '{learnt[0]}', so there is nothing to distinguish; expected two or more"
        )
    if learnt and not judged and scored:
        raise InputError(f"{data}: its test images have no labels to score by; `counterpoise train` needs none")
    if learnt and judged and not {*learnt} & {*judged}:
        raise InputError(
            f"{data}: train and test have no class in common (train: {first_few(learnt)}; test: {first_few(judged)})"
            "; the tasks retrieve and few-shot are for classes that training has not seen"
        )


def by_group(scores: Scores, images: Images, group: str) -> Scores:
    """Scores with the mean of the test images' own for each value of a factor; and the worst of them, if several.

    Args:
        scores: whose `hits` or `items` are those of the labelled images, in their order.
        images: to score by.
        group: the factor.
    """
    each = scores.items if scores.hits is None else scores.hits
    if each is None:
        raise InputError(f"group: these scores are not of single images, so there are none by {group}")
    values, names = images.factors[group][images.labels >= 0], images.factor_names.get(group, ())
    found = {
        f"{group} {names[value] if 0 <= value < len(names) else value}": float(each[values == value].mean())
        for value in values.unique().tolist()
        if value >= 0
    }
    worst = {f"worst {group}": min(found.values())} if len(found) > 1 else {}
    return replace(scores, groups=scores.groups | found, diagnostics=scores.diagnostics | worst)


def _watched(parts: Prepared) -> Images:
    """The images whose features the curve's rank and uniformity and the pictures are of: unseen ones if there are."""
    return parts.test if len(parts.test) else parts.train.subset(fair_sample(parts.train.labels, WATCHED))


def undertraining(run: Run, parts: Prepared, curve: Sequence[Mapping[str, float]], features: Tensor) -> list[str]:
    """The warnings for a run that was trained too little, or to no use; see `measure.undertraining`."""
    settings, same = run.settings, parts.train.classes == parts.test.classes
    assert isinstance(settings, ImageSettings)
    # Classes that training has not seen need more dimensions than those that it has.
    needed = len(parts.train.classes) if same and catalogue.find(run.method).labels else None
    found = [
        few_steps(len(parts.train), settings.batch_size, settings.epochs, settings.accumulate),
        flat_probe([row["knn"] for row in curve if "knn" in row]),
        *poor_shape(features, needed),
    ]
    return [warning for warning in found if warning]


def _left_out(parts: Prepared) -> list[str]:
    """The warning about files that could not be read."""
    files = list(dict.fromkeys(name for images in parts.images.values() for name in images.unreadable))
    several = parts.images.values()
    reasons = {name: f"{name} ({reason})" for images in several for name, reason in images.reasons.items()}
    named = ", ".join(reasons.get(name, name) for name in files[:3])
    more = ", …" if len(files) > 3 else ""
    return [f"{len(files)} unreadable files left out: {named}{more}"] if files else []
