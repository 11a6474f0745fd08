"""Classes that one side alone has, and classes and images whose labels are hidden.

Train is what a method learns from (of two domains: the source), test what judges it (the target). A class may be in
both; in test alone (`unknown`); in train alone (`missing`); in train without labels, where test asks for it
(`new_classes`, and what `known` leaves); or in train without labels, where test does not (`outsiders`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from counterpoise.data.draws import (
    check_whole,
    classes_of,
    draw_classes,
    enough_classes,
    kept_rows,
    names_of,
    present_classes,
    true_labels,
)
from counterpoise.data.images import UNLABELLED
from counterpoise.data.parts import AnyLabelled, AnyPair, Pair, paired
from counterpoise.errors import InputError
from counterpoise.ops.checks import check_number


def missing_classes(splits: AnyPair, count: float, generator: Generator) -> tuple[AnyPair, str]:
    """Some classes, drawn from those that train and test have, leave test: train alone has them."""
    number = check_whole("count", count, at_least=1)
    gone = draw_classes(_common(splits, "missing", at_least=number + 1), number, generator)
    test = kept_rows(splits.test, ~torch.isin(splits.test.labels, gone))
    removed = len(splits.test) - len(test)
    note = f"{number} missing classes ({names_of(test, gone)}): their {removed:,} {test.items} left out of test"
    return splits._replace(test=test), f"{note}, those of train stay"


def outsiders(splits: AnyPair, share: float, generator: Generator) -> tuple[AnyPair, str]:
    """Half of the classes, drawn, leave test and lose their labels: a share of the unlabelled pool is of no class.

    The pool is what has no label. Whichever side of it is too large for the share is cut, at random: images of the
    outsiders, or unlabelled ones of the classes that stay (Du et al., Semi-Supervised Learning via Weight-aware
    Distillation under Class Distribution Mismatch, ICCV 2023: the mismatch of its data).

    Args:
        splits: images of both sides.
        share: of outsiders among the unlabelled images, 0 to 1.
        generator: of the classes and the images that are drawn.

    Raises:
        InputError: for a share out of range, fewer than 2 classes, or where no image of the other classes is without a
            label, so that there is no pool to have a share of.
    """
    check_number("share", share, at_least=0, at_most=1)
    common = _common(splits, "outsiders", at_least=2)
    gone = draw_classes(common, len(common) // 2, generator)
    train = splits.train
    outside = torch.isin(true_labels(train), gone)
    labels = train.labels.masked_fill(outside | torch.isin(train.labels, gone), UNLABELLED)
    inside = (labels == UNLABELLED) & ~outside
    if 0 < share < 1 and not inside.any():
        raise InputError(
            f"imperfection outsiders: expected unlabelled {train.items} of the other classes beside them; add "
            "unlabelled=SHARE"
        )
    most = int(inside.sum()), int(outside.sum())
    kept = _cut_to_share(*most, share)
    order = torch.randperm(len(train), generator=generator)
    keep = labels != UNLABELLED
    for part, size in zip((inside, outside), kept, strict=True):
        keep[order[part[order]][:size]] = True
    made = kept_rows(replace(train, labels=labels), keep)
    test = kept_rows(splits.test, ~torch.isin(splits.test.labels, gone))
    note = (
        f"outsiders ({names_of(train, gone)}), which leave test: {kept[1]:,} of the {sum(kept):,} unlabelled "
        f"{train.items}; {most[1] - kept[1]:,} of theirs and {most[0] - kept[0]:,} unlabelled {train.items} of the "
        "other classes left out"
    )
    return paired(splits, (made, test)), note


def known(splits: AnyPair, share: float, generator: Generator) -> tuple[AnyPair, str]:
    """A share of the classes, drawn, has labels in train; the labels of all others are taken away, and all are judged.

    At least one class is known unless the share is 0, where no label is left and methods can only cluster.
    """
    check_number("share", share, at_least=0, at_most=1)
    labelled = present_classes(splits.train, "known", at_least=1)
    everything = torch.cat([labelled, splits.test.labels[splits.test.labels >= 0]]).unique()
    count = min(len(labelled), max(round(share * len(everything)), int(share > 0)))
    kept = draw_classes(labelled, count, generator)
    train, hidden = _hidden(splits.train, ~torch.isin(splits.train.labels, kept))
    names = f" ({names_of(train, kept)})" if count else ""
    note = f"{count} of {len(everything)} classes are known{names}: {hidden:,} labels of the others taken away"
    return splits._replace(train=train), note


def new_classes(splits: AnyPair, amount: float, generator: Generator) -> tuple[AnyPair, str]:
    """Some classes, drawn from those that train and test have, lose their labels in train; test asks for them.

    Args:
        splits: images of both sides.
        amount: below 1 the share of the classes, at least one; from 1 on their number.
        generator: of the draw.

    Raises:
        InputError: for an amount that leaves no class, or no whole number of them.
    """
    check_number("amount", amount, at_least=0)
    common = _common(splits, "new-classes", at_least=2)
    count = max(1, round(amount * len(common))) if amount < 1 else check_whole("amount", amount, at_least=1)
    enough_classes(common, "new-classes", count + 1, "that train and test have")
    new = draw_classes(common, count, generator)
    train, hidden = _hidden(splits.train, torch.isin(splits.train.labels, new))
    note = f"{count} new classes ({names_of(train, new)}): {hidden:,} labels of train taken away, those of test stay"
    return splits._replace(train=train), note


def labelled(part: AnyLabelled, share: float, generator: Generator) -> tuple[AnyLabelled, str]:
    """Of each class this share of the labels is kept, at least one unless it is 0; more keeps what less keeps."""
    check_number("share", share, at_least=0, at_most=1)
    if not (classes_of(part) >= 0).any():
        present_classes(part, "labelled", at_least=1)
    keep = torch.zeros(len(part), dtype=torch.bool)
    present = part.counts().nonzero().flatten().tolist()
    for label in present:
        members = (part.labels == label).nonzero().flatten()
        size = max(round(share * len(members)), int(share > 0))
        keep[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    before = int((part.labels != UNLABELLED).sum())
    made, hidden = _hidden(part, ~keep)
    return made, f"{before - hidden:,} of {before:,} labels kept, {share:.0%} of each of {len(present)} classes"


def known_first(train: AnyLabelled, *others: AnyLabelled) -> tuple[int, tuple[AnyLabelled, ...]]:
    """The same parts with the classes that train has labels of first, so that they are 0 to k-1.

    Args:
        train: of which some classes have labels.
        *others: of the same classes.

    Returns:
        How many classes have labels in train, and all the parts, with labels and names of classes in that order: the
        known ones as they stood, then the others as they stood.

    Raises:
        InputError: where the parts have different classes.

    Examples:
        >>> from counterpoise.data.images import Images
        >>> images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1, 1, 2]), ("a", "b", "c"), "x")
        >>> count, (train, test) = known_first(images.subset(torch.tensor([0, 1])), images)
        >>> count, train.classes, train.labels.tolist(), test.labels.tolist()
        (1, ('b', 'a', 'c'), [-1, 0], [-1, 0, 2])
    """
    if odd := next((part for part in others if part.classes != train.classes), None):
        raise InputError(f"others: expected the classes of train, {train.classes}, got {odd.classes}")
    has = train.counts() > 0
    order = torch.cat([has.nonzero().flatten(), (~has).nonzero().flatten()])
    classes = tuple(train.classes[label] for label in order.tolist())
    place = torch.cat([order.argsort(), torch.tensor([UNLABELLED])])  # -1, the last, stays
    return int(has.sum()), tuple(replace(part, labels=place[part.labels], classes=classes) for part in (train, *others))


def _common(splits: Pair, name: str, at_least: int) -> Int64[Tensor, " classes"]:
    """The classes that train shows, labelled or not, and test asks for."""
    shown = classes_of(splits.train)
    judged = splits.test.labels
    common = shown[(shown >= 0) & torch.isin(shown, judged)].unique()
    return enough_classes(common, name, at_least, "that train and test have")


def _hidden(part: AnyLabelled, hide: Tensor) -> tuple[AnyLabelled, int]:
    """The part with some labels taken away, and how many."""
    count = int((hide & (part.labels != UNLABELLED)).sum())
    return replace(part, labels=part.labels.masked_fill(hide, UNLABELLED)), count


def _cut_to_share(inside: int, outside: int, share: float) -> tuple[int, int]:
    """As many of both as there are at the most, the second being this share of all.

    Examples:
        >>> _cut_to_share(300, 400, 0.5), _cut_to_share(1000, 400, 0.8), _cut_to_share(5, 5, 0), _cut_to_share(5, 5, 1)
        ((300, 300), (100, 400), (5, 0), (0, 5))
    """
    if share == 1:
        return 0, outside
    wanted = round(share * inside / (1 - share))
    return (inside, wanted) if wanted <= outside else (round(outside * (1 - share) / share), outside)
