"""Images with what is in them: a class for every pixel, and objects with boxes, masks, attributes and relations.

All images have one size and lie in one uint8 array, as in `data.images`; so do their semantic maps and their instance
maps. The objects of all images are rows of a few integer tensors, those of one image side by side, so that a batch is
fetched by a few indexing operations whatever the number of objects in each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int, Int64, Integer, UInt8
from torch import Generator, Tensor
from torch.utils.data import Dataset

from counterpoise.data.images import CHUNK, UNLABELLED, Images, allocate, gather, to_channels
from counterpoise.data.parts import NO_VALUE, checked_values, with_factor, without_factor
from counterpoise.data.ragged import ragged, starts_of
from counterpoise.errors import InputError, first_few
from counterpoise.ops.checks import check_integers, check_number

IGNORED = 255
"""The value of a pixel that is not labelled."""
MOST_CLASSES = IGNORED - 1  # 0 is the background, 255 is not labelled
MOST_OBJECTS = (1 << 15) - 1  # in one image: what an int16 holds
NO_OBJECTS = torch.zeros(0, dtype=torch.int64)
NO_BOXES, NO_RELATIONS = NO_OBJECTS.view(0, 4), NO_OBJECTS.view(0, 3)


class Objects(NamedTuple):
    """The objects of several images, those of one image after those of the one before.

    Attributes:
        image: of each object the position of its image among those that were asked for, from 0.
        labels: its class, an index into `Annotated.classes`.
        boxes: left, top, right and bottom in pixels; right and bottom are just outside.
        areas: how many pixels its mask has; 0 for an object of which only the box is known.
        numbers: its number in its image, from 1: what its pixels have in `instances`.
        instances: one map an image: of each pixel the number of its object, 0 where there is none.
        attributes: other properties by name, an integer for each object.
        relations: rows of subject, predicate and object; subjects and objects are rows of these objects.
    """

    image: Int64[Tensor, " objects"]
    labels: Int64[Tensor, " objects"]
    boxes: Int64[Tensor, "objects 4"]
    areas: Int64[Tensor, " objects"]
    numbers: Int64[Tensor, " objects"]
    instances: Integer[Tensor, "images height width"]
    attributes: dict[str, Int64[Tensor, " objects"]]
    relations: Int64[Tensor, "relations 3"]

    @property
    def masks(self) -> Bool[Tensor, "objects height width"]:
        """The visible pixels of each object, made when asked for."""
        return self.instances[self.image] == self.numbers[:, None, None]


@dataclass(frozen=True, eq=False)
class Annotated(Dataset):
    """Images of one size with semantic maps and objects: a map-style torch `Dataset`.

    `annotated[i]` is `(pixels, map, i)`. A `DataLoader(annotated, batch_size=…, collate_fn=lambda batch: batch)`
    fetches whole batches `([B C H W], [B H W], [B])` at once; with `with_objects`, a fourth entry holds `Objects`.

    Args:
        pixels: uint8, in memory or memory-mapped.
        maps: of each pixel 0 for the background, its class plus 1, or 255 where it is not labelled; any type of integer
            (kept as uint8, so at most 254 classes).
        classes: the names of the classes, without the background.
        name: what the data is called in tables and reports.
        image: of each object its image, in ascending order.
        labels: of each object its class, an index into `classes`.
        boxes: left, top, right and bottom of each object in whole pixels; right and bottom are just outside.
        instances: of each pixel the number of its object in its image, from 1; 0 where there is none. So no pixel
            belongs to two objects. uint8, or int16 where an image has more than 255. None where no object has a mask.
        attributes: other properties of the objects, such as colour and depth, by name: an integer for each object.
        attribute_names: what the values of an attribute are called, where they have names.
        relations: rows of subject, predicate and object: a row of the objects, an index into `predicates`, a row.
        predicates: the names of the predicates.
        captions: a sentence for each image; empty without them.
        factors: what else is known of each image, by name: an integer for each.
        factor_names: of a factor the names of its values 0, 1, …, where they have names, as those of `domain` have; -1
            is an image without one.
        notes: what was done to the data, in words.
        paths: the file of each image, relative to the folder that was loaded.
        unreadable: the files that were left out because they could not be decoded.
        reasons: why each of them could not be, by its name.
        original_sizes: height and width of each image before it was resized, where that is known.
        with_objects: whether batches hold `Objects`.

    Raises:
        InputError: where shapes, types or values do not fit together, naming the argument.

    Examples:
        >>> pixels, maps = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8)
        >>> maps[1, :2, :3] = 2  # a dog
        >>> data = Annotated(
        ...     pixels, maps, ("cat", "dog"), "pets",
        ...     image=torch.tensor([1]), labels=torch.tensor([1]), boxes=torch.tensor([[0, 0, 3, 2]]),
        ...     instances=(maps > 0).byte(),
        ... )
        >>> data.counts().tolist(), data.areas.tolist(), data.objects(torch.tensor([1])).masks.sum().item()
        ([0, 1], [6], 6)
        >>> [list(x.shape) for x in data.__getitems__([1, 1, 0])]
        [[3, 3, 4, 4], [3, 4, 4], [3]]
    """

    items: ClassVar[str] = "annotated images"

    pixels: UInt8[Tensor, "images channels height width"]
    maps: Integer[Tensor, "images height width"]
    classes: tuple[str, ...]
    name: str
    image: Integer[Tensor, " objects"] = NO_OBJECTS
    labels: Integer[Tensor, " objects"] = NO_OBJECTS
    boxes: Integer[Tensor, "objects 4"] = NO_BOXES
    instances: Integer[Tensor, "images height width"] | None = None
    attributes: Mapping[str, Integer[Tensor, " objects"]] = field(default_factory=dict)
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    relations: Integer[Tensor, "relations 3"] = NO_RELATIONS
    predicates: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    factors: Mapping[str, Integer[Tensor, " images"]] = field(default_factory=dict)
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    original_sizes: Int64[Tensor, "images 2"] | None = None
    with_objects: bool = False

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise InputError(
                f"pixels: expected uint8 of shape [images, channels, height, width], got {_kind(self.pixels)}"
            )
        self._check_names()
        rows, objects = len(self.pixels), len(self.image)
        image = check_integers("image", self.image, objects, low=0, high=rows)
        if objects and bool((image.diff() < 0).any()):
            raise InputError(
                "image: expected the objects in the order of their images, got a smaller number after a larger"
            )
        kept: dict[str, Any] = {
            "maps": self._checked_maps(),
            "image": image,
            "labels": check_integers("labels", self.labels, objects, low=0, high=len(self.classes)),
            "boxes": check_boxes(self.boxes, objects, *self.pixels.shape[2:]),
            "attributes": checked_values("attribute", self.attributes, self.attribute_names, objects, least=0),
            "factors": checked_values("factor", self.factors, self.factor_names, rows, least=NO_VALUE),
        }
        for name, values in kept.items():
            object.__setattr__(self, name, values)
        self._check_instances()
        object.__setattr__(self, "relations", self._checked_relations())

    def _check_names(self) -> None:
        check_class_names("classes", self.classes)
        rows = len(self.pixels)
        for name in ("paths", "original_sizes", "captions"):
            values = getattr(self, name)
            if values is not None and len(values) != rows and not (name == "captions" and not values):
                raise InputError(f"{name}: expected one for each of the {rows} images, got {len(values)}")

    def _checked_maps(self) -> UInt8[Tensor, "images height width"]:
        expected = [len(self.pixels), *self.pixels.shape[2:]]
        if list(self.maps.shape) != expected or self.maps.dtype.is_floating_point or self.maps.dtype == torch.bool:
            raise InputError(f"maps: expected integers of shape {expected}, got {_kind(self.maps)}")
        for part in self.maps.split(CHUNK):
            chunk = part if part.dtype == torch.uint8 else part.long()
            wrong = chunk[((chunk > len(self.classes)) & (chunk != IGNORED)) | (chunk < 0)]
            if len(wrong):
                span = f"0 to {len(self.classes)}, for the background and {len(self.classes)} classes, or {IGNORED}"
                raise InputError(f"maps: expected {span}, got {int(wrong[0])}")
        return self.maps.to(torch.uint8)

    def _check_instances(self) -> None:
        if self.instances is None:
            return
        if self.instances.shape != self.maps.shape or self.instances.dtype not in (torch.uint8, torch.int16):
            raise InputError(
                f"instances: expected uint8 or int16 of shape {list(self.maps.shape)}, got {_kind(self.instances)}"
            )
        if self.instances.numel():
            for chunk, counts in zip(self.instances.split(CHUNK), self.object_counts.split(CHUNK), strict=True):
                least, most = chunk.amin((1, 2)), chunk.amax((1, 2))
                wrong = ((least < 0) | (most > counts)).nonzero().flatten()
                if len(wrong):
                    i = int(wrong[0])
                    got = int(least[i]) if least[i] < 0 else int(most[i])
                    has = int(counts[i])
                    raise InputError(f"instances: expected 0 to {has} in an image of {has} objects, got {got}")

    def _checked_relations(self) -> Int64[Tensor, "relations 3"]:
        if self.relations.ndim != 2 or self.relations.shape[1] != 3:
            raise InputError(f"relations: expected rows of subject, predicate and object, got {_kind(self.relations)}")
        rows, objects = len(self.relations), len(self.image)
        columns = [
            check_integers(f"relations: {name}", column, rows, low=0, high=high)
            for name, column, high in zip(
                ("subject", "predicate", "object"),
                self.relations.T,
                (objects, len(self.predicates), objects),
                strict=True,
            )
        ]
        images = self.image[columns[0]]
        if not torch.equal(images, self.image[columns[2]]):
            raise InputError("relations: expected subject and object in one image, got two of different images")
        return torch.stack(columns, 1)[images.argsort(stable=True)]

    @cached_property
    def object_counts(self) -> Int64[Tensor, " images"]:
        """How many objects each image has."""
        return torch.bincount(self.image, minlength=len(self))

    @cached_property
    def starts(self) -> Int64[Tensor, " images_and_end"]:
        """The first object of each image, and then the number of all: image i has those of starts[i]:starts[i + 1]."""
        return starts_of(self.object_counts)

    @cached_property
    def areas(self) -> Int64[Tensor, " objects"]:
        """How many pixels the mask of each object has; 0 for an object of which only the box is known."""
        areas = torch.zeros(len(self.image) + 1, dtype=torch.int64)
        if self.instances is not None:
            for chunk, start in zip(self.instances.split(CHUNK), self.starts[:-1].split(CHUNK), strict=True):
                rows = chunk.long() + start[:, None, None]  # of the object, plus 1
                areas += torch.bincount(rows[chunk > 0], minlength=len(areas))
        return areas[1:]

    @property
    def labelled(self) -> Bool[Tensor, " images"]:
        """Whether an image has any annotation: a pixel that is not 255, or an object."""
        some = [(chunk != IGNORED).flatten(1).any(1) for chunk in self.maps.split(CHUNK)]
        return torch.cat([*some, NO_OBJECTS.bool()]) | (self.object_counts > 0)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index = index % len(self)
        one = (self.pixels[index], self.maps[index], index)
        return (*one, self.objects(torch.tensor([index]))) if self.with_objects else one

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """A whole batch: pixels [B C H W], maps [B H W] (uint8), indices [B]; with `with_objects`, `Objects`, too."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = (self.pixels[index], self.maps[index], index)
        return (*batch, self.objects(index)) if self.with_objects else batch

    def objects(self, index: Int[Tensor, " batch"]) -> Objects:
        """The objects of the images at `index`, which may hold an image several times.

        Raises:
            InputError: for what is no index of an image.
        """
        index = check_integers("index", index, len(index), low=0, high=len(self))
        rows, image = ragged(self.starts, index)
        empty = (len(index), *self.maps.shape[1:])
        return Objects(
            image,
            self.labels[rows],
            self.boxes[rows],
            self.areas[rows],
            rows - self.starts[self.image[rows]] + 1,
            torch.zeros(empty, dtype=torch.uint8) if self.instances is None else self.instances[index],
            {name: values[rows] for name, values in self.attributes.items()},
            self._relations_of(index),
        )

    def _relations_of(self, index: Tensor) -> Int64[Tensor, "relations 3"]:
        """The relations in some images, where their objects are numbered from 0."""
        triples, of = ragged(self._relation_starts, index)
        moved = starts_of(self.object_counts[index])[:-1] - self.starts[index]
        return self.relations[triples] + moved[of, None] * torch.tensor([1, 0, 1])

    @cached_property
    def _relation_starts(self) -> Int64[Tensor, " images_and_end"]:
        return starts_of(torch.bincount(self.image[self.relations[:, 0]], minlength=len(self)))

    def subset(self, index: Int[Tensor, " kept"], note: str | None = None) -> Annotated:
        """The images at `index`, in that order, with their objects, and `note` added to the notes."""
        index = check_integers("index", index, len(index), low=0, high=len(self))
        instances = None if self.instances is None else gather_maps(self.instances, index)
        return self._picked(index, gather(self.pixels, index), gather_maps(self.maps, index), instances, note)

    def rows(self, start: int, stop: int) -> Annotated:
        """Some images in a row, without a copy of their pixels and maps."""
        part = slice(start, stop)
        instances = None if self.instances is None else self.instances[part]
        return self._picked(torch.arange(len(self))[part], self.pixels[part], self.maps[part], instances, None)

    def _picked(
        self, index: Tensor, pixels: Tensor, maps: Tensor, instances: Tensor | None, note: str | None
    ) -> Annotated:
        rows, image = ragged(self.starts, index)
        chosen = index.tolist()
        return replace(
            self,
            pixels=pixels,
            maps=maps,
            image=image,
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            instances=instances,
            attributes={name: values[rows] for name, values in self.attributes.items()},
            relations=self._relations_of(index),
            captions=tuple(self.captions[i] for i in chosen) if self.captions else (),
            factors={name: values[index] for name, values in self.factors.items()},
            notes=self.notes if note is None else (*self.notes, note),
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
            original_sizes=None if self.original_sizes is None else self.original_sizes[index],
        )

    def hide_maps(self, share: float, generator: Generator) -> tuple[Annotated, str]:
        """A share of the images loses its annotations; see the function `hide_maps`."""
        return hide_maps(self, share, generator)

    def with_channels(self, channels: int) -> Annotated:
        """The same images with 1 or 3 channels, as `Images.with_channels`."""
        return to_channels(self, channels)

    def with_factor(self, name: str, values: Integer[Tensor, " images"], names: Sequence[str] = ()) -> Annotated:
        """The same images with one more factor, or with another in the place of the one of that name; see `Images`."""
        return with_factor(self, name, values, names)

    def without_factor(self, name: str) -> Annotated:
        """The same images without a factor, or as they are where they have none of that name."""
        return without_factor(self, name)

    def counts(self) -> Int64[Tensor, " classes"]:
        """In how many images each class is seen: in the map, or as an object."""
        seen = torch.zeros(len(self), IGNORED + 1, dtype=torch.bool)
        for start in range(0, len(self), CHUNK):
            chunk = self.maps[start : start + CHUNK].flatten(1).long()
            seen[start : start + CHUNK].scatter_(1, chunk, True)
        seen[self.image, self.labels + 1] = True
        return seen[:, 1 : len(self.classes) + 1].sum(0)

    def pixel_counts(self) -> Int64[Tensor, " values"]:
        """How many pixels have each value of the maps: the background, each class; those not labelled are left out."""
        total = torch.zeros(IGNORED + 1, dtype=torch.int64)
        for chunk in self.maps.split(CHUNK):
            total += torch.bincount(chunk.flatten(), minlength=IGNORED + 1)
        return total[: len(self.classes) + 1]

    def erase_classes(self, gone: Sequence[str], value: Literal[0, 255] = 0) -> Annotated:
        """The same images and classes, where some classes are not annotated.

        Args:
            gone: names of classes; their objects, with their relations, are left out.
            value: what their pixels become: 0, background, or 255, not labelled.

        Raises:
            InputError: for a name that is no class, or another value.
        """
        if value not in (0, IGNORED):
            raise InputError(f"value: expected 0 for the background or {IGNORED} for not labelled, got {value}")
        labels = self._labels_of("gone", gone)
        table = torch.arange(IGNORED + 1, dtype=torch.uint8)
        table[labels + 1] = value
        kept = self.keep_objects(~torch.isin(self.labels, labels))
        return replace(
            kept,
            maps=look_up(table, self.maps),
            notes=(*self.notes, f"not annotated: {first_few([self.classes[i] for i in labels.tolist()])}"),
        )

    def of_classes(self, classes: Sequence[str], value: Literal[0, 255] = 0) -> Annotated:
        """The same images with these classes alone, in this order; arguments and errors as in `erase_classes`."""
        labels = self._labels_of("classes", classes)
        kept = set(labels.tolist())
        made = self.erase_classes([name for i, name in enumerate(self.classes) if i not in kept], value)
        table = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
        table[0] = 0
        table[labels + 1] = torch.arange(1, len(labels) + 1, dtype=torch.uint8)
        return replace(
            made,
            maps=look_up(table, made.maps),
            labels=table[made.labels + 1].long() - 1,
            classes=tuple(self.classes[i] for i in labels.tolist()),
        )

    def _labels_of(self, argument: str, names: Sequence[str]) -> Int64[Tensor, " names"]:
        known = {name: i for i, name in enumerate(self.classes)}
        if isinstance(names, str) or (unknown := [str(name) for name in names if name not in known]):
            got = f"the text '{names}'" if isinstance(names, str) else first_few(unknown)
            raise InputError(f"{argument}: expected names of classes ({first_few(self.classes)}), got {got}")
        if len(set(names)) != len(names):
            raise InputError(f"{argument}: expected each class once, got {first_few(list(names))}")
        return torch.tensor([known[name] for name in names], dtype=torch.int64)

    def keep_objects(self, keep: Bool[Tensor, " objects"]) -> Annotated:
        """The same images and maps with some of the objects, and the relations between these.

        Raises:
            InputError: unless there is one truth value for each object.
        """
        if keep.dtype != torch.bool or keep.shape != self.image.shape:
            raise InputError(f"keep: expected a truth value for each of {len(self.image)} objects, got {_kind(keep)}")
        rows = keep.cumsum(0) - 1  # of what is kept
        between = self.relations[keep[self.relations[:, 0]] & keep[self.relations[:, 2]]]
        relations = torch.stack([rows[between[:, 0]], between[:, 1], rows[between[:, 2]]], 1)
        return replace(
            self,
            image=self.image[keep],
            labels=self.labels[keep],
            boxes=self.boxes[keep],
            instances=None if self.instances is None else self._renumbered(keep),
            attributes={name: values[keep] for name, values in self.attributes.items()},
            relations=relations,
        )

    def _renumbered(self, keep: Tensor) -> Tensor:
        """The instance maps of those objects that are kept, numbered anew in each image."""
        assert self.instances is not None
        before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.cumsum(0)])
        numbers = torch.where(keep, before[1:] - before[self.starts[self.image]], 0)
        table = torch.cat([torch.zeros(1, dtype=torch.int64), numbers])
        made = allocate(tuple(self.instances.shape)) if self.instances.dtype == torch.uint8 else self.instances.clone()
        for at in range(0, len(self), CHUNK):
            chunk = self.instances[at : at + CHUNK].long()
            made[at : at + CHUNK] = table[
                torch.where(chunk > 0, chunk + self.starts[at : at + len(chunk), None, None], 0)
            ]
        return made

    def images(self) -> Images:
        """The images alone, without labels, for whatever learns from plain images."""
        return Images(
            self.pixels,
            torch.full((len(self),), UNLABELLED),
            (),
            self.name,
            notes=self.notes,
            paths=self.paths,
            unreadable=self.unreadable,
            original_sizes=self.original_sizes,
            factors=self.factors,
            reasons=self.reasons,
            factor_names=self.factor_names,
        )


class AnnotatedSplits(NamedTuple):
    """The images to learn from and those to judge by: one size, one number of channels, the same classes."""

    train: Annotated
    test: Annotated


def hide_maps(annotated: Annotated, share: float, generator: Generator) -> tuple[Annotated, str]:
    """A share of the images loses its annotations: whole maps become 255, and their objects and captions go.

    Args:
        annotated: some of whose images are labelled (`Annotated.labelled`).
        share: of these, in [0, 1]; a larger share holds the draw of a smaller one.
        generator: of the draw.

    Returns:
        The images with what is left, and a note of what was done.

    Raises:
        InputError: for a share outside [0, 1], or where no image is labelled.

    Examples:
        >>> from counterpoise.data.annotated_scenes import from_scenes
        >>> from counterpoise.data.scenes import Scenes
        >>> data = from_scenes(Scenes(10, size=32))
        >>> made, note = hide_maps(data, 0.9, torch.Generator().manual_seed(0))
        >>> note, int(made.labelled.sum()), int((made.object_counts > 0).sum())
        ('9 of 10 maps taken away', 1, 1)
    """
    check_number("share", share, at_least=0, at_most=1)
    labelled = annotated.labelled.nonzero().flatten()
    if not len(labelled):
        raise InputError("annotated: expected an image that is labelled, got none")
    hidden = labelled[torch.randperm(len(labelled), generator=generator)[: round(share * len(labelled))]]
    kept = annotated.keep_objects(~torch.isin(annotated.image, hidden))
    gone = set(hidden.tolist())
    made = replace(
        kept,
        maps=gather_maps(annotated.maps, torch.arange(len(annotated))).index_fill_(0, hidden, IGNORED),
        captions=tuple("" if i in gone else caption for i, caption in enumerate(annotated.captions)),
    )
    return made, f"{len(hidden):,} of {len(labelled):,} maps taken away"


def seen_boxes(boxes: Int64[Tensor, "objects 4"]) -> Bool[Tensor, " objects"]:
    """Whether a box holds a pixel."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def check_boxes(
    boxes: Integer[Tensor, "objects 4"], objects: int, height: int, width: int
) -> Int64[Tensor, "objects 4"]:
    """Refuse boxes that are not left, top, right and bottom of at least one pixel inside an image.

    Raises:
        InputError: naming the first of them.
    """
    if boxes.dtype.is_floating_point or boxes.dtype == torch.bool or list(boxes.shape) != [objects, 4]:
        raise InputError(f"boxes: expected integers of shape [{objects}, 4], got {_kind(boxes)}")
    boxes = boxes.long()
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= torch.tensor([width, height])).all(1)
    wrong = (~(inside & seen_boxes(boxes))).nonzero().flatten()
    if len(wrong):
        raise InputError(
            f"boxes: expected left < right ≤ {width} and top < bottom ≤ {height}, all from 0, got "
            f"{boxes[wrong[0]].tolist()} of object {int(wrong[0])}"
        )
    return boxes


def check_class_names(argument: str, classes: Sequence[str]) -> None:
    """Refuse names that a map of bytes has no room for, or that are not all different.

    Raises:
        InputError: naming the argument.
    """
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{argument}: expected at most {MOST_CLASSES}, since {IGNORED} means not labelled, got {len(classes):,}"
        )
    if twice := [name for i, name in enumerate(classes) if name in classes[:i]]:
        raise InputError(f"{argument}: expected names that differ, got '{twice[0]}' twice")


def look_up(table: UInt8[Tensor, " 256"], maps: UInt8[Tensor, "images height width"]) -> UInt8[Tensor, "..."]:
    """`table[maps]`, memory-mapped where that is above `MEMORY_LIMIT`."""
    made = allocate(tuple(maps.shape))
    for at in range(0, len(maps), CHUNK):
        made[at : at + CHUNK] = table[maps[at : at + CHUNK].long()]
    return made


def gather_maps(
    maps: Integer[Tensor, "images height width"], index: Int[Tensor, " kept"]
) -> Integer[Tensor, "kept height width"]:
    """`maps[index]`, memory-mapped where that is above `MEMORY_LIMIT` and they are of bytes."""
    return gather(maps[:, None], index)[:, 0] if maps.dtype == torch.uint8 else maps[index]


def _kind(x: Tensor) -> str:
    return f"{x.dtype} of shape {list(x.shape)}"
