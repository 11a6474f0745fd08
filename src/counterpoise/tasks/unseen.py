"""What the tasks share that score embeddings by classes that training has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from counterpoise.data import Images, Splits, load
from counterpoise.data.images import fair_sample, joined
from counterpoise.data.imperfect import make_imperfect_with_truth
from counterpoise.errors import InputError
from counterpoise.measure import stratified_split
from counterpoise.tasks.images import ImageTask, Prepared
from counterpoise.training.run import Run

HELD_OUT = 1 / 3  # of the training classes, for tuning


class UnseenClasses(ImageTask):
    """A task that trains on images of some classes, and is scored by images of others: a gallery and queries to it.

    Attributes:
        needed: images that two unseen classes must have at the least.
        why: what they are needed for.
    """

    needed: ClassVar[int]
    why: ClassVar[str]

    def prepare(self) -> Callable[..., Prepared]:
        return prepare

    def sample(self, run: Run, parts: Prepared, most: int) -> Prepared:
        """Images of all classes alike, or of some where there are many: a batch and an episode need several of one."""
        train, probe, test = (part.subset(fair_sample(part.labels, most)) for part in parts.images.values())
        return Prepared(train, probe, test)

    def tuning_parts(self, run: Run, parts: Prepared) -> Prepared:
        """A third of the training classes, drawn by the seed, stand for those that training has not seen.

        They are drawn from those that have as many images as the task needs. Images without a label stay to be trained
        on.

        Raises:
            InputError: where two classes with enough images cannot be held out, or fewer than two are left.
        """
        train = parts.train
        known = train.counts().nonzero().flatten()
        enough = (train.counts() >= self.needed).nonzero().flatten()
        held = max(2, round(len(known) * HELD_OUT))
        if len(enough) < held or len(known) - held < 2:
            raise InputError(
                f"tune: {run.data}: expected at least 4 training classes, a third of them (2 or more) with "
                f"{self.needed} images ({self.why}), got {len(known)} classes, {len(enough)} of them with as many"
            )
        drawn = enough[torch.randperm(len(enough), generator=torch.Generator().manual_seed(run.seed))][:held]
        rest = known[~torch.isin(known, drawn)]
        return _judged(_of_classes(train, rest, unlabelled=True), _of_classes(train, drawn), run.seed)

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Refuse unseen images that fewer than two classes have enough of."""
        if not run.train_on_all:
            check_counts(parts, self.needed, self.why)
        super().check_parts(run, parts, scored)

    def check_classes(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Any classes will do: those that are judged by are not those that are learnt."""


def prepare(
    data: str,
    imperfect: tuple[str, ...],
    seed: int,
    division: int,
    size: int | None,
    data_dir: str | None,
    download: bool,
) -> Prepared:
    """Training images of some classes; all images of others: one half of each a gallery, the other queries to it.

    Where train and test have no class in common (`glyphs:split=script`), they are taken as they are. Elsewhere the
    seed of the division draws half of the classes for training, and the other half is judged by all its images, of
    train and test.

    Raises:
        InputError: as `load`; if fewer than 2 classes are left on either side.
    """
    train, test = load(data, size=size, data_dir=data_dir, download=download, seed=division)
    known, judged = (part.labels[part.labels >= 0].unique() for part in (train, test))
    apart = not torch.isin(judged, known).any()
    if not apart:
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(division))]
        of_test_alone = judged[~torch.isin(judged, known)]
        known, others = drawn.tensor_split(2)
        judged = torch.cat([others, of_test_alone])
    for part, classes in (("learn from", known), ("be judged by", judged)):
        if len(classes) < 2:
            raise InputError(f"{data}: expected at least 2 classes to {part}, got {len(classes)}")
    unseen = _of_classes(test, judged)
    if not apart:
        unseen = joined([unseen, _of_classes(train, judged)])
    (train, test), truth = make_imperfect_with_truth(Splits(_of_classes(train, known), unseen), imperfect, seed)
    return _judged(train, test, seed, truth)


def _judged(train: Images, unseen: Images, seed: int, truth: Int64[Tensor, " train"] | None = None) -> Prepared:
    """Training images, and one half of the unseen ones as a gallery for the other."""
    queries, gallery = stratified_split(unseen.labels, 0.5, torch.Generator().manual_seed(seed))
    return Prepared(train, unseen.subset(gallery), unseen.subset(queries), truth)


def check_counts(prepared: Prepared, needed: int, why: str) -> None:
    """Refuse unseen images unless 2 of their classes have as many as a task needs.

    Raises:
        InputError: naming the classes that have fewer, and how many each has.
    """
    test = prepared.test
    counts = (prepared.probe.counts() + test.counts()).tolist()
    few = [f"'{name}' has {count}" for name, count in zip(test.classes, counts, strict=True) if count < needed]
    several = sum(count >= needed for count in counts)
    if several < 2:
        more = f" and {len(few) - 3} more have fewer than {needed}" if len(few) > 3 else ""
        raise InputError(
            f"{test.name}: expected at least 2 unseen classes with {needed} images or more ({why}), "
            f"got {several}: {', '.join(few[:3])}{more}"
        )


def _of_classes(images: Images, classes: Int64[Tensor, " kept"], unlabelled: bool = False) -> Images:
    """The images of these classes, which alone are left and counted from 0; with those that have no label, if asked."""
    classes = classes.sort().values
    kept = images.subset((torch.isin(images.labels, classes) | (images.labels < 0) & unlabelled).nonzero().flatten())
    labels = torch.searchsorted(classes, kept.labels).where(kept.labels >= 0, -1)
    return replace(kept, labels=labels, classes=tuple(images.classes[i] for i in classes.tolist()))
