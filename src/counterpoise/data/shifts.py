"""Shifts of the domain: images turned, tinted, blurred, noisy; those of a split, or of each client in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from counterpoise.data.draws import value_names
from counterpoise.data.images import map_pixels
from counterpoise.data.parts import AnyPair, AnyPictures, Pair, paired
from counterpoise.errors import InputError
from counterpoise.ops.checks import check_number

NO_BLUR = 1e-3  # pixels: a Gaussian so narrow changes nothing, and one of 1e-46 is NaN in float32


def rotation(images: AnyPictures, degrees: float, generator: Generator) -> tuple[AnyPictures, str]:
    """Each image is turned about its centre by an angle drawn from ±degrees; corners become black."""
    check_number("degrees", degrees, at_least=0, at_most=180)
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * degrees
    made = _map_rows(images, rotate, angles)
    return made, f"each of {len(images):,} images turned by an angle within ±{degrees:g}°"


def tint(images: AnyPictures, strength: float, generator: Generator) -> tuple[AnyPictures, str]:
    """Each image is multiplied by a colour of a drawn hue, at full saturation for strength 1; grey becomes RGB."""
    check_number("strength", strength, at_least=0, at_most=1)
    hues = torch.rand(len(images), generator=generator)
    made = _map_rows(images.with_channels(3), lambda pixels, hue: colour(pixels, hue, strength), hues)
    return made, f"each of {len(images):,} images tinted in a hue of its own, strength {strength:g}"


def blur(images: AnyPictures, sigma: float, generator: Generator) -> tuple[AnyPictures, str]:
    """Gaussian blur, the same for all; sigma in pixels."""
    from torchvision.transforms.v2.functional import gaussian_blur

    check_number("sigma", sigma, at_least=0, at_most=100)
    radius = min(math.ceil(3 * sigma), min(images.pixels.shape[2:]) - 1)
    if radius > 0 and sigma > NO_BLUR:
        images = map_pixels(images, lambda pixels: gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma] * 2))
    return images, f"blurred, sigma {sigma:g} pixels"


def noise(images: AnyPictures, deviation: float, generator: Generator) -> tuple[AnyPictures, str]:
    """Gaussian noise on every value; its standard deviation as a share of the full range."""
    check_number("deviation", deviation, at_least=0, at_most=1)
    made = map_pixels(
        images, lambda pixels: _to_bytes(pixels + 255 * deviation * torch.randn(pixels.shape, generator=generator))
    )
    return made, f"Gaussian noise, standard deviation {deviation:g} of the full range"


def client_tint(splits: AnyPair, strength: float, generator: Generator) -> tuple[AnyPair, str]:
    """The images of each client (factor "client") in a hue of its own, in train and test alike; hues lie evenly apart.

    Grey becomes RGB, and images without a client keep their colours.
    """
    check_number("strength", strength, at_least=0, at_most=1)
    count = _clients(splits, "client-tint")
    turn = torch.rand(1, generator=generator)
    hues = ((torch.randperm(count, generator=generator) + turn) / count).remainder(1)

    def tinted(pixels: Tensor, client: Tensor) -> Tensor:
        made = colour(pixels, hues[client], strength)  # -1 is the last, and is left as it was
        return made.where(client[:, None, None, None] >= 0, pixels)

    made = paired(splits, (_map_rows(x.with_channels(3), tinted, x.factors["client"]) for x in splits))
    return made, f"images of {count} clients tinted, each client in a hue of its own, strength {strength:g}"


def client_noise(splits: AnyPair, deviation: float, generator: Generator) -> tuple[AnyPair, str]:
    """Gaussian noise on the images of each client (factor "client"), in train and test alike, of unlike strength.

    Of n clients, in an order that is drawn, the i-th has i/n of the deviation, from 1/n to all of it, after Li et al.,
    Federated Learning on Non-IID Data Silos (ICDE 2022), where the variance rises so.
    """
    check_number("deviation", deviation, at_least=0, at_most=1)
    count = _clients(splits, "client-noise")
    each = 255 * deviation * (torch.randperm(count, generator=generator) + 1) / count

    def noisy(pixels: Tensor, client: Tensor) -> Tensor:
        scale = each[client] * (client >= 0)  # -1 is the last, and gets none
        return _to_bytes(pixels + scale[:, None, None, None] * torch.randn(pixels.shape, generator=generator))

    made = paired(splits, (_map_rows(images, noisy, images.factors["client"]) for images in splits))
    return (
        made,
        f"Gaussian noise on the images of {count} clients, of {deviation / count:g} to {deviation:g} of the range",
    )


def _clients(splits: Pair, spec: str) -> int:
    """How many clients there are.

    Raises:
        InputError: naming the imperfection, where there are none.
    """
    if not all("client" in images.factors for images in splits):
        raise InputError(
            f"imperfection {spec}: expected clients; add clients=N, or take a table with a column 'client'"
        )
    return len(value_names(splits, "client"))


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


def _map_rows(images: AnyPictures, function: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> AnyPictures:
    """`function` on the pixels and their images' values."""
    rest = values

    def apply(pixels: Tensor) -> Tensor:
        nonlocal rest
        chunk, rest = rest[: len(pixels)], rest[len(pixels) :]
        return function(pixels, chunk)

    return map_pixels(images, apply)


def _to_bytes(values: Tensor) -> UInt8[Tensor, "..."]:
    return values.round().clamp(0, 255).to(torch.uint8)
