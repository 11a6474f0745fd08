"""Scenes: sprites on textured backgrounds, with masks, boxes, depth order, relations, captions and domains.

Each scene is made when it is asked for, from (seed, index) alone. So a data set of any length needs no room, and is the
same in any order and with any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from counterpoise.data.coco import pycocotools_mask
from counterpoise.data.coco_files import ANNOTATIONS, png_of, rle_of, take_away
from counterpoise.data.ragged import starts_of
from counterpoise.data.sources import load
from counterpoise.errors import InputError, unknown
from counterpoise.files import (
    locked,
    make_folder,
    make_output_folder,
    record_outputs,
    write_json,
    written,
)
from counterpoise.ops.checks import check_number

Split = Literal["train", "test"]
COLOURS = {
    "red": (220, 50, 47),
    "orange": (240, 140, 30),
    "yellow": (235, 215, 60),
    "green": (60, 170, 70),
    "cyan": (60, 190, 200),
    "blue": (50, 90, 220),
    "purple": (150, 70, 190),
    "white": (245, 245, 245),
}
PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
# Each domain: what red, green and blue are multiplied by, and what is then added to all.
DOMAINS = {
    "day": ((1.0, 1.0, 1.0), 0.0),
    "night": ((0.35, 0.4, 0.6), 0.0),
    "dusk": ((0.95, 0.65, 0.5), 0.0),
    "fog": ((0.45, 0.47, 0.5), 100.0),
}
TEXTURES = ("plain", "gradient", "stripes", "checks", "noise")
PREDICATES = ("left of", "right of", "above", "below", "in front of", "behind", "larger than", "smaller than")
SMALLEST, LARGEST = 0.22, 0.5  # side of a sprite as a share of the scene's
INK = 40  # grey value from which a sprite's pixel belongs to the object
LAST_SEED = (1 << 62) - 1  # twice a seed and one more is an integer of 64 bits
VISIBLE = 0.5  # least share of every object that is not covered
TRIES = 10  # to find a place
LARGER = 1.4  # times the side, from where one object is larger than another


class Scene(NamedTuple):
    """One scene; objects are in the order of their depth, the one in front first.

    Attributes:
        image: what is seen.
        masks: the visible pixels of each object; no pixel belongs to two.
        shapes: all its pixels, also those that another object covers.
        boxes: around its visible pixels: left, top, right, bottom, in pixels; right and bottom are just outside.
        labels: its class, an index into `Scenes.classes`.
        colours: its colour, an index into `COLOURS`.
        relations: rows of subject, predicate and object; predicates are indices into `PREDICATES`.
        caption: what is there, in words.
        domain: one of `DOMAINS`.
    """

    image: UInt8[Tensor, "3 size size"]
    masks: Bool[Tensor, "objects size size"]
    shapes: Bool[Tensor, "objects size size"]
    boxes: Int64[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]
    colours: Int64[Tensor, " objects"]
    relations: Int64[Tensor, "relations 3"]
    caption: str
    domain: str

    @property
    def instances(self) -> Int64[Tensor, "size size"]:
        """Of each pixel the number of its object, from 1; 0 where the background is seen."""
        numbers = torch.arange(1, len(self.masks) + 1)
        return (self.masks * numbers[:, None, None]).sum(0)

    @property
    def semantic(self) -> Int64[Tensor, "size size"]:
        """Of each pixel the class of its object, from 1; 0 where the background is seen."""
        return (self.masks * (self.labels + 1)[:, None, None]).sum(0)


class Scenes(Dataset):
    """Scenes made on demand: a map-style torch `Dataset` of `Scene`; batch them with `collate`.

    A scene has between `least` and `most` objects. Each is put where at least half of it stays visible; one that finds
    no such place in ten tries is left out, the first always stays.

    Args:
        count: how many scenes there are.
        split: "train" or "test"; they share no sprite.
        sprites: data of one channel whose images are the objects, by name as for `load`.
        size: height and width in pixels, at least 32.
        least: fewest objects, at least 1.
        most: most objects.
        domain: one of `DOMAINS`, or "mixed" for any.
        held_out: share of the colours that train never shows with a class; which, is drawn for each class by the seed.
        seed: of everything, from 0.

    Raises:
        InputError: for names that are not known, numbers out of range, or sprites in colour.

    Examples:
        >>> scenes = Scenes(10, least=3, most=3)
        >>> scene = scenes[4]
        >>> scene.image.shape, scene.masks.shape[1:], torch.equal(scene.image, Scenes(10, least=3, most=3)[4].image)
        (torch.Size([3, 64, 64]), torch.Size([64, 64]), True)
        >>> scene.caption
        'an orange Shirt left of a cyan Shirt, with a red Sneaker, in fog'
    """

    def __init__(
        self,
        count: int,
        split: Split = "train",
        *,
        sprites: str = "fashion-mnist",
        size: int = 64,
        least: int = 3,
        most: int = 6,
        domain: str = "mixed",
        held_out: float = 0.0,
        seed: int = 0,
    ):
        check_number("count", count, at_least=1, whole=True)
        check_number("size", size, at_least=32, whole=True)
        check_number("least", least, at_least=1, whole=True)
        check_number("most", most, at_least=least, whole=True)
        check_number("seed", seed, at_least=0, at_most=LAST_SEED, whole=True)
        check_number("held_out", held_out, at_least=0, at_most=(len(COLOURS) - 1) / len(COLOURS))
        if split not in get_args(Split):
            raise unknown("split", split, get_args(Split))
        if domain not in (*DOMAINS, "mixed"):
            raise unknown("domain", domain, (*DOMAINS, "mixed"))
        images = getattr(load(sprites), split)
        if images.pixels.shape[1] != 1 or not (images.labels >= 0).all():
            raise InputError(f"sprites: expected labelled images of 1 channel, got {sprites}")
        self.count, self.split, self.size, self.least, self.most, self.seed = count, split, size, least, most, seed
        self.domains = list(DOMAINS) if domain == "mixed" else [domain]
        self.classes: tuple[str, ...] = images.classes
        self.sprites, self.labels = images.pixels[:, 0].numpy(), images.labels.numpy()
        hidden = round(held_out * len(COLOURS))
        order = np.random.default_rng(seed).random((len(self.classes), len(COLOURS))).argsort(1)
        self.held_out = {(label, int(colour)) for label, row in enumerate(order) for colour in row[:hidden]}
        self.palette = order[:, hidden:] if split == "train" else order

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = np.random.Generator(np.random.Philox(key=[2 * self.seed + (self.split == "test"), index % self.count]))
        domain = self.domains[rng.integers(len(self.domains))]
        canvas = background(rng, self.size)
        things = self._place(rng)
        shapes, masks = np.zeros((2, len(things), self.size, self.size), dtype=bool)
        free = np.ones((self.size, self.size), dtype=bool)
        for thing, shape, mask in zip(things, shapes, masks, strict=True):
            shape[thing.place] = thing.sprite >= thing.ink
            np.logical_and(shape, free, out=mask)
            free &= ~shape
            light = 0.3 + 0.7 / 255 * thing.sprite[mask[thing.place]]
            canvas[mask] = light[:, None] * PALETTE[thing.colour]
        factors, added = DOMAINS[domain]
        image = (canvas * np.array(factors, dtype=np.float32) + added).clip(0, 255).astype(np.uint8)
        labels, colours, sides = (np.array([getattr(t, name) for t in things]) for name in ("label", "colour", "side"))
        boxes = np.stack([box_of(mask) for mask in masks])
        relations = find_relations(shapes, boxes, sides)
        names = [f"{list(COLOURS)[thing.colour]} {self.classes[thing.label]}" for thing in things]
        arrays = (image.transpose(2, 0, 1).copy(), masks, shapes, boxes, labels, colours, relations)
        return Scene._make([*map(torch.from_numpy, arrays), describe(names, relations, domain), domain])

    def _place(self, rng: np.random.Generator) -> list[_Thing]:
        """The objects from front to back."""
        things: list[_Thing] = []
        taken = np.zeros((self.size, self.size), dtype=bool)
        for _ in range(rng.integers(self.least, self.most + 1)):
            number = rng.integers(len(self.sprites))
            label = int(self.labels[number])
            colour = int(rng.choice(self.palette[label]))
            side = round(self.size * rng.uniform(SMALLEST, LARGEST))
            sprite = np.asarray(Image.fromarray(self.sprites[number]).resize((side, side), Image.Resampling.BILINEAR))
            ink = min(INK, int(sprite.max()))
            shape = sprite >= ink
            for top, left in rng.integers(self.size - side + 1, size=(TRIES, 2)):
                place = (slice(top, top + side), slice(left, left + side))
                if (shape & ~taken[place]).sum() >= VISIBLE * shape.sum():
                    taken[place] |= shape
                    things.append(_Thing(sprite, ink, place, label, colour, side))
                    break
        return things


class _Thing(NamedTuple):
    """An object, and where it is put."""

    sprite: UInt8[np.ndarray, "side side"]
    ink: int
    place: tuple[slice, slice]
    label: int
    colour: int
    side: int


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A canvas [size size 3] of one texture in two muted colours, from 0 to 255."""
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    first, second = (rng.uniform(40, 150, size=(2, 1)) + rng.uniform(-25, 25, size=(2, 3))).astype(np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, math.pi)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    waves = rng.uniform(3, 9)
    if texture == "plain":
        share = np.zeros_like(x)
    elif texture == "gradient":
        share = (along - along.min()) / np.ptp(along)
    elif texture == "stripes":
        share = (np.sin(2 * math.pi * waves * along) > 0).astype(np.float32)
    elif texture == "checks":
        share = (np.sin(2 * math.pi * waves * along) * np.sin(2 * math.pi * waves * across) > 0).astype(np.float32)
    else:
        share = sum(_noise(rng, size, cells) / 2**i for i, cells in enumerate((4, 8, 16))) / 1.75
    return first + share[..., None] * (second - first)


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Random values on a coarse grid, smoothly enlarged."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def box_of(mask: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of what is true in a mask [height width]; the last two are just outside.

    Raises:
        InputError: where nothing is.

    Examples:
        >>> box_of(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool)).tolist()
        [1, 1, 3, 2]
    """
    if not mask.any():
        raise InputError("mask: expected at least one pixel that is true, got none")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def find_relations(shapes: np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """All relations between objects, in rows of subject, predicate and object.

    "left of" and "above" hold where the one's box ends before the other's begins; "in front of" where the one covers a
    pixel of the other; "larger than" where its side is at least 1.4 times the other's; the others are their inverses.

    Args:
        shapes: all pixels of each object, from front to back, [objects height width].
        boxes: of their visible pixels, [objects 4].
        sides: of the squares that they fill, [objects].
    """
    left, top, right, bottom = boxes.T
    flat = shapes.reshape(len(shapes), -1).astype(np.float32)
    overlap = np.triu(flat @ flat.T > 0, k=1)  # objects are ordered: the first is in front
    forward = [right[:, None] <= left, bottom[:, None] <= top, overlap, sides[:, None] >= LARGER * sides]
    found = np.stack([half for relation in forward for half in (relation, relation.T)])  # [predicate subject object]
    predicate, subject, other = found.nonzero()
    return np.stack([subject, predicate, other], axis=1)


def describe(names: Sequence[str], relations: np.ndarray, domain: str) -> str:
    """A sentence: one relation where there is any, the other objects, and the domain.

    Examples:
        >>> describe(["red Bag", "blue Coat", "orange Shirt"], np.array([[0, 2, 1]]), "night")
        'a red Bag above a blue Coat, with an orange Shirt, at night'
    """
    objects = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    first, rest = objects[0], list(range(1, len(objects)))
    if len(relations):
        subject, predicate, other = relations[0]
        first = f"{objects[subject]} {PREDICATES[predicate]} {objects[other]}"
        rest = [i for i in range(len(objects)) if i not in (subject, other)]
    listed = " and ".join(filter(None, [", ".join(objects[i] for i in rest[:-1]), *(objects[i] for i in rest[-1:])]))
    others = f", with {listed}" if rest else ""
    when = {"day": "by day", "night": "at night", "dusk": "at dusk", "fog": "in fog"}[domain]
    return f"{first}{others}, {when}"


class Batch(NamedTuple):
    """Several scenes: all their objects one after the other; `scene` says whose each is.

    Attributes:
        image: one a scene.
        scene: of each object, the number of its scene.
        relations: subjects and objects by their numbers in the batch; all else as in `Scene`.
    """

    image: UInt8[Tensor, "scenes 3 size size"]
    scene: Int64[Tensor, " objects"]
    masks: Bool[Tensor, "objects size size"]
    shapes: Bool[Tensor, "objects size size"]
    boxes: Int64[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]
    colours: Int64[Tensor, " objects"]
    relations: Int64[Tensor, "relations 3"]
    captions: list[str]
    domains: list[str]


def collate(scenes: Sequence[Scene]) -> Batch:
    """Make a batch of scenes, which differ in their number of objects; a `collate_fn` for a `DataLoader`.

    Examples:
        >>> batch = collate([Scenes(8)[i] for i in range(8)])
        >>> batch.image.shape, len(batch.boxes) == len(batch.scene), int(batch.scene.max())
        (torch.Size([8, 3, 64, 64]), True, 7)
    """
    if not scenes:
        raise InputError("scenes: expected at least one, got none")
    counts = torch.tensor([len(scene.labels) for scene in scenes])
    first = starts_of(counts)[:-1]
    ends = torch.tensor([1, 0, 1])  # of a relation, what numbers an object
    parts = ("masks", "shapes", "boxes", "labels", "colours")
    return Batch._make(
        [
            torch.stack([scene.image for scene in scenes]),
            torch.arange(len(scenes)).repeat_interleave(counts),
            *(torch.cat([getattr(scene, name) for scene in scenes]) for name in parts),
            torch.cat([scene.relations + start * ends for scene, start in zip(scenes, first, strict=True)]),
            [scene.caption for scene in scenes],
            [scene.domain for scene in scenes],
        ]
    )


def write_coco(scenes: Scenes, folder: Path) -> Path:
    """What `scenes` writes, for `Scenes` at hand."""
    pycocotools_mask()  # before anything is written
    with locked(make_output_folder(folder, "scenes"), "call of scenes"):
        return _write(scenes, folder)


def _write(scenes: Scenes, folder: Path) -> Path:
    names = [f"images/{i:06}.png" for i in range(len(scenes))]
    take_away(folder, names, lambda i: png_of(scenes[i].image))
    make_folder(folder / "images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        scene, first = scenes[i], len(annotations) + 1
        with written(folder / name) as aside:
            aside.write_bytes(png_of(scene.image))
        annotations += [
            {"id": first + depth, "image_id": i, **_annotation(scene, depth)} for depth in range(len(scene.masks))
        ]
        relations = [[first + s, PREDICATES[p], first + o] for s, p, o in scene.relations.tolist()]
        about = {"id": i, "file_name": name, "width": scenes.size, "height": scenes.size}
        images.append({**about, "caption": scene.caption, "domain": scene.domain, "relations": relations})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(scenes.classes)]
    target = folder / ANNOTATIONS
    write_json(target, {"images": images, "annotations": annotations, "categories": categories})
    record_outputs(folder, [*names, ANNOTATIONS])
    return target


def _annotation(scene: Scene, depth: int) -> dict[str, Any]:
    """What COCO holds of one object, but for its numbers."""
    left, top, right, bottom = scene.boxes[depth].tolist()
    return {
        "category_id": int(scene.labels[depth]) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(scene.masks[depth].sum()),
        "segmentation": rle_of(scene.masks[depth]),
        "iscrowd": 0,
        "colour": list(COLOURS)[scene.colours[depth]],
        "depth": depth,
    }
