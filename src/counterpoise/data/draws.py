"""What all imperfections share: generators, draws of items and classes, and the labels that items had before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from counterpoise.data.images import UNLABELLED
from counterpoise.data.parts import AnyPair, AnyPart, Labelled, Pair, Part, paired
from counterpoise.errors import InputError, first_few
from counterpoise.ops.checks import check_number

TRUTH = "true label"  # the factor that holds the labels of before while imperfections are applied


def seeded(*about: object) -> Generator:
    """A generator for one draw, which no other draw changes: it depends on what is named alone."""
    digest = hashlib.sha256(" ".join(map(str, about)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def check_whole(name: str, value: float, at_least: int) -> int:
    """A value as a whole number.

    Raises:
        InputError: naming the argument, for any other number.
    """
    check_number(name, value, at_least=at_least)
    if value != int(value):
        raise InputError(f"{name}: expected a whole number, got {value:g}")
    return int(value)


def present_classes(part: Labelled, name: str, at_least: int) -> Int64[Tensor, " classes"]:
    """The classes that have labelled items, in order.

    Raises:
        InputError: naming the imperfection, where there are too few.
    """
    return enough_classes(part.counts().nonzero().flatten(), name, at_least, f"with labelled {part.items}")


def enough_classes(classes: Tensor, name: str, at_least: int, which: str) -> Int64[Tensor, " classes"]:
    """`classes` as they are.

    Raises:
        InputError: naming the imperfection, where there are too few.
    """
    if len(classes) < at_least:
        raise InputError(f"imperfection {name}: needs {at_least} classes {which}, got {len(classes)}")
    return classes


def draw_share(index: Int64[Tensor, " n"], share: float, generator: Generator) -> Int64[Tensor, " drawn"]:
    """A share of `index`; a larger share holds the smaller one's draw."""
    check_number("share", share, at_least=0, at_most=1)
    return index[torch.randperm(len(index), generator=generator)[: round(share * len(index))]]


def draw_classes(classes: Int64[Tensor, " n"], count: int, generator: Generator) -> Int64[Tensor, " drawn"]:
    """Some classes, in order."""
    return classes[torch.randperm(len(classes), generator=generator)[:count]].sort().values


def names_of(part: Labelled, classes: Int64[Tensor, " n"]) -> str:
    """The names of the first few classes, and how many more there are."""
    return first_few([part.classes[label] for label in classes.tolist()])


def remember_labels(splits: AnyPair) -> AnyPair:
    """The same data with its labels as a factor, which goes along when items are left out or labels change."""
    return paired(splits, (part.with_factor(TRUTH, part.labels) for part in splits))


def forget_labels(splits: AnyPair) -> AnyPair:
    """The same data without that factor."""
    return paired(splits, (part.without_factor(TRUTH) for part in splits))


def true_labels(part: Labelled) -> Int64[Tensor, " items"]:
    """The labels before any imperfection, where they are remembered; else those that the items have."""
    return part.factors.get(TRUTH, part.labels)


def classes_of(part: Labelled) -> Int64[Tensor, " items"]:
    """The class by which items are divided: the label, or the true one where it was taken away; -1 without either."""
    return part.labels.where(part.labels != UNLABELLED, true_labels(part))


def kept_rows(part: AnyPart, keep: Tensor) -> AnyPart:
    """The items of a mask."""
    return part.subset(keep.nonzero().flatten())


def check_free(splits: Pair, spec: str, factor: str) -> None:
    """Refuse to write a factor that the data has.

    Raises:
        InputError: naming the imperfection and the factor.
    """
    if any(factor in part.factors for part in splits):
        raise InputError(f"imperfection {spec}: the data has a factor or column '{factor}' of its own; leave one out")


def value_names(splits: Pair, factor: str) -> tuple[str, ...]:
    """The names of a factor's values, which are numbers where they have none."""
    parts: list[Part] = list(splits)
    known: Sequence[str] = next((x.factor_names[factor] for x in parts if factor in x.factor_names), ())
    most = max(int(part.factors[factor].max()) for part in parts if len(part.factors.get(factor, ())))
    return tuple(known) or tuple(map(str, range(most + 1)))
