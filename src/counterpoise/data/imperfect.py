"""Imperfections made to order: long tails, wrong and missing labels, shifted test images, classes train never shows.

`make_imperfect` takes specs such as "long-tail=100"; each is also a function on `Images`, which refuses what the spec
refuses. All are deterministic from a seed, and each tells what it did in the images' notes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from counterpoise.data.images import UNLABELLED, Images, Splits, map_pixels
from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number


def make_imperfect(splits: Splits, specs: Sequence[str], seed: int) -> Splits:
    """Apply imperfections in the order given.

    A spec is `NAME=VALUE`, or `SPLIT:NAME=VALUE` with `train` or `test`. By default the domain shifts (rotation, tint,
    blur, noise) fall on test and all others on train; `IMPERFECTIONS` has the names and what their values mean. What
    is drawn depends on the seed, the name and the split alone, so that label-noise=0.4 alters the labels that
    label-noise=0.2 alters, and more.

    Args:
        splits: the data; left as it is.
        specs: the imperfections.
        seed: of everything that is drawn.

    Returns:
        The altered data, of one number of channels, with a note for each imperfection.

    Raises:
        InputError: for an unknown name or split, a missing value or one out of range, a spec given twice, a seed that
            is no whole number, or data that has too few labelled classes for it.

    >>> images = Images(torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.arange(40) % 2, ("cat", "dog"), "pets")
    >>> made = make_imperfect(Splits(images, images), ["long-tail=10"], seed=0)
    >>> made.train.counts().tolist(), made.test.counts().tolist()
    ([20, 2], [20, 20])
    >>> print(made.train.notes[-1])
    train: long tail, ratio 10: 20 → 2 images per class, 22 of 40 images kept
    """
    check_number("seed", seed, whole=True)
    if isinstance(specs, str):
        raise InputError(f"specs: expected a list of specs, got the text '{specs}'")
    seen = set()
    for spec in specs:
        split, name, value = parse_spec(spec)
        if (split, name) in seen:
            raise InputError(f"imperfection '{spec}': {name} is given twice for {split}")
        seen.add((split, name))
        images = getattr(splits, split)
        made, note = IMPERFECTIONS[name].apply(images, value, _generator(seed, split, name))
        splits = splits._replace(**{split: replace(made, notes=(*images.notes, f"{split}: {note}"))})
    channels = max(images.pixels.shape[1] for images in splits)
    return Splits(*(images.with_channels(channels) for images in splits))


def parse_spec(spec: str) -> tuple[str, str, float]:
    """Split, name and value of a spec, checked.

    >>> parse_spec("rotation=30"), parse_spec("train:rotation=30")
    (('test', 'rotation', 30.0), ('train', 'rotation', 30.0))
    """
    if not isinstance(spec, str):
        raise InputError(f"imperfection {spec!r}: expected a text such as 'long-tail=100'")
    given, colon, rest = spec.strip().rpartition(":")
    name, _, text = rest.partition("=")
    if name not in IMPERFECTIONS:
        raise unknown("imperfection", name, IMPERFECTIONS)
    known = IMPERFECTIONS[name]
    split = given if colon else known.splits[0]
    if split not in known.splits:
        raise InputError(f"imperfection '{spec}': {name} applies to {' or '.join(known.splits)}, got '{given}'")
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"imperfection '{spec}': expected {name}=VALUE, VALUE being {known.meaning}") from error
    check_number(f"imperfection '{spec}'", value, at_least=known.at_least, at_most=known.at_most)
    if known.whole and not value.is_integer():
        raise InputError(f"imperfection '{spec}': expected a whole number, got {text}")
    return split, name, value


def long_tail(images: Images, ratio: float, generator: Generator) -> tuple[Images, str]:
    """Exponentially fewer images from the first class to the last, as in CIFAR-LT (Cao et al., LDAM, NeurIPS 2019).

    Class c of C keeps n·ratio^(-c/(C-1)) images, n being the size of the largest class, or all that it has where that
    is fewer. Classes without images are not counted; unlabelled images stay.
    """
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(images, "long-tail", lambda place: ratio**-place, generator)
    return made, f"long tail, ratio {ratio:g}: {note}"


def random_tail(images: Images, ratio: float, generator: Generator) -> tuple[Images, str]:
    """As `long_tail`, but which classes are frequent is drawn: over seeds it is no matter of which class it is."""
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(images, "random-tail", lambda place: ratio**-place, generator, shuffled=True)
    return made, f"long tail over classes in a drawn order, ratio {ratio:g}: {note}"


def linear_tail(images: Images, ratio: float, generator: Generator) -> tuple[Images, str]:
    """As `long_tail`, but the sizes fall linearly, from n images of the first class to n/ratio of the last."""
    check_number("ratio", ratio, at_least=1)
    made, note = _thinned(images, "linear-tail", lambda place: 1 - place * (1 - 1 / ratio), generator)
    return made, f"linear tail, ratio {ratio:g}: {note}"


def fewer(images: Images, share: float, generator: Generator) -> tuple[Images, str]:
    """Every class keeps this share of the largest class's size, or all that it has where that is fewer."""
    check_number("share", share, at_least=0, at_most=1)
    made, note = _thinned(images, "fewer", lambda place: share, generator)
    return made, f"fewer images, {share:.0%}: {note}"


def label_noise(images: Images, share: float, generator: Generator) -> tuple[Images, str]:
    """A share of the labels is replaced by another class, each of those present being as likely."""
    present, ranks, altered = _altered(images, "label-noise", share, generator)
    steps = torch.randint(1, len(present), altered.shape, generator=generator)
    return _relabelled(images, altered, present[(ranks[altered] + steps) % len(present)], "drawn at random")


def asymmetric_label_noise(images: Images, share: float, generator: Generator) -> tuple[Images, str]:
    """A share of the labels is replaced by the next class, and the last by the first."""
    present, ranks, altered = _altered(images, "label-noise-asymmetric", share, generator)
    return _relabelled(images, altered, present[(ranks[altered] + 1) % len(present)], "the next one")


def unlabelled(images: Images, share: float, generator: Generator) -> tuple[Images, str]:
    """A share of the labels is taken away."""
    _present(images, "unlabelled", at_least=1)
    labelled = (images.labels != UNLABELLED).nonzero().flatten()
    hidden = _drawn(labelled, share, generator)
    labels = images.labels.index_fill(0, hidden, UNLABELLED)
    return replace(images, labels=labels), f"{len(hidden):,} of {len(labelled):,} labels taken away"


def unknown_classes(images: Images, count: float, generator: Generator) -> tuple[Images, str]:
    """All images of some classes, which are drawn, are taken away."""
    check_number("count", count, at_least=1)
    if count != int(count):
        raise InputError(f"count: expected a whole number, got {count:g}")
    present = _present(images, "unknown", at_least=int(count) + 1)
    gone = present[torch.randperm(len(present), generator=generator)[: int(count)]].sort().values
    made = images.subset((~torch.isin(images.labels, gone)).nonzero().flatten())
    names = ", ".join(images.classes[label] for label in gone.tolist())
    removed = len(images) - len(made)
    return made, f"{len(gone)} unknown classes ({names}): their {removed:,} images left out, those of test stay"


def rotation(images: Images, degrees: float, generator: Generator) -> tuple[Images, str]:
    """Each image is turned about its centre by an angle drawn from ±degrees; corners become black."""
    check_number("degrees", degrees, at_least=0, at_most=180)
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * degrees
    made = _map_rows(images, rotate, angles)
    return made, f"each of {len(images):,} images turned by an angle within ±{degrees:g}°"


def tint(images: Images, strength: float, generator: Generator) -> tuple[Images, str]:
    """Each image is multiplied by a colour of a drawn hue, at full saturation for strength 1; grey becomes RGB."""
    check_number("strength", strength, at_least=0, at_most=1)
    hues = torch.rand(len(images), generator=generator)
    made = _map_rows(images.with_channels(3), lambda pixels, hue: colour(pixels, hue, strength), hues)
    return made, f"each of {len(images):,} images tinted in a hue of its own, strength {strength:g}"


def blur(images: Images, sigma: float, generator: Generator) -> tuple[Images, str]:
    """Gaussian blur, the same for all; sigma in pixels."""
    from torchvision.transforms.v2.functional import gaussian_blur

    check_number("sigma", sigma, at_least=0, at_most=100)
    radius = min(math.ceil(3 * sigma), min(images.pixels.shape[2:]) - 1)
    if radius > 0 and sigma > NO_BLUR:
        images = map_pixels(images, lambda pixels: gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma] * 2))
    return images, f"blurred, sigma {sigma:g} pixels"


def noise(images: Images, deviation: float, generator: Generator) -> tuple[Images, str]:
    """Gaussian noise on every value; its standard deviation as a share of the full range."""
    check_number("deviation", deviation, at_least=0, at_most=1)
    made = map_pixels(
        images, lambda pixels: _to_bytes(pixels + 255 * deviation * torch.randn(pixels.shape, generator=generator))
    )
    return made, f"Gaussian noise, standard deviation {deviation:g} of the full range"


@dataclass(frozen=True)
class Imperfection:
    """One imperfection: its function, what its value means, the range of that, and its splits, the default first."""

    apply: Callable[[Images, float, Generator], tuple[Images, str]]
    meaning: str
    at_least: float
    at_most: float
    splits: tuple[str, ...] = ("train", "test")
    whole: bool = False


NO_BLUR = 1e-3  # pixels: a Gaussian so narrow changes nothing, and one of 1e-46 is NaN in float32
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
    "unlabelled": Imperfection(unlabelled, "the share of labels taken away, 0 to 1", 0, 1),
    "unknown": Imperfection(
        unknown_classes, "how many classes train never shows, 1 or more", 1, math.inf, splits=("train",), whole=True
    ),
    "rotation": Imperfection(rotation, "the largest angle in degrees, 0 to 180", 0, 180, SHIFTED),
    "tint": Imperfection(tint, "the strength, 0 to 1", 0, 1, SHIFTED),
    "blur": Imperfection(blur, "the blur's sigma in pixels, 0 to 100", 0, 100, SHIFTED),
    "noise": Imperfection(noise, "the standard deviation as a share of the full range, 0 to 1", 0, 1, SHIFTED),
}


def rotate(
    pixels: UInt8[Tensor, "batch channels height width"], degrees: Tensor
) -> UInt8[Tensor, "batch channels height width"]:
    """Each image turned counter-clockwise about its centre by its angle, bilinear, with black corners."""
    height, width = pixels.shape[2:]
    sine, cosine = torch.deg2rad(degrees).sin(), torch.deg2rad(degrees).cos()
    zero = torch.zeros_like(sine)
    # affine_grid works on [-1, 1] in both directions, hence the ratio of the sides.
    affine = torch.stack(
        [torch.stack([cosine, -sine * height / width, zero], 1), torch.stack([sine * width / height, cosine, zero], 1)],
        1,
    )
    grid = torch.nn.functional.affine_grid(affine, list(pixels.shape), align_corners=False)
    return _to_bytes(torch.nn.functional.grid_sample(pixels.float(), grid, align_corners=False))


def colour(
    pixels: UInt8[Tensor, "batch 3 height width"], hue: Tensor, strength: float
) -> UInt8[Tensor, "batch 3 height width"]:
    """Each image multiplied by the colour of its hue in [0, 1): 0 red, 1/3 green, 2/3 blue."""
    distance = (hue[:, None] * 6 - torch.tensor([0.0, 2.0, 4.0]) + 3).remainder(6) - 3
    full = (2 - distance.abs()).clamp(0, 1)
    return _to_bytes(pixels * (1 - strength * (1 - full))[:, :, None, None])


def _thinned(
    images: Images, name: str, share: Callable[[float], float], generator: Generator, shuffled: bool = False
) -> tuple[Images, str]:
    """Each class cut to a share of the largest one's size; its place goes from 0 (first class) to 1 (last)."""
    present = _present(images, name, at_least=2)
    if shuffled:
        present = present[torch.randperm(len(present), generator=generator)]
    largest = int(images.counts().max())
    keep = torch.ones(len(images), dtype=torch.bool)
    kept = []
    for rank, label in enumerate(present.tolist()):
        members = (images.labels == label).nonzero().flatten()
        size = max(1, round(largest * share(rank / (len(present) - 1))))
        keep[members[torch.randperm(len(members), generator=generator)[size:]]] = False
        kept.append(min(size, len(members)))
    made = images.subset(keep.nonzero().flatten())
    return made, f"{kept[0]:,} → {kept[-1]:,} images per class, {len(made):,} of {len(images):,} images kept"


def _map_rows(images: Images, function: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Images:
    """`function` on the pixels and their images' values."""
    rest = values

    def apply(pixels: Tensor) -> Tensor:
        nonlocal rest
        chunk, rest = rest[: len(pixels)], rest[len(pixels) :]
        return function(pixels, chunk)

    return map_pixels(images, apply)


def _to_bytes(values: Tensor) -> UInt8[Tensor, "..."]:
    return values.round().clamp(0, 255).to(torch.uint8)


def _generator(seed: int, split: str, name: str) -> Generator:
    """Draws that no other imperfection's draws change."""
    digest = hashlib.sha256(f"{seed} {split} {name}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _present(images: Images, name: str, at_least: int) -> Tensor:
    """The classes that have labelled images, in order."""
    present = images.counts().nonzero().flatten()
    if len(present) < at_least:
        raise InputError(f"imperfection {name}: needs {at_least} classes with labelled images, got {len(present)}")
    return present


def _drawn(index: Tensor, share: float, generator: Generator) -> Tensor:
    """A share of `index`; a larger share holds the smaller one's draw."""
    check_number("share", share, at_least=0, at_most=1)
    return index[torch.randperm(len(index), generator=generator)[: round(share * len(index))]]


def _altered(images: Images, name: str, share: float, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The classes present, each image's rank among them, and the images whose label is to change."""
    present = _present(images, name, at_least=2)
    labelled = (images.labels != UNLABELLED).nonzero().flatten()
    return present, torch.searchsorted(present, images.labels), _drawn(labelled, share, generator)


def _relabelled(images: Images, altered: Tensor, labels: Tensor, how: str) -> tuple[Images, str]:
    labelled = int((images.labels != UNLABELLED).sum())
    note = f"label noise: {len(altered):,} of {labelled:,} labels replaced by another class, {how}"
    return replace(images, labels=images.labels.index_copy(0, altered, labels)), note
