"""Images made of several things, each of which is known: what does a representation keep, and what does it drop?

A garment of Fashion-MNIST and a digit of MNIST, both from the embedded subsets, are put together by one of four
layouts. What each image shows is in `Images.factors`, a value a factor; its label is one of them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from counterpoise.data.images import Images, Splits
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number

Grey = Float[Tensor, "images height width"]  # from 0 to 1
Factors = dict[str, Int64[Tensor, " images"]]

HUES = (
    "red",
    "orange",
    "lime",
    "green",
    "mint",
    "cyan",
    "azure",
    "indigo",
    "purple",
    "pink",
)  # a tenth of a turn apart
TINTS = len(HUES)
MOST_OBJECTS = 3
SIDE = 28
LAST_SEED = (1 << 62) - 1  # twice a seed and one more is an integer of 64 bits


class Sprites(NamedTuple):
    """Garments and digits: train against train, test against test."""

    garments: Images
    digits: Images


def make_factors(layout: str, garments: Splits, digits: Splits, seed: int = 0) -> Splits:
    """Images of one layout, train and test apart.

    - `tint`: 28×28 in colour: a light garment on a ground of one of ten hues, a small black digit in a corner. Factors:
      garment (the label), digit, tint.
    - `tint:bias=0.8`: the same images, but in train each kind of garment has a favourite hue, drawn by the seed: with
      this probability its ground has that hue, else the one that it has anyway, of ten alike. Test is as it was. The
      hue is the subgroup, too: factor group.
    - `channels`: 28×28 in colour: the digit in red, the garment in green and blue, so that either can be taken away.
      Factors: garment (the label), digit.
    - `objects`: 40×40 in grey: one to three garments and digits at random places. Factors: for each of the 20 classes
      whether it is there. The label is the class of the first.
    - `scales`: 16×16 in grey: a small garment in one quarter, a ground of one of three levels, and a thin bar or none.
      Factors: garment (the label), quarter, ground, bar.

    Args:
        layout: its name, with the option.
        garments: grey images of 28×28, labelled.
        digits: likewise.
        seed: of which digit meets which garment, of places, hues and levels.

    Raises:
        InputError: for an unknown layout, other images, or a seed that is no whole number of 63 bits.
    """
    name, bias = _parse(layout)
    check_number("seed", seed, at_least=-LAST_SEED, at_most=LAST_SEED, whole=True)
    for what, splits in (("garments", garments), ("digits", digits)):
        for split, images in splits._asdict().items():
            _check_sprites(f"{what}: {split}", images)
    parts = []
    for part, sprites in enumerate(map(Sprites, garments, digits)):
        generator = torch.Generator().manual_seed(2 * seed + part)
        make = LAYOUTS[name] if bias is None else partial(_tint, bias=bias if part == 0 else 0.0)
        pixels, factors, labels, classes = make(sprites, generator)
        pixels = pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
        note = f"made of the embedded subsets' garments and digits, layout {layout}"
        names = _names(sprites, factors)
        parts.append(
            Images(pixels, labels, classes, f"factors:{layout}", notes=(note,), factors=factors, factor_names=names)
        )
    return Splits(*parts)


def _parse(layout: str) -> tuple[str, float | None]:
    """The layout, and how often a garment has its favourite hue."""
    name, colon, option = layout.partition(":")
    if name not in LAYOUTS:
        raise unknown("layout of factors", name, LAYOUTS)
    if not colon:
        return name, None
    key, _, text = option.partition("=")
    if name != "tint" or key != "bias":
        raise InputError(f"layout of factors: expected no option but tint:bias=SHARE, got '{layout}'")
    try:
        bias = float(text)
    except ValueError as error:
        raise InputError(f"layout of factors: bias: expected a number from 0 to 1, got '{text}'") from error
    check_number("layout of factors: bias", bias, at_least=0, at_most=1)
    return name, bias


def _names(sprites: Sprites, factors: Factors) -> dict[str, tuple[str, ...]]:
    """The names of the values of those factors whose values have names."""
    known = {
        "garment": sprites.garments.classes,
        "digit": sprites.digits.classes,
        **dict.fromkeys(("tint", "group"), HUES),
    }
    return {name: names for name, names in known.items() if name in factors}


Made = tuple[Tensor, Factors, Tensor, tuple[str, ...]]


def _tint(sprites: Sprites, generator: torch.Generator, bias: float | None = None) -> Made:
    garment, digit, factors = _pairs(sprites, generator)
    tint, corner = _draw(TINTS, garment, generator), _draw(4, garment, generator)
    if bias is not None:  # drawn after all else, so that other images stay as they are
        favourite = torch.randperm(TINTS, generator=generator)[factors["garment"] % TINTS]
        tint = favourite.where(torch.rand(len(tint), generator=generator) < bias, tint)
        factors = {**factors, "group": tint}
    hues = torch.tensor([colorsys.hsv_to_rgb(k / TINTS, 0.8, 0.6) for k in range(TINTS)])
    cloth, ink = garment[:, None], _placed(_shrunk(digit, 14), *_quarter(corner, 14), 28)[:, None]
    pixels = (hues[tint][:, :, None, None] * (1 - cloth) + 0.9 * cloth) * (1 - ink)
    return pixels, {**factors, "tint": tint}, factors["garment"], sprites.garments.classes


def _channels(sprites: Sprites, generator: torch.Generator) -> Made:
    garment, digit, factors = _pairs(sprites, generator)
    return torch.stack([digit, garment, garment], 1), factors, factors["garment"], sprites.garments.classes


def _objects(sprites: Sprites, generator: torch.Generator) -> Made:
    side, small = 40, 18
    looks = _shrunk(torch.cat([_unit(sprites.garments), _unit(sprites.digits)]), small)
    classes = (*sprites.garments.classes, *sprites.digits.classes)
    kinds = torch.cat([sprites.garments.labels, sprites.digits.labels + len(sprites.garments.classes)])
    count = len(sprites.garments)
    many = torch.randint(1, MOST_OBJECTS + 1, (count,), generator=generator)
    pixels, there = torch.zeros(count, side, side), torch.zeros(count, len(classes), dtype=torch.int64)
    labels = torch.zeros(count, dtype=torch.int64)
    for k in range(MOST_OBJECTS):
        chosen = torch.randint(len(looks), (count,), generator=generator)
        top, left = (torch.randint(side - small + 1, (count,), generator=generator) for _ in range(2))
        shown = many > k
        pixels = torch.maximum(pixels, _placed(looks[chosen], top, left, side) * shown[:, None, None])
        there[shown, kinds[chosen[shown]]] = 1
        labels = kinds[chosen] if k == 0 else labels
    return pixels[:, None], {f"has {name}": there[:, k] for k, name in enumerate(classes)}, labels, classes


def _scales(sprites: Sprites, generator: torch.Generator) -> Made:
    garment = _unit(sprites.garments)
    quarter, ground, bar = (_draw(values, garment, generator) for values in (4, 3, 2))
    row = _draw(16, garment, generator)
    small = _placed(_shrunk(garment, 8), *_quarter(quarter, 8), 16)
    line = functional.one_hot(row, 16)[:, :, None] * bar[:, None, None]
    pixels = torch.maximum((ground[:, None, None] * 0.2 + small * 0.6), line * 1.0)
    factors = {"garment": sprites.garments.labels, "quarter": quarter, "ground": ground, "bar": bar}
    return pixels[:, None], factors, sprites.garments.labels, sprites.garments.classes


LAYOUTS: dict[str, Callable[[Sprites, torch.Generator], Made]] = {
    "tint": _tint,
    "channels": _channels,
    "objects": _objects,
    "scales": _scales,
}


def _pairs(sprites: Sprites, generator: torch.Generator) -> tuple[Grey, Grey, Factors]:
    """Each garment with a digit that is drawn."""
    chosen = torch.randint(len(sprites.digits), (len(sprites.garments),), generator=generator)
    factors = {"garment": sprites.garments.labels, "digit": sprites.digits.labels[chosen]}
    return _unit(sprites.garments), _unit(sprites.digits)[chosen], factors


def _check_sprites(name: str, images: Images) -> None:
    got = list(images.pixels.shape)
    if not len(images) or got[1:] != [1, SIDE, SIDE] or not (images.labels >= 0).all():
        raise InputError(f"{name}: expected labelled images of shape [images, 1, {SIDE}, {SIDE}], got shape {got}")


def _unit(images: Images) -> Grey:
    return images.pixels[:, 0].float() / 255


def _draw(values: int, like: Tensor, generator: torch.Generator) -> Int64[Tensor, " images"]:
    return torch.randint(values, (len(like),), generator=generator)


def _shrunk(images: Grey, side: int) -> Float[Tensor, "images {side} {side}"]:
    return functional.interpolate(images[:, None], (side, side), mode="bilinear", antialias=True)[:, 0]


def _quarter(number: Int64[Tensor, " images"], side: int) -> tuple[Tensor, Tensor]:
    """Top and left of one of four quarters."""
    return number // 2 * side, number % 2 * side


def _placed(small: Grey, top: Tensor, left: Tensor, side: int) -> Float[Tensor, "images {side} {side}"]:
    """Each image with its upper left corner at its place on a black square."""
    height, width = small.shape[1:]
    row = top[:, None, None] + torch.arange(height)[:, None]
    column = left[:, None, None] + torch.arange(width)
    placed = small.new_zeros(len(small), side * side)
    return placed.scatter_(1, (row * side + column).flatten(1), small.flatten(1)).view(-1, side, side)
