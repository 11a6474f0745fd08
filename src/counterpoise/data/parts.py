"""What images, rows and annotated images have in common, for whatever takes any of them: labels, factors, notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Generator, Tensor

from counterpoise.errors import InputError, first_few, unknown
from counterpoise.ops.checks import check_integers

NO_VALUE = -1
"""What an item without a value of a factor has."""


@runtime_checkable
class Part(Protocol):
    """One part of a data set, such as its train split: `Images`, `Rows` or `Annotated`.

    Attributes:
        items: what its items are called in notes: "images", "rows" or "annotated images".
        name: as of `Images`; so are the others.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    items: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def factors(self) -> Mapping[str, Integer[Tensor, " items"]]: ...

    @property
    def factor_names(self) -> Mapping[str, tuple[str, ...]]: ...

    def __len__(self) -> int: ...

    def subset(self: AnyPart, index: Int64[Tensor, " kept"], note: str | None = None) -> AnyPart: ...

    def with_factor(
        self: AnyPart, name: str, values: Integer[Tensor, " items"], names: Sequence[str] = ()
    ) -> AnyPart: ...

    def without_factor(self: AnyPart, name: str) -> AnyPart: ...


@runtime_checkable
class Labelled(Part, Protocol):
    """A part with one label for each item: `Images` or `Rows`. (Those of `Annotated` are of objects.)"""

    @property
    def labels(self) -> Int64[Tensor, " items"]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def counts(self) -> Int64[Tensor, " classes"]: ...


@runtime_checkable
class Pictures(Part, Protocol):
    """A part with pixels: `Images` or `Annotated`."""

    @property
    def pixels(self) -> UInt8[Tensor, "items channels height width"]: ...

    def with_channels(self: AnyPictures, channels: int) -> AnyPictures: ...


@runtime_checkable
class Mapped(Protocol):
    """A part whose labels are maps: `Annotated`."""

    def hide_maps(self, share: float, generator: Generator) -> tuple[Any, str]: ...


@runtime_checkable
class Pair(Protocol):
    """What is learnt from and what is judged by: `Splits`, `RowSplits` or `AnnotatedSplits`."""

    @property
    def train(self) -> Any: ...

    @property
    def test(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def _replace(self: AnyPair, *arguments: Any, **parts: Any) -> AnyPair: ...


AnyPart = TypeVar("AnyPart", bound=Part)
AnyLabelled = TypeVar("AnyLabelled", bound=Labelled)
AnyPictures = TypeVar("AnyPictures", bound=Pictures)
AnyPair = TypeVar("AnyPair", bound=Pair)


def checked_index(index: Integer[Tensor, " kept"] | Sequence[int], items: int) -> Int64[Tensor, " kept"]:
    """The positions of some items, from 0, as int64: torch takes uint8 for a mask.

    Raises:
        InputError: for a mask, floats, or what is no position.

    Examples:
        >>> checked_index(torch.tensor([2, 0], dtype=torch.uint8), items=3)
        tensor([2, 0])
    """
    positions = (
        index if isinstance(index, Tensor) else torch.as_tensor(index, dtype=None if len(index) else torch.int64)
    )
    return check_integers("index", positions, positions.numel(), low=0, high=items)


def checked_values(
    kind: str,
    values: Mapping[str, Tensor],
    names: Mapping[str, tuple[str, ...]],
    items: int,
    least: int,
    unnamed_least: int | None = None,
) -> dict[str, Int64[Tensor, " items"]]:
    """Properties of items, such as factors, as int64.

    Args:
        kind: what one is called: "factor" or "attribute".
        values: of each property, an integer for each item.
        names: of a property, the names of its values 0, 1, …, where they have names.
        items: how many items there are.
        least: the smallest value of one whose values have names.
        unnamed_least: that of the others; `None` allows any integer.

    Raises:
        InputError: naming the property, for what is no integer for each item, or a value that has no name; for names
            of an unknown property.

    Examples:
        >>> checked_values("factor", {"domain": torch.tensor([1])}, {"domain": ("day",)}, items=1, least=-1)
        Traceback (most recent call last):
        counterpoise.errors.InputError: factors: domain: expected integers from -1 to 0, got 1
    """
    if strange := [name for name in names if name not in values]:
        raise unknown(f"{kind}_names: {kind}", strange[0], values)
    checked = {}
    for name, x in values.items():
        low, high = (least, len(names[name])) if name in names else (unnamed_least, None)
        checked[name] = check_integers(f"{kind}s: {name}", x, items, low, high)
    return checked


def paired(pair: AnyPair, parts: Iterable[Part]) -> AnyPair:
    """A pair of the same kind, of these two parts."""
    return pair._replace(**dict(zip(("train", "test"), parts, strict=True)))


def with_factor(part: AnyPart, name: str, values: Integer[Tensor, " items"], names: Sequence[str] = ()) -> AnyPart:
    """The same part with one more factor, or with another in the place of the one of that name; see `Images`."""
    others = {key: known for key, known in part.factor_names.items() if key != name}
    factor_names = {**others, name: tuple(names)} if names else others
    return replace(part, factors={**part.factors, name: values}, factor_names=factor_names)


def without_factor(part: AnyPart, name: str) -> AnyPart:
    """The same part without a factor, or as it is where it has none of that name."""
    if name not in part.factors:
        return part
    factors = {key: values for key, values in part.factors.items() if key != name}
    return replace(part, factors=factors, factor_names={k: v for k, v in part.factor_names.items() if k != name})


def joined_factors(parts: Sequence[Part]) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """The factors of several parts, one part after the other, and the names of their values.

    Where a part lacks a factor that others have, its items have the value -1 of it.

    Args:
        parts: of one data set.

    Raises:
        InputError: for a factor whose values have other names in one part than in another.
    """
    factors: dict[str, Tensor] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(name for part in parts for name in part.factors):
        known = [part.factor_names.get(name, ()) for part in parts if name in part.factors]
        if any(some != known[0] for some in known):
            said = " and ".join(first_few(some) or "none" for some in dict.fromkeys(known))
            raise InputError(f"factors: expected the same names of the values of '{name}' in all parts, got {said}")
        if known[0]:
            names[name] = known[0]
        values = [part.factors[name] if name in part.factors else torch.full((len(part),), NO_VALUE) for part in parts]
        factors[name] = torch.cat(values)
    return factors, names
