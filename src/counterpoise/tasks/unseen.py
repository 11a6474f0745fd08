"""What the tasks share that judge embeddings by classes that training has not seen."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from counterpoise.data import Images, Splits, load, make_imperfect
from counterpoise.errors import InputError
from counterpoise.measure import stratified_split
from counterpoise.tasks.images import Prepared
from counterpoise.tasks.runs import Run


def images_of(run: Run) -> Prepared:
    """The images of a run: to learn from, of some classes; and of other classes a gallery and queries to it."""
    settings = run.settings
    return prepare(run.data, run.imperfect, run.seed, settings.size, settings.data_dir, settings.download)


@lru_cache(maxsize=1)
def prepare(
    data: str, imperfect: tuple[str, ...], seed: int, size: int | None, data_dir: str | None, download: bool
) -> Prepared:
    """Training images of some classes, and test images of others: one half a gallery, the other half queries to it.

    Where train and test have no class in common (`glyphs:split=script`), they are taken as they are. Elsewhere the seed
    draws half of the classes for training, and the test images of the other half are kept.

    Raises:
        InputError: as `load`; if fewer than 2 classes are left on either side.
    """
    train, test = load(data, size=size, data_dir=data_dir, download=download, seed=seed)
    known = train.labels[train.labels >= 0].unique()
    if torch.isin(test.labels, known).any():
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
        seen, unseen = drawn.tensor_split(2)
    else:
        seen, unseen = known, test.labels[test.labels >= 0].unique()
    for part, classes in (("learn from", seen), ("be judged by", unseen)):
        if len(classes) < 2:
            raise InputError(f"{data}: expected at least 2 classes to {part}, got {len(classes)}")
    train, test = make_imperfect(Splits(_of_classes(train, seen), _of_classes(test, unseen)), imperfect, seed)
    queries, gallery = stratified_split(test.labels, 0.5, torch.Generator().manual_seed(seed))
    return Prepared(train, test.subset(gallery), test.subset(queries))


def _of_classes(images: Images, classes: Int64[Tensor, " kept"]) -> Images:
    """The images of these classes, which alone are left and counted from 0."""
    classes = classes.sort().values
    kept = images.subset(torch.isin(images.labels, classes).nonzero().flatten())
    labels = torch.searchsorted(classes, kept.labels)
    return replace(kept, labels=labels, classes=tuple(images.classes[i] for i in classes.tolist()))
