"""What the tasks share that train an encoder of images: their data, what a method is offered, and what is scored.

The images that a score needs labels of are held out *before* the data was made imperfect: so a score shows what the
features hold, not how well the reader copes with the imperfection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from counterpoise.data import Images, load
from counterpoise.data.images import fair_sample, joined, shape_of
from counterpoise.data.imperfect import make_imperfect_with_truth
from counterpoise.data.parts import Labelled
from counterpoise.data.views import Views, to_input
from counterpoise.errors import InputError, first_few, unknown
from counterpoise.learners.method import Method
from counterpoise.measure.online import OnlineProbe
from counterpoise.measure.undertraining import few_steps, flat_probe, poor_shape, rising_probe
from counterpoise.nets import embed
from counterpoise.nets.rows import StandardizedRows
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import given_values
from counterpoise.registry.kinds import ROWS, module_of
from counterpoise.tasks.base import Given, Offers, Task, blank_encoder, is_run, start_encoder
from counterpoise.tasks.items import identity_of
from counterpoise.training.run import (
    EFFECTIVE_RANK,
    UNIFORMITY,
    ImageSettings,
    Metric,
    Run,
    Scores,
    Settings,
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
        train: the training images, as a method sees them; or rows of numbers, of a task that takes them.
        probe: labelled images that were held out.
        test: images to score by.
        truth: the class of each training image, of those too whose label was hidden; only the task sees it.
    """

    train: Any
    probe: Any
    test: Any
    truth: Int64[Tensor, " train"] | None = None

    @property
    def images(self) -> dict[str, Any]:
        """The three sets by name."""
        return {"train": self.train, "probe": self.probe, "test": self.test}


class ImageTask(Task[Prepared]):
    """A task whose methods train an encoder of images.

    Attributes:
        augmentations: steps of the random views unless the settings name some; `None` takes all but the blur.
        takes_rows: whether its methods train on rows of numbers, too: tables, and embeddings computed elsewhere.
    """

    settings = ImageSettings
    curve: ClassVar = {"knn": KNN, "effective_rank": EFFECTIVE_RANK, "uniformity": UNIFORMITY}
    pictures = ("gallery",)
    roles: ClassVar = {"start": "simclr"}
    recipes: ClassVar = {"start": ("simclr", "moco")}
    references: ClassVar = {"raw": "raw", "untrained": "untrained", "start": "start"}
    imperfections = True
    distributed = True
    trains_on_all = True
    augmentations: ClassVar[str | None] = None
    takes_rows: ClassVar[bool] = False

    def prepare(self) -> Callable[..., Prepared]:
        """The function that makes the three sets of images of a run from its data, imperfections and seed."""
        return prepare

    def load(self, run: Run) -> Prepared:
        """The images of a run; of one that trains on all images, none to score it by."""
        if is_rows(run.data) and not self.takes_rows:
            raise InputError(
                f"data: the task {self.name} is for images, got rows of numbers, {run.data}; the task classify takes "
                "them, and regress those with a number to predict"
            )
        if not run.train_on_all:
            return leave_out(load_once(run, self.prepare()), run.settings)
        if run.imperfect:
            raise InputError("all: trains on every image as it is; expected no imperfection of the data beside it")
        if getattr(run.settings, "leave_out", None) is not None:
            raise InputError("all: trains on every image; expected no leave_out beside it")
        train = all_joined(list(load_once(run, prepare).images.values()))
        nothing = train.subset(torch.arange(0))
        return Prepared(train, nothing, nothing)

    def sample(self, run: Run, parts: Prepared, most: int) -> Prepared:
        """Images at equal distances, so that each class has its share."""
        kept = {name: _evenly(len(images), most) for name, images in parts.images.items()}
        truth = None if parts.truth is None else parts.truth[kept["train"]]
        return Prepared(**{name: images.subset(kept[name]) for name, images in parts.images.items()}, truth=truth)

    def tuning_parts(self, run: Run, parts: Prepared) -> Prepared:
        """Of the labelled training images of every class, some to choose by, and some for the probes."""
        rest, chosen_by = hold_out(run, parts.train)
        rest, probe = hold_out(run, rest)
        return Prepared(rest, probe, chosen_by)

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        if len(parts.test) < 2 and not run.train_on_all:
            raise InputError(
                f"{run.data}: expected at least 2 test {parts.test.items}, got {len(parts.test)}; more data is needed"
            )
        if scored and not len(parts.probe):
            raise InputError(f"{run.data}: {_unscored(parts.train)}; `counterpoise train` needs none")
        group = getattr(run.settings, "group", None)
        if group and not run.train_on_all and group not in parts.test.factors:
            raise unknown(f"group: factor of the test {parts.test.items}", group, parts.test.factors)
        if not run.train_on_all:
            self.check_classes(run, parts, scored)

    def check_classes(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Refuse images that would be scored by classes which training has no labels of, or by one class alone."""
        _check_classes(run.data, parts, scored)

    def summary(self, run: Run, parts: Prepared) -> str:
        """How many images are trained on, and how many are not, in one line."""
        train, probe, test = map(len, parts.images.values())
        if run.train_on_all:
            return f"training on all {train:,} {parts.train.items}; none is held out, so there are no scores"
        offer = "; --all trains on them, too" if self.trains_on_all else ""
        held = f"{probe:,} for the probes and {test:,} for the test"
        return f"training on {train:,} {parts.train.items}; held out: {held}{offer}"

    def offers(self, run: Run, parts: Prepared) -> Offers:
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        return {
            "samples": lambda: len(parts.train),
            "classes": lambda: len(parts.train.classes),
            "batch_size": lambda: settings.batch_size,
            "shape": lambda: list(shape_of(parts.train)),
        }

    def inputs(self, run: Run, shape: Sequence[int], data: Any = None) -> dict[str, Any]:
        """An encoder, and random views of the training images; rows have no views, and their encoder scales them."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        encoder = blank_encoder(settings, shape)
        if len(shape) == 1:
            encoder = StandardizedRows(encoder, shape[0])
            if data is not None:
                encoder.fit(data.inputs)
            return {"encoder": start_encoder(settings, encoder), "augment": nn.Identity()}
        steps, size = settings.augmentations or self.augmentations, shape[1]
        views = Views(size) if steps is None else Views.of(size, steps)
        return {"encoder": start_encoder(settings, encoder), "augment": views}

    def given_run(self, run: Run, role: str, value: str) -> Run:
        """A start is an encoder that a self-supervised method trains on the run's own images."""
        settings = run.settings
        assert isinstance(settings, ImageSettings)
        method, own = value, replace(settings, given=None, init=None, freeze=False)
        if value not in self.recipes[role]:
            method, own = self.roles[role], replace(own, backbone=value)
        return replace(run, method=method, arguments={}, settings=own, task="pretrain", files=None)  # those of its own

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
        watched: Any = _watched(parts)
        features = embed(learner.encoder, watched, to_input)
        warnings = [*_left_out(parts), *(undertraining(run, parts, curve, features) if learner.trains else ())]
        gallery = (watched, features) if isinstance(watched, Images) else None
        assert isinstance(run.settings, ImageSettings)
        if run.train_on_all:
            every = f"all {len(parts.train)} {parts.train.items}"
            return Scores(
                {}, warnings=[*warnings, f"no scores: {every} were trained on and none is held out"], gallery=gallery
            )
        found = self.score_features(learner, parts, features)
        diagnostics = found.diagnostics | learner.diagnostics(*parts.images.values())
        found = replace(found, diagnostics=diagnostics, warnings=[*found.warnings, *warnings], gallery=gallery)
        if found.items and found.identity is None:
            labelled = (parts.test.labels >= 0).nonzero().flatten()
            found = replace(found, identity=identity_of([parts.test], labelled))
        group = run.settings.group
        return by_group(found, parts.test, group, self.main) if group else found

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
            "shape": list(shape_of(parts.train)),
            **_about_rows(parts.train),
            **({} if value_range is None else {"value_range": list(value_range)}),
        }


def prepare(
    data: str,
    imperfect: tuple[str, ...],
    seed: int,
    division: int,
    size: int | None,
    data_dir: str | None,
    download: bool,
) -> Prepared:
    """The three sets of images of a run; the same for every method of one seed."""
    splits = load_labelled(data, division, size, data_dir, download)
    generator = torch.Generator().manual_seed(seed)
    held = _held_out(splits.train.labels, generator)
    rest = torch.ones(len(splits.train), dtype=torch.bool)
    rest[held] = False
    probe = splits.train.subset(held)
    divided = splits._replace(train=splits.train.subset(rest.nonzero().flatten()))
    (train, test), truth = make_imperfect_with_truth(divided, imperfect, seed)
    if shape_of(probe) != shape_of(test):  # a tint turned the others from grey to colour
        probe = probe.with_channels(test.pixels.shape[1])
    return Prepared(train, probe, test, truth)


def leave_out(parts: Prepared, settings: Settings) -> Prepared:
    """The images without those whose factor has the value that the settings leave out; they stay in the test set.

    They leave the labelled images of the probes, too, where these have the factor, so that only the test holds them.

    Args:
        parts: all images.
        settings: name the factor as `group`, and its value as `leave_out`.

    Raises:
        InputError: for a factor or a value that the training images do not have, naming those that they have; or the
            only one that they have.
    """
    group, value = getattr(settings, "group", None), getattr(settings, "leave_out", None)
    if group is None or value is None:
        return parts
    if group not in parts.train.factors:
        raise unknown("group: factor of the training images", group, parts.train.factors)
    names = _value_names(parts.train, group)
    if value not in names.values():
        raise unknown(f"leave_out: value of {group}", value, names.values())
    if len(names) == 1:
        raise InputError(f"leave_out: '{value}' is the only value of {group}, so nothing would be left to train on")
    number = next(number for number, name in names.items() if name == value)
    kept = (parts.train.factors[group] != number).nonzero().flatten()
    train = parts.train.subset(
        kept, note=f"left out of training: {len(parts.train) - len(kept)} {parts.train.items} of {group} {value}"
    )
    if type(train) is not type(parts.train):
        raise InputError("leave_out: is not for queries, whose answers it could leave out")
    probe, truth = parts.probe, parts.truth
    if group in probe.factors:
        probe = probe.subset((probe.factors[group] != number).nonzero().flatten())
    return replace(parts, train=train, probe=probe, truth=None if truth is None else truth[kept])


def _value_names(images: Images, factor: str) -> dict[int, str]:
    """What each value of a factor that some images have is called: by its name, or else by its number."""
    names = images.factor_names.get(factor, ())
    found = images.factors[factor].unique().tolist()
    return {value: names[value] if value < len(names) else str(value) for value in found if value >= 0}


def load_labelled(data: str, seed: int, size: int | None, data_dir: str | None, download: bool) -> Any:
    """What is learnt from and what is judged by: `Splits` of images, or `RowSplits` of rows of numbers.

    Args:
        data: a name or a path; see `data.load` and `data.load_rows`.
        seed: of the division where the data has none.
        size: of images, in pixels.
        data_dir: as of `data.load`.
        download: as of `data.load`.

    Raises:
        InputError: as they do; for a size of rows.
    """
    if not is_rows(data):
        return load(data, size=size, data_dir=data_dir, download=download, seed=seed)
    if size is not None:
        raise InputError(f"size: is of images, got {size} for rows of numbers, {data}")
    return _rows().load_rows(data, seed=seed)


def all_joined(parts: Sequence[Any]) -> Any:
    """Several parts of one data set as one, of images or of rows."""
    return joined(parts) if isinstance(parts[0], Images) else _rows().joined_rows(parts)


def is_rows(data: str) -> bool:
    """Whether a name or path means rows of numbers; a plain table is one of images, unless it has `rows:` before it."""
    return module_of(data) == ROWS


def _rows() -> Any:
    """The module that reads rows, imported where it is needed: results on images do not stand on its code."""
    return import_module(f"counterpoise.{ROWS}")


def _about_rows(part: Any) -> dict[str, Any]:
    """What a result says of rows: that its items are rows, and their columns."""
    return {} if isinstance(part, Images) else {"items": part.items, "columns": list(part.columns)}


def _evenly(count: int, most: int) -> Int64[Tensor, " kept"]:
    """Numbers below `count` at equal distances, at most so many."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _held_out(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For every class, a fifth of its images, at most `HELD_OUT`; none from a class of one."""
    held = []
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero().flatten()
        count = min(HELD_OUT, max(1, len(members) // 5)) if len(members) > 1 else 0
        held.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(held).sort().values if held else torch.empty(0, dtype=torch.int64)


def hold_out(run: Run, train: Any) -> tuple[Any, Any]:
    """Training images without some that are held out for tuning: of every class as many as for the probes.

    Args:
        run: for its seed.
        train: to be divided; images without a label stay to be trained on.

    Returns:
        What is left to train on, and what is held out.

    Raises:
        InputError: where fewer than 2 can be held out.
    """
    held = _held_out(train.labels, torch.Generator().manual_seed(run.seed))
    if len(held) < 2:
        raise InputError(
            f"tune: {run.data}: expected at least 2 labelled training {train.items} to hold out and choose by, "
            f"got {len(held)}"
        )
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[held] = False
    return train.subset(rest.nonzero().flatten()), train.subset(held)


def _unscored(train: Labelled) -> str:
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


def by_group(scores: Scores, images: Labelled, group: str, metric: str) -> Scores:
    """Scores with a metric's mean over the test images of each value of a factor; and the worst of them, if several.

    Args:
        scores: whose `items` are those of the labelled images, in their order.
        images: to score by.
        group: the factor.
        metric: a mean over images without weights.

    Raises:
        InputError: if the metric has no value of each of these images.
    """
    each = scores.items.get(metric)
    if each is None or len(each) != int((images.labels >= 0).sum()):
        raise InputError(f"group: these scores are not of single images, so there are none by {group}")
    values, names = images.factors[group][images.labels >= 0], images.factor_names.get(group, ())
    found = {
        f"{group} {names[value] if 0 <= value < len(names) else value}": float(each[values == value].mean())
        for value in values.unique().tolist()
        if value >= 0
    }
    worst = {f"worst {group}": min(found.values())} if len(found) > 1 else {}
    return replace(scores, groups=scores.groups | found, diagnostics=scores.diagnostics | worst)


def _watched(parts: Prepared) -> Labelled:
    """The images whose features the curve's rank and uniformity and the pictures are of: unseen ones if there are."""
    return parts.test if len(parts.test) else parts.train.subset(fair_sample(parts.train.labels, WATCHED))


def undertraining(run: Run, parts: Prepared, curve: Sequence[Mapping[str, float]], features: Tensor) -> list[str]:
    """The warnings for a run that was trained too little, or to no use; see `measure.undertraining`."""
    settings, same = run.settings, parts.train.classes == parts.test.classes
    assert isinstance(settings, ImageSettings)
    # Classes that training has not seen need more dimensions than those that it has.
    needed = len(parts.train.classes) if same and catalogue.find(run.method).labels else None
    probed = [row["knn"] for row in curve if "knn" in row]
    found = [
        few_steps(len(parts.train), settings.batch_size, settings.epochs, settings.accumulate, settings.steps),
        flat_probe(probed),
        rising_probe(probed),
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
    what = "unreadable files" if isinstance(parts.train, Images) else "rows without numbers"
    return [f"{len(files)} {what} left out: {named}{more}"] if files else []
