"""Imperfections made to order: tails, wrong and missing labels, shifts, steps, clients, requests to forget.

`make_imperfect` takes specs such as "long-tail=100"; each is also a function on `Images`, or on `Splits` where it
concerns both, which refuses what the spec refuses. Those that need labels alone take `Rows` as well, and some that need
none `Annotated` (see `Imperfection.on`). All are deterministic from a seed, and each says what it did in the notes of
the data. Those that change pixels are in `shifts`, those that hide classes in `openset`, and those that divide data in
`divisions`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from counterpoise.data import divisions, openset
from counterpoise.data.draws import (
    check_whole,
    draw_classes,
    draw_share,
    forget_labels,
    kept_rows,
    present_classes,
    remember_labels,
    seeded,
    true_labels,
)
from counterpoise.data.images import UNLABELLED
from counterpoise.data.parts import AnyLabelled, AnyPair, Labelled, Mapped, Pair, Part, Pictures, paired
from counterpoise.data.shifts import blur, client_noise, client_tint, noise, rotation, tint
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number

Value = float | tuple[str, ...]  # of a spec: a number, or names of classes
IMAGES, ROWS, ANNOTATED = "images", "rows", "annotated images"  # kinds of data, by what their items are called
LABELLED, PICTURES, EVERY = (IMAGES, ROWS), (IMAGES, ANNOTATED), (IMAGES, ROWS, ANNOTATED)
BOTH = "both"  # the split of an imperfection that concerns train and test together


class Asked(NamedTuple):
    """A spec, taken apart."""

    spec: str
    split: str
    name: str
    value: Value


def make_imperfect(splits: AnyPair, specs: Sequence[str], seed: int) -> AnyPair:
    """Apply imperfections.

    `Splits` take all of them; `RowSplits` those that change labels, leave items out or divide data; `AnnotatedSplits`
    unlabelled (whole maps are taken away), clients, domain-steps and forget, and all that change pixels but rotation.

    A spec is `NAME=VALUE`, or `SPLIT:NAME=VALUE` with `train` or `test`. By default the domain shifts (rotation, tint,
    blur, noise) fall on test and all others on train, but for those that concern both; `IMPERFECTIONS` has the names
    and what their values mean. What is drawn depends on the seed, the name and the split alone, so that label-noise=0.4
    alters the labels that label-noise=0.2 alters, and more.

    They are applied in the order given, except that classes are hidden or taken from test after tails, noise and the
    like, labels are then counted (`labelled`), then the data is divided (steps, clients, forget), and last of all the
    clients' images change. So a step or a client is drawn by the labels that are learnt from, and, where a label was
    taken away, by what it was.

    Args:
        splits: the data; left as it is.
        specs: the imperfections.
        seed: of everything that is drawn.

    Returns:
        The altered data, of one number of channels, with a note for each imperfection.

    Raises:
        InputError: for an unknown name or split, one that is not for such data, a missing value or one out of range, a
            spec given twice, two that contradict each other, one that is a setting of another which is not there, a
            seed that is no whole number, or data that has too few labelled classes for it.

    Examples:
        >>> from counterpoise.data.images import Images, Splits
        >>> images = Images(torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.arange(40) % 2, ("cat", "dog"), "pets")
        >>> made = make_imperfect(Splits(images, images), ["long-tail=10"], seed=0)
        >>> made.train.counts().tolist(), made.test.counts().tolist()
        ([20, 2], [20, 20])
        >>> print(made.train.notes[-1])
        train: long tail, ratio 10: 20 → 2 images per class, 22 of 40 images kept
    """
    if splits.train.items == ANNOTATED:
        return _all_applied(splits, specs, seed)
    return make_imperfect_with_truth(splits, specs, seed)[0]


def make_imperfect_with_truth(
    splits: AnyPair, specs: Sequence[str], seed: int
) -> tuple[AnyPair, Int64[Tensor, " train"]]:
    """As `make_imperfect`, with the labels of the training items before any imperfection, which no method may see.

    Returns:
        The altered data; and of each of its training items the label that it had: the true one where it was replaced
        or taken away, -1 where there was none.

    Raises:
        InputError: as `make_imperfect`; for annotated images, which have no label each.

    Examples:
        >>> from counterpoise.data.images import Images, Splits
        >>> images = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2, ("cat", "dog"), "pets")
        >>> made, truth = make_imperfect_with_truth(Splits(images, images), ["unlabelled=1"], seed=0)
        >>> made.train.labels.tolist(), truth.tolist()
        ([-1, -1, -1, -1], [0, 1, 0, 1])
    """
    if splits.train.items == ANNOTATED:
        raise InputError(f"splits: expected images or rows, which have labels, got {ANNOTATED}; use make_imperfect")
    if not specs:
        return _all_applied(splits, specs, seed), splits.train.labels
    made = _all_applied(remember_labels(splits), specs, seed)
    return forget_labels(made), true_labels(made.train)


def _all_applied(splits: AnyPair, specs: Sequence[str], seed: int) -> AnyPair:
    """The data with all imperfections, of one number of channels where it has pixels."""
    check_number("seed", seed, whole=True)
    if isinstance(specs, str):
        raise InputError(f"specs: expected a list of specs, got the text '{specs}'")
    asked = [Asked(spec, *parse_spec(spec)) for spec in specs]
    _check_together(asked)
    _check_kind(asked, splits.train)
    for one in sorted(asked, key=lambda one: IMPERFECTIONS[one.name].stage):
        if not _is_setting(one, asked):
            splits = _applied(splits, one, asked, seed)
    return _of_one_depth(splits) if isinstance(splits.train, Pictures) else splits


def parse_spec(spec: str) -> tuple[str, str, Value]:
    """Split, name and value of a spec, checked; "both" is the split of an imperfection that concerns both.

    Examples:
        >>> parse_spec("rotation=30"), parse_spec("train:rotation=30")
        (('test', 'rotation', 30.0), ('train', 'rotation', 30.0))
        >>> parse_spec("forget-class=Bag,Coat")
        ('both', 'forget-class', ('Bag', 'Coat'))
    """
    if not isinstance(spec, str):
        raise InputError(f"imperfection {spec!r}: expected a text such as 'long-tail=100'")
    head, _, text = spec.strip().partition("=")
    given, colon, name = head.rpartition(":")
    if name not in IMPERFECTIONS:
        raise unknown("imperfection", name, IMPERFECTIONS)
    known = IMPERFECTIONS[name]
    split = given if colon else known.splits[0]
    if colon and known.both:
        raise InputError(f"imperfection '{spec}': {name} concerns train and test together; leave out '{given}:'")
    if split not in known.splits:
        raise InputError(f"imperfection '{spec}': {name} applies to {' or '.join(known.splits)}, got '{given}'")
    try:
        value = float(text)
    except ValueError as error:
        if known.names and text.strip():
            return split, name, _words(spec, text)
        raise InputError(f"imperfection '{spec}': expected {name}=VALUE, VALUE being {known.meaning}") from error
    check_number(f"imperfection '{spec}'", value, at_least=known.at_least, at_most=known.at_most)
    if known.whole and not value.is_integer():
        raise InputError(f"imperfection '{spec}': expected a whole number, got {text}")
    return split, name, value


def _words(spec: str, text: str) -> tuple[str, ...]:
    """Names of classes, separated by commas; a name that is a number, or holds a comma, is in single quotes."""
    try:
        [words] = csv.reader([text.strip()], quotechar="'", skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise InputError(f"imperfection '{spec}': expected names of classes separated by commas, got {text}") from error
    return tuple(word.strip() for word in words)


def _check_together(asked: Sequence[Asked]) -> None:
    """Refuse specs that are given twice, contradict each other, or are settings of what is not there."""
    there: dict[tuple[str, str], Asked] = {}
    for one in asked:
        if (one.split, one.name) in there:
            where = "" if one.split == BOTH else f" for {one.split}"
            raise InputError(f"imperfection '{one.spec}': {one.name} is given twice{where}")
        there[one.split, one.name] = one
    names = {one.name: one for one in asked if one.split != "test"}
    for first, second, why in CONTRADICTIONS:
        if first in names and second in names:
            raise InputError(f"imperfection '{names[first].spec}': contradicts '{names[second].spec}': {why}")
    for one in asked:
        known = IMPERFECTIONS[one.name]
        if known.apply is None and known.of not in names:
            raise InputError(f"imperfection '{one.spec}': is a setting of {known.of}; add {known.of}=VALUE")


def _check_kind(asked: Sequence[Asked], part: Part) -> None:
    """Refuse what is not for such data."""
    for one in asked:
        if part.items not in (on := IMPERFECTIONS[one.name].on):
            raise InputError(f"imperfection '{one.spec}': {one.name} is for {' and '.join(on)}, got {part.items}")


def _is_setting(one: Asked, asked: Sequence[Asked]) -> bool:
    """Whether a spec is a setting of another one that is given, whose function takes its value."""
    return any(other.name == IMPERFECTIONS[one.name].of for other in asked)


def _applied(splits: AnyPair, one: Asked, asked: Sequence[Asked], seed: int) -> AnyPair:
    """One imperfection, with the settings that others are of it, and its note."""
    known = IMPERFECTIONS[one.name]
    assert known.apply is not None  # `_check_together` refuses a setting of nothing
    if known.both:
        settings = {x.name.replace("-", "_"): x.value for x in asked if IMPERFECTIONS[x.name].of == one.name}
        made, note = known.apply(splits, one.value, seeded(seed, one.name), **settings)
        return paired(splits, (replace(x, notes=(*x.notes, f"train and test: {note}")) for x in made))
    part = getattr(splits, one.split)
    made, note = known.apply(part, one.value, seeded(seed, one.split, one.name))
    return splits._replace(**{one.split: replace(made, notes=(*part.notes, f"{one.split}: {note}"))})


def _of_one_depth(splits: AnyPair) -> AnyPair:
    channels = max(images.pixels.shape[1] for images in splits)
    return paired(splits, (images.with_channels(channels) for images in splits))


def long_tail(part: AnyLabelled, ratio: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """Exponentially fewer items from the first class to the last, as in CIFAR-LT (Cao et al., LDAM, NeurIPS 2019).

    Class c of C keeps n·ratio^(-c/(C-1)) of them, n being the size of the largest class, or all that it has where that
    is fewer. Classes without any are not counted; unlabelled items stay.
    """
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(part, "long-tail", lambda place: ratio**-place, generator)
    return made, f"long tail, ratio {ratio:g}: {note}"


def random_tail(part: AnyLabelled, ratio: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """As `long_tail`, but which classes are frequent is drawn: over seeds it is no matter of which class it is."""
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(part, "random-tail", lambda place: ratio**-place, generator, shuffled=True)
    return made, f"long tail over classes in a drawn order, ratio {ratio:g}: {note}"


def linear_tail(part: AnyLabelled, ratio: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """As `long_tail`, but the sizes fall linearly, from n images of the first class to n/ratio of the last."""
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(part, "linear-tail", lambda place: 1 - place * (1 - 1 / ratio), generator)
    return made, f"linear tail, ratio {ratio:g}: {note}"


def fewer(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """Every class keeps this share of the largest class's size, or all that it has where that is fewer."""
    check_number("share", share, at_least=0, at_most=1)
    made, note = _thinned(part, "fewer", lambda place: share, generator)
    return made, f"fewer {part.items}, {share:.0%}: {note}"


def label_noise(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """A share of the labels is replaced by another class, each of those present being as likely."""
    present, ranks, altered = _altered(part, "label-noise", share, generator)
    steps = torch.randint(1, len(present), altered.shape, generator=generator)
    return _relabelled(part, altered, present[(ranks[altered] + steps) % len(present)], "drawn at random")


def asymmetric_label_noise(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """A share of the labels is replaced by the next class, and the last by the first."""
    present, ranks, altered = _altered(part, "label-noise-asymmetric", share, generator)
    return _relabelled(part, altered, present[(ranks[altered] + 1) % len(present)], "the next one")


def label_noise_by_size(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """A share of the labels is replaced by another class, each being as likely as it is frequent.

    Of n items, one of class k becomes one of class j with probability η n_j / (n - n_k), the noise that Zhang et al.
    (When Noisy Labels Meet Long Tail Dilemmas, ICCV 2023) add to long tails: it fills the small classes with items of
    large ones. Give it after the tail.
    """
    present, ranks, altered = _altered(part, "label-noise-by-size", share, generator)
    sizes, labels = part.counts()[present].double(), torch.empty_like(altered)
    for rank in range(len(present)):
        mine = ranks[altered] == rank
        others = sizes.index_fill(0, torch.tensor([rank]), 0.0)
        if count := int(mine.sum()):
            labels[mine] = present[torch.multinomial(others, count, replacement=True, generator=generator)]
    return _relabelled(part, altered, labels, f"as likely as it has {part.items}")


def unlabelled(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """A share of the labels is taken away; of annotated images that share of the maps, with their objects."""
    if isinstance(part, Mapped):
        return part.hide_maps(share, generator)
    present_classes(part, "unlabelled", at_least=1)
    labelled = (part.labels != UNLABELLED).nonzero().flatten()
    hidden = draw_share(labelled, share, generator)
    labels = part.labels.index_fill(0, hidden, UNLABELLED)
    return replace(part, labels=labels), f"{len(hidden):,} of {len(labelled):,} labels taken away"


def unknown_classes(part: AnyLabelled, count: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """All items of some classes, which are drawn, are taken away."""
    number = check_whole("count", count, at_least=1)
    gone = draw_classes(present_classes(part, "unknown", at_least=number + 1), number, generator)
    made = kept_rows(part, ~torch.isin(part.labels, gone))
    names = ", ".join(part.classes[label] for label in gone.tolist())
    removed = f"their {len(part) - len(made):,} {part.items} left out"
    return made, f"{len(gone)} unknown classes ({names}): {removed}, those of test stay"


@dataclass(frozen=True)
class Imperfection:
    """One imperfection.

    Args:
        apply: its function, from a part (or `Splits` and the like where it is for `both`), a value and a generator to
            the same and a note. None for what is only a setting of another one.
        meaning: what its value means.
        at_least: the least value.
        at_most: the largest.
        splits: where it may fall, the default first.
        whole: whether the value is a whole number.
        both: whether it concerns train and test together; what it draws then depends on the seed and its name alone.
        names: whether the value may be names of classes, separated by commas.
        of: the imperfection whose function takes the value as a keyword where both are given.
        stage: lower ones are applied before higher ones, whatever their order.
        on: the kinds of data that it takes, by what their items are called.
    """

    apply: Callable[..., tuple[Any, str]] | None
    meaning: str
    at_least: float
    at_most: float
    splits: tuple[str, ...] = ("train", "test")
    whole: bool = False
    both: bool = False
    names: bool = False
    of: str = ""
    stage: int = 0
    on: tuple[str, ...] = LABELLED


HIDDEN, COUNTED, DIVIDED, AFTERWARDS = 1, 2, 3, 4  # stages


def _for_both(
    apply: Callable[..., tuple[Pair, str]] | None, meaning: str, at_least: float, at_most: float, **others: Any
) -> Imperfection:
    return Imperfection(apply, meaning, at_least, at_most, splits=(BOTH,), both=True, **others)


SHIFTED = ("test", "train")
IMPERFECTIONS = {
    "long-tail": Imperfection(
        long_tail, "the largest class's size over the smallest one's, 1 or more", 1, math.inf, splits=("train",)
    ),
    "random-tail": Imperfection(
        random_tail, "the largest class's size over the smallest one's, 1 or more", 1, math.inf, splits=("train",)
    ),
    "linear-tail": Imperfection(
        linear_tail, "the largest class's size over the smallest one's, 1 or more", 1, math.inf, splits=("train",)
    ),
    "fewer": Imperfection(
        fewer, "the share of the largest class's size that every class keeps, 0 to 1", 0, 1, splits=("train",)
    ),
    "label-noise": Imperfection(label_noise, "the share of labels that become another class, 0 to 1", 0, 1),
    "label-noise-asymmetric": Imperfection(
        asymmetric_label_noise, "the share of labels that become the next class, 0 to 1", 0, 1
    ),
    "label-noise-by-size": Imperfection(
        label_noise_by_size, "the share of labels that become another class, large ones more often, 0 to 1", 0, 1
    ),
    "unlabelled": Imperfection(unlabelled, "the share of labels taken away, 0 to 1", 0, 1, on=EVERY),
    "unknown": Imperfection(
        unknown_classes, "how many classes train never shows, 1 or more", 1, math.inf, splits=("train",), whole=True
    ),
    "missing": _for_both(
        openset.missing_classes,
        "how many of the common classes test never shows, 1 or more",
        *(1, math.inf),
        whole=True,
        stage=HIDDEN,
    ),
    "outsiders": _for_both(
        openset.outsiders, "the share of the unlabelled images that are of no class of test, 0 to 1", 0, 1, stage=HIDDEN
    ),
    "known": _for_both(
        openset.known, "the share of the classes that have labels in train at all, 0 to 1", 0, 1, stage=HIDDEN
    ),
    "new-classes": _for_both(
        openset.new_classes,
        "how many classes have no labels in train: below 1 a share of them, from 1 on a number",
        *(0, math.inf),
        stage=HIDDEN,
    ),
    "labelled": Imperfection(
        openset.labelled, "the share of each class's labels that is kept, 0 to 1", 0, 1, ("train",), stage=COUNTED
    ),
    "steps": _for_both(
        divisions.steps, "in how many steps the classes come, 2 or more", 2, math.inf, whole=True, stage=DIVIDED
    ),
    "first-step": _for_both(
        None, "how many classes the first step has, 1 or more", 1, math.inf, whole=True, of="steps", stage=DIVIDED
    ),
    "domain-steps": _for_both(
        divisions.domain_steps,
        "in how many steps the domains come, 2 or more",
        2,
        math.inf,
        whole=True,
        stage=DIVIDED,
        on=EVERY,
    ),
    "clients": _for_both(
        divisions.clients,
        "how many clients the data lies with, 2 or more",
        2,
        math.inf,
        whole=True,
        stage=DIVIDED,
        on=EVERY,
    ),
    "client-skew": _for_both(
        None,
        "Dirichlet's alpha, 0.001 to 1,000,000: the less, the fewer classes a client has",
        *(divisions.LEAST_SKEW, divisions.MOST_SKEW),
        of="clients",
        stage=DIVIDED,
    ),
    "forget": _for_both(
        divisions.forget,
        "the share of the images of train, or of the classes of forget-class, that is to be forgotten, 0 to 1",
        *(0, 1),
        of="forget-class",
        stage=DIVIDED,
        on=EVERY,
    ),
    "forget-class": _for_both(
        divisions.forget_classes,
        "how many classes are to be forgotten, or their names, separated by commas",
        *(1, math.inf),
        whole=True,
        names=True,
        stage=DIVIDED,
    ),
    "client-tint": _for_both(client_tint, "the strength, 0 to 1", 0, 1, stage=AFTERWARDS, on=PICTURES),
    "client-noise": _for_both(
        client_noise,
        "the largest client's standard deviation as a share of the full range, 0 to 1",
        *(0, 1),
        stage=AFTERWARDS,
        on=PICTURES,
    ),
    "rotation": Imperfection(rotation, "the largest angle in degrees, 0 to 180", 0, 180, SHIFTED, on=(IMAGES,)),
    "tint": Imperfection(tint, "the strength, 0 to 1", 0, 1, SHIFTED, on=PICTURES),
    "blur": Imperfection(blur, "the blur's sigma in pixels, 0 to 100", 0, 100, SHIFTED, on=PICTURES),
    "noise": Imperfection(
        noise, "the standard deviation as a share of the full range, 0 to 1", 0, 1, SHIFTED, on=PICTURES
    ),
}
CONTRADICTIONS = (
    ("labelled", "unlabelled", "each says which share of the labels stays; give one of them"),
    ("steps", "domain-steps", "each says in which step an image comes; give one of them"),
    ("known", "new-classes", "each says which classes have labels; give one of them"),
    ("known", "unknown", "known leaves the images of the other classes in train, unknown takes them away"),
    ("known", "outsiders", "test asks for the classes that known hides, and not for the outsiders"),
    ("new-classes", "unknown", "new-classes leaves their images in train, unknown takes them away"),
    ("new-classes", "outsiders", "test asks for the new classes, and not for the outsiders"),
)
"""Imperfections of which only one can be, and why."""


def _thinned(
    part: AnyLabelled, name: str, share: Callable[[float], float], generator: Generator, shuffled: bool = False
) -> tuple[AnyLabelled, str]:
    """Each class cut to a share of the largest one's size; its place goes from 0 (first class) to 1 (last)."""
    present = present_classes(part, name, at_least=2)
    if shuffled:
        present = present[torch.randperm(len(present), generator=generator)]
    largest = int(part.counts().max())
    keep = torch.ones(len(part), dtype=torch.bool)
    kept = []
    for rank, label in enumerate(present.tolist()):
        members = (part.labels == label).nonzero().flatten()
        size = max(1, round(largest * share(rank / (len(present) - 1))))
        keep[members[torch.randperm(len(members), generator=generator)[size:]]] = False
        kept.append(min(size, len(members)))
    made = kept_rows(part, keep)
    left = f"{len(made):,} of {len(part):,} {part.items} kept"
    return made, f"{kept[0]:,} → {kept[-1]:,} {part.items} per class, {left}"


def _altered(part: Labelled, name: str, share: float, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The classes present, each item's rank among them, and the items whose label is to change."""
    present = present_classes(part, name, at_least=2)
    labelled = (part.labels != UNLABELLED).nonzero().flatten()
    return present, torch.searchsorted(present, part.labels), draw_share(labelled, share, generator)


def _relabelled(part: AnyLabelled, altered: Tensor, labels: Tensor, how: str) -> tuple[AnyLabelled, str]:
    labelled = int((part.labels != UNLABELLED).sum())
    note = f"label noise: {len(altered):,} of {labelled:,} labels replaced by another class, {how}"
    return replace(part, labels=part.labels.index_copy(0, altered, labels)), note
