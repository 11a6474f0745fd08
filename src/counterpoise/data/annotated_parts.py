"""Annotated images of several parts as one, and one part as two: to learn from and to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from counterpoise.data.annotated import Annotated, AnnotatedSplits
from counterpoise.data.decoding import TEST_SHARE, Undivided
from counterpoise.data.images import allocate
from counterpoise.data.parts import joined_factors
from counterpoise.data.ragged import starts_of
from counterpoise.errors import InputError
from counterpoise.ops.checks import check_seed


def join(parts: Sequence[Annotated]) -> Annotated:
    """The images of several parts, such as domains, one part after the other.

    Args:
        parts: of one size, number of channels, and the same classes and predicates. Where one of them lacks a factor
            that others have, its images have the value -1 of it; attributes that one lacks are left out, as captions
            and paths are.

    Raises:
        InputError: for no part, or parts that differ.

    Examples:
        >>> from counterpoise.data.annotated_scenes import from_scenes
        >>> from counterpoise.data.scenes import Scenes
        >>> day, night = (from_scenes(Scenes(4, size=32, domain=domain)) for domain in ("day", "night"))
        >>> both = join([day, night])
        >>> len(both), both.objects(torch.tensor([5])).labels.equal(night.objects(torch.tensor([1])).labels)
        (8, True)
    """
    if not parts:
        raise InputError("parts: expected at least one, got none")
    first = parts[0]
    for part in parts[1:]:
        for name in ("classes", "predicates"):
            if getattr(part, name) != getattr(first, name):
                raise InputError(f"parts: expected the same {name}, got those of '{first.name}' and '{part.name}'")
        if part.pixels.shape[1:] != first.pixels.shape[1:]:
            shapes = f"{list(first.pixels.shape[1:])} and {list(part.pixels.shape[1:])}"
            raise InputError(f"parts: expected images of one shape, got {shapes}")
    image_starts = starts_of(torch.tensor([len(part) for part in parts]))
    object_starts = starts_of(torch.tensor([len(part.image) for part in parts]))
    ends = torch.tensor([1, 0, 1])
    factors, factor_names = joined_factors(parts)
    return replace(
        first,
        pixels=_stacked([part.pixels for part in parts]),
        maps=_stacked([part.maps for part in parts]),
        image=torch.cat([part.image + start for part, start in zip(parts, image_starts[:-1], strict=True)]),
        labels=torch.cat([part.labels for part in parts]),
        boxes=torch.cat([part.boxes for part in parts]),
        instances=_joined_instances(parts),
        attributes=_common_attributes(parts),
        relations=torch.cat([part.relations + at * ends for part, at in zip(parts, object_starts[:-1], strict=True)]),
        captions=sum((part.captions for part in parts), ()) if all(part.captions for part in parts) else (),
        factors=factors,
        attribute_names=_common_names(parts),
        factor_names=factor_names,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        paths=sum((part.paths or () for part in parts), ()) if all(part.paths for part in parts) else None,
        unreadable=tuple(dict.fromkeys(name for part in parts for name in part.unreadable)),
        reasons={name: reason for part in parts for name, reason in part.reasons.items()},
        original_sizes=_cat_or_none([part.original_sizes for part in parts]),
    )


def divided(annotated: Annotated, seed: int) -> AnnotatedSplits:
    """80 % of the images to learn from and 20 % to judge by, drawn by the seed.

    Raises:
        Undivided: where there is a single image.

    Examples:
        >>> from counterpoise.data.annotated_scenes import from_scenes
        >>> from counterpoise.data.scenes import Scenes
        >>> [len(part) for part in divided(from_scenes(Scenes(10, size=32)), seed=0)]
        [8, 2]
    """
    check_seed(seed)
    if len(annotated) < 2:
        raise Undivided(f"{annotated.name}: has a single image, so none can be kept apart for a test split")
    order = torch.randperm(len(annotated), generator=Generator().manual_seed(seed))
    test = max(1, round(TEST_SHARE * len(annotated)))
    note = f"divided at random: {len(order) - test:,} images for train, {test:,} for test"
    return AnnotatedSplits(*(annotated.subset(part.sort().values, note) for part in (order[test:], order[:test])))


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    made = allocate((sum(map(len, parts)), *parts[0].shape[1:]))
    for part, start in zip(parts, starts_of(torch.tensor([len(part) for part in parts])).tolist(), strict=False):
        made[start : start + len(part)] = part
    return made


def _joined_instances(parts: Sequence[Annotated]) -> Tensor | None:
    maps = [part.instances for part in parts]
    if all(one is None for one in maps):
        return None
    known = [torch.zeros_like(part.maps) if one is None else one for one, part in zip(maps, parts, strict=True)]
    return torch.cat(known) if any(one.dtype != torch.uint8 for one in known) else _stacked(known)


def _common_attributes(parts: Sequence[Annotated]) -> dict[str, Tensor]:
    """The attributes that all parts have."""
    names = [name for name in parts[0].attributes if all(name in part.attributes for part in parts)]
    return {name: torch.cat([part.attributes[name] for part in parts]) for name in names}


def _common_names(parts: Sequence[Annotated]) -> dict[str, tuple[str, ...]]:
    """What the values are called of the attributes that all parts have."""
    found: dict[str, tuple[str, ...]] = {}
    for name in _common_attributes(parts):
        words = {part.attribute_names.get(name) for part in parts}
        if len(words) > 1:
            raise InputError(f"parts: expected the same names for the values of attribute '{name}' in all parts")
        if (only := words.pop()) is not None:
            found[name] = only
    return found


def _cat_or_none(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None
