"""Random views of images: a whole batch at a time, on the device of its input, with parameters drawn for each sample.

A view is a random crop resized to a square, a flip, a colour jitter, a grey copy and a blur, as in Chen, Kornblith,
Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709,
appendix A. Every step computes what torchvision's function of that name computes.

Images come in as uint8 and go out in [-1, 1], as float32 or another default dtype of torch: 0 becomes -1 and 255
becomes 1. In between, the steps work on [0, 1].
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from counterpoise.errors import InputError, unknown
from counterpoise.ops.checks import check_number
from counterpoise.ops.similarity import at_least_float32

ROUNDING = 1e-3  # by which a resized image may leave [0, 1]
CROP_TRIES = 10  # as torchvision's RandomResizedCrop: then the largest box in the middle ratio is taken
STEPS = {"crop": 0.2, "flip": 0.5, "jitter": 0.4, "grayscale": 0.2, "blur": 0.5}
MILD_CROP = 0.8  # least share of the area that a mild view keeps
SIGMA = (0.1, 2.0)  # of the blur, in pixels of the view, as in SimCLR


def to_float(
    images: UInt8[Tensor, "batch channels height width"], size: int | None = None
) -> Float[Tensor, "batch channels height_out width_out"]:
    """The same values that `Views` gives, without its randomness: for evaluation.

    Args:
        images: uint8, 1 or 3 channels.
        size: resize the whole image to `size` x `size` (bilinear, antialiased); None keeps it as it is.

    Returns:
        float32 in [-1, 1].

    Raises:
        InputError: for another dtype, shape or size.

    Examples:
        >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)).flatten().tolist()
        [-1.0, -0.6000000238418579, 1.0]
    """
    _check_images(images)
    unit = images.to(torch.get_default_dtype()).div_(255)
    if size is not None:
        check_number("size", size, at_least=1, whole=True)
        unit = functional.interpolate(unit, (size, size), mode="bilinear", antialias=True)
    return _centre(unit)


def to_input(items: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
    """What a network gets of a batch without randomness: images by `to_float`, rows of numbers as they are.

    Args:
        items: uint8 images, or floating-point rows.

    Examples:
        >>> to_input(torch.tensor([[0.5, 300.0]]))
        tensor([[  0.5000, 300.0000]])
    """
    return to_float(items) if items.dtype == torch.uint8 else items


class Views(nn.Module):
    """One random view of every image: `views(images)`; call it twice for two views.

    The defaults suit images of 28 to 32 pixels. Images of one channel skip saturation, hue and grey.
    The steps of the colour jitter come in a random order, one order for the batch.

    Args:
        size: side of the views in pixels.
        crop: smallest and largest share of the image's area that a crop keeps.
        ratio: smallest and largest width / height of a crop; drawn uniformly in its logarithm.
        flip: probability of a mirror image (left to right).
        jitter: brightness, contrast and saturation change by a factor in [1 - jitter, 1 + jitter] (not below 0), the
            hue turns by up to jitter / 4 of a full turn.
        jitter_probability: share of samples that are jittered at all.
        grayscale: probability that a colour image loses its colours.
        blur: probability of a Gaussian blur with a standard deviation between 0.1 and 2 pixels, cut off at a twentieth
            of the size to each side.

    Raises:
        InputError: for a value outside its range.

    Examples:
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> views = Views(32)
        >>> z1, z2 = views(images), views(images)
        >>> z1.shape, z1.dtype, torch.equal(z1, z2)
        (torch.Size([8, 3, 32, 32]), torch.float32, False)
    """

    def __init__(
        self,
        size: int,
        *,
        crop: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter: float = 0.4,
        jitter_probability: float = 0.8,
        grayscale: float = 0.2,
        blur: float = 0.0,
    ):
        super().__init__()
        check_number("size", size, at_least=2, whole=True)
        _check_spans(crop, ratio)
        check_number("jitter", jitter, at_least=0, at_most=2)
        check_number("flip", flip, at_least=0, at_most=1)
        check_number("jitter_probability", jitter_probability, at_least=0, at_most=1)
        check_number("grayscale", grayscale, at_least=0, at_most=1)
        check_number("blur", blur, at_least=0, at_most=1)
        self.size = size
        self.crop = crop
        self.ratio = ratio
        self.flip = flip
        self.jitter = jitter
        self.jitter_probability = jitter_probability
        self.grayscale = grayscale
        self.blur = blur

    @classmethod
    def of(cls, size: int, steps: str) -> Views:
        """Views of the named steps alone: any of crop, flip, jitter, grayscale and blur, each with a value if need be.

        Args:
            size: side of the views in pixels.
            steps: separated by commas. The value of a crop is the smallest share of the area that it keeps, that of
                jitter its strength, that of the others a probability.

        Raises:
            InputError: for an unknown step, one that is there twice, or a value that is not a number in its range.

        Examples:
            >>> views = Views.of(32, "crop=0.6,blur")
            >>> views.crop, views.blur, views.flip, views.jitter
            ((0.6, 1.0), 0.5, 0.0, 0.0)
        """
        if not isinstance(steps, str):
            raise InputError(f"augmentations: expected a text such as 'crop=0.6,blur', got {steps!r}")
        chosen: dict[str, float] = {}
        for step in steps.split(","):
            name, equals, text = step.strip().partition("=")
            if name not in STEPS:
                raise unknown("step of the views", name, STEPS)
            if name in chosen:
                raise InputError(f"augmentations: {name} is given twice in '{steps}'")
            try:
                chosen[name] = float(text) if equals else STEPS[name]
            except ValueError as error:
                raise InputError(f"augmentations: expected a number for {name}, got '{text}'") from error
        crop = (chosen.pop("crop", 1.0), 1.0)
        ratio = (3 / 4, 4 / 3) if crop[0] < 1 else (1.0, 1.0)
        return cls(size, crop=crop, ratio=ratio, **{name: chosen.get(name, 0.0) for name in STEPS if name != "crop"})

    def mild(self) -> Views:
        """Views that keep what an image shows: a crop of at least 0.8 of its area, and a flip if these have one.

        Examples:
            >>> views = Views(32).mild()
            >>> views.crop, views.flip, views.jitter
            ((0.8, 1.0), 0.5, 0.0)
        """
        return Views(self.size, crop=(MILD_CROP, 1.0), flip=self.flip, jitter=0.0, grayscale=0.0)

    def forward(
        self, images: UInt8[Tensor, "batch channels height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channels {self.size} {self.size}"]:
        """Draw one view of each image.

        Args:
            images: uint8, 1 or 3 channels, on any device.
            generator: on the images' device; None draws from the global one of that device.

        Returns:
            float32 in [-1, 1] on the images' device.

        Raises:
            InputError: for another dtype or shape.
        """
        _check_images(images)
        # Mixed precision would round the pixels.
        with torch.autocast(images.device.type, enabled=False):
            x = self._crop(images.to(torch.get_default_dtype()).div_(255), generator)
            if self.jitter > 0 and self.jitter_probability > 0:
                x = self._jitter(x, generator)
            if self.grayscale > 0 and x.shape[1] == 3:
                chosen = _happens(self.grayscale, x, generator)
                x = torch.where(chosen[:, None, None, None], luma(x)[:, None], x)
            if self.blur > 0:
                sigma = _uniform(x, len(x), *SIGMA, generator)
                sigma = torch.where(_happens(self.blur, x, generator), sigma, 0)
                x = gaussian_blur(x, sigma, radius=max(1, self.size // 20))
            return _centre(x)

    def _crop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        box = random_boxes(x, self.crop, self.ratio, generator)
        return crop_resize(x, box, _happens(self.flip, x, generator), self.size)

    def _jitter(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        chosen = _happens(self.jitter_probability, x, generator)
        # Each step with the amount that changes nothing, the least and the most.
        low, high = max(0.0, 1 - self.jitter), 1 + self.jitter
        steps: list[tuple[Callable[[Tensor, Tensor], Tensor], float, float, float]] = [
            (adjust_brightness, 1, low, high),
            (adjust_contrast, 1, low, high),
        ]
        if x.shape[1] == 3:
            steps += [(adjust_saturation, 1, low, high), (adjust_hue, 0, -self.jitter / 4, self.jitter / 4)]
        for i in torch.randperm(len(steps), device=x.device, generator=generator).tolist():
            adjust, nothing, least, most = steps[i]
            amount = _uniform(x, len(x), least, most, generator)
            x = adjust(x, torch.where(chosen, amount, nothing))
        return x


def random_boxes(
    x: Float[Tensor, "batch channels height width"],
    crop: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Int[Tensor, "4 batch"]:
    """A random box for each image, as torchvision's RandomResizedCrop draws it; the last resort lies anywhere too.

    Args:
        x: the images; only their number, shape and device matter.
        crop: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        generator: where the numbers come from; None is the device's global one.

    Returns:
        top, left, height and width in whole pixels; every box lies inside its image.

    Raises:
        InputError: for shares or ratios out of range.
    """
    _check_spans(crop, ratio)
    if x.ndim != 4:
        raise InputError(f"x: expected [batch, channels, height, width], got shape {list(x.shape)}")
    batch, _, height, width = x.shape
    tries = (CROP_TRIES, batch)
    area = height * width * _uniform(x, tries, *crop, generator)
    shape = _uniform(x, tries, math.log(ratio[0]), math.log(ratio[1]), generator).exp_()
    # The last resort, where no try fits: as much of the image as the ratio allows.
    last_height = x.new_full((1, batch), min(height, width / ratio[0]))
    last_width = x.new_full((1, batch), min(width, height * ratio[1]))
    h = torch.cat([(area / shape).sqrt_(), last_height]).round_().long()
    w = torch.cat([(area * shape).sqrt_(), last_width]).round_().long()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    fits[-1] = True
    first = fits.int().argmax(0, keepdim=True)
    h = h.gather(0, first)[0].clamp_(min=1)
    w = w.gather(0, first)[0].clamp_(min=1)
    top = (_uniform(x, batch, 0, 1, generator) * (height - h + 1)).long()
    left = (_uniform(x, batch, 0, 1, generator) * (width - w + 1)).long()
    return torch.stack([top, left, h, w])


def crop_resize(
    x: Float[Tensor, "batch channels height width"],
    box: Int[Tensor, "4 batch"],
    flip: Bool[Tensor, " batch"],
    size: int,
) -> Float[Tensor, "batch channels {size} {size}"]:
    """Cut one box out of each image and resize it (bilinear, antialiased) to `size` x `size`, some mirrored.

    Bilinear resizing is linear and separable: two products with small matrices, faster than sampling on a grid, and the
    antialiasing follows each box's own scale. A box of size x size pixels is returned bit for bit.

    Args:
        x: images of any range.
        box: top, left, height and width of each box in pixels.
        flip: True for a mirror image.
        size: side of the result.

    Returns:
        The resized boxes.

    Raises:
        InputError: for integers, another shape, a size below 1, or on the CPU NaN, infinity or a box that is empty or
            not inside its image.
    """
    _check_pixels(x)
    check_number("size", size, at_least=1, whole=True)
    top, left, height, width = _checked_boxes(box, x)
    if flip.shape != x.shape[:1]:
        raise InputError(f"flip: expected one of true and false for each of {len(x)} images, got {list(flip.shape)}")
    wide = at_least_float32(x)
    rows = _resampling(top.to(wide), height.to(wide), torch.zeros_like(flip), x.shape[2], size)
    columns = _resampling(left.to(wide), width.to(wide), flip, x.shape[3], size)
    return _separable(wide, rows, columns).to(x.dtype)


def adjust_brightness(
    x: Float[Tensor, "batch channels height width"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Multiply each image in [0, 1] by its factor >= 0, cut off at 1."""
    _check_unit(x)
    _check_amounts("factor", factor, x, at_least=0)
    return x.mul(factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(
    x: Float[Tensor, "batch channels height width"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Move each pixel in [0, 1] away from the image's mean luma, by a factor >= 0 (0: all grey, 1: as it was)."""
    _check_unit(x)
    _check_amounts("factor", factor, x, at_least=0)
    mean = luma(x).mean((1, 2))
    return x.mul(factor[:, None, None, None]).add_(((1 - factor) * mean)[:, None, None, None]).clamp_(0, 1)


def adjust_saturation(
    x: Float[Tensor, "batch 3 height width"], factor: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 height width"]:
    """Move each pixel in [0, 1] away from its luma, by a factor >= 0 (0: grey, 1: as it was)."""
    _check_unit(x)
    _check_amounts("factor", factor, x, at_least=0)
    grey = luma(x).mul_(1 - factor[:, None, None])
    return x.mul(factor[:, None, None, None]).add_(grey[:, None]).clamp_(0, 1)


def adjust_hue(
    x: Float[Tensor, "batch 3 height width"], turn: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 height width"]:
    """Turn the hue of each image in [0, 1] by a share of a full turn, in HSV (hexagonal) coordinates."""
    _check_unit(x)
    _check_amounts("turn", turn, x)
    wide = at_least_float32(x)
    red, green, blue = wide.unbind(1)
    value = wide.amax(1)
    chroma = value - wide.amin(1)
    # Chosen by weights of 0 and 1, where lerp is exact: `where` is many times slower on masks as ragged as these.
    not_red, not_green = (value - red).sign_(), (value - green).sign_()
    green_or_blue = torch.lerp((2 * chroma).add_(blue).sub_(red), (4 * chroma).add_(red).sub_(green), not_green)
    hue = torch.lerp(green - blue, green_or_blue, not_red)
    hue = hue.div_(chroma.clamp(min=1e-12).mul_(6)).add_(turn.to(wide).remainder(1)[:, None, None])
    # A channel falls short of the value by a share of the chroma: min(k, 4 - k) = 2 - |k - 2|, cut to [0, 1], where k
    # counts sixths of a turn.
    k = (hue[:, None] + wide.new_tensor([5, 3, 1]).div_(6)[:, None, None]).frac_().mul_(6)
    share = k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return share.mul_(-chroma[:, None]).add_(value[:, None]).to(x.dtype)


def luma(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width"]:
    """Return the brightness of each pixel as the eye weighs red, green and blue (ITU-R BT.601)."""
    _check_pixels(x)
    if x.shape[1] == 1:
        return x[:, 0].clone()
    if x.shape[1] != 3:
        raise InputError(f"x: expected 1 or 3 channels, got {x.shape[1]}")
    red, green, blue = x.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def gaussian_blur(
    x: Float[Tensor, "batch channels height width"], sigma: Float[Tensor, " batch"], radius: int
) -> Float[Tensor, "batch channels height width"]:
    """Blur each image by a Gaussian of its own standard deviation in pixels; 0 leaves it bit for bit.

    Args:
        x: images of any range, more than `radius` pixels wide and high; the borders are mirrored.
        sigma: standard deviation of each image's Gaussian, at least 0.
        radius: the Gaussian is cut off after so many pixels to each side.

    Returns:
        The blurred images.

    Raises:
        InputError: for integers, another shape, a radius that is no whole number below the image's sides, or on the
            CPU a sigma below 0, NaN or infinity.
    """
    _check_pixels(x)
    check_number("radius", radius, at_least=0, at_most=min(x.shape[2:]) - 1, whole=True)
    _check_amounts("sigma", sigma, x, at_least=0)
    offset = torch.arange(-radius, radius + 1, device=x.device)
    # The tiny floor makes sigma = 0 a single 1 in the middle.
    wide = at_least_float32(x)
    taps = torch.exp(-0.5 * (offset / sigma.to(wide)[:, None].clamp(min=1e-6)).square())
    taps = taps / taps.sum(1, keepdim=True)
    return _separable(wide, _mirrored_band(taps, x.shape[2]), _mirrored_band(taps, x.shape[3])).to(x.dtype)


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows [B I H] times every channel of x [B C H W] times columns [B J W] transposed: [B C I J]."""
    return torch.einsum("bih,bchw,bjw->bcij", rows, x, columns)


def _resampling(start: Tensor, length: Tensor, reverse: Tensor, pixels: int, size: int) -> Tensor:
    """The matrix [B size pixels] that resamples `length` of the `pixels`, from `start` on, to `size`.

    Each row is a triangle around the output pixel's centre, as wide to each side as one input or one output pixel,
    whichever is wider (antialiasing); only pixels inside the box count.
    """
    output = torch.arange(size, device=start.device)
    output = torch.where(reverse[:, None], output.flip(0), output)[..., None]
    start, length = start[:, None, None], length[:, None, None]
    scale = length / size
    centre = start + (output + 0.5) * scale
    pixel = torch.arange(pixels, device=start.device)
    weights = (pixel + 0.5 - centre).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights *= (pixel >= start) & (pixel < start + length)
    return weights.div_(weights.sum(2, keepdim=True))


def _mirrored_band(taps: Tensor, pixels: int) -> Tensor:
    """The matrix [B pixels pixels] that convolves with taps [B 2r+1]; pixels beyond the border mirror those inside."""
    radius = taps.shape[1] // 2
    pixel = torch.arange(pixels, device=taps.device)
    source = (pixel + torch.arange(-radius, radius + 1, device=taps.device)[:, None]).abs()
    source = torch.minimum(source, 2 * (pixels - 1) - source)
    hits = functional.one_hot(source, pixels).to(taps.dtype)
    return torch.einsum("bk,kij->bij", taps, hits)


def _uniform(
    like: Tensor, shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator | None
) -> Tensor:
    return like.new_empty(shape).uniform_(low, high, generator=generator)


def _happens(probability: float, x: Tensor, generator: torch.Generator | None) -> Tensor:
    return _uniform(x, len(x), 0, 1, generator) < probability


def _centre(unit: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1]; rounding in the resampling may leave [0, 1] by a hair."""
    return unit.clamp_(0, 1).mul_(2).sub_(1)


def _check_spans(crop: tuple[float, float], ratio: tuple[float, float]) -> None:
    for name, span, most, expected in (
        ("crop", crop, 1.0, "two shares 0 < low <= high <= 1"),
        ("ratio", ratio, sys.float_info.max, "two numbers 0 < low <= high"),
    ):
        numbers = list(span) if isinstance(span, Sequence) else []
        fits = len(numbers) == 2 and all(isinstance(x, Real) for x in numbers)
        if not fits or not 0 < numbers[0] <= numbers[1] <= most:
            raise InputError(f"{name}: expected {expected}, got {span}")


def _check_unit(x: Tensor) -> None:
    """Refuse pixels that are not in [0, 1], which give NaN beside large factors; see `_check_pixels`."""
    _check_pixels(x, -ROUNDING, 1 + ROUNDING)


def _check_pixels(x: Tensor, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> None:
    """Refuse what is no batch of float images, NaN, infinity, and what is less or more.

    Values are looked at on the CPU alone, here and below, since this would have to wait for another device.
    """
    if x.ndim != 4 or not x.is_floating_point():
        expected = "floating-point numbers [batch, channels, height, width]"
        raise InputError(f"x: expected {expected}, got {x.dtype} of shape {list(x.shape)}")
    if x.device.type == "cpu" and x.numel():
        for extreme in map(float, x.detach().aminmax()):
            if not low <= extreme <= high:
                expected = "finite numbers" if high > 2 else "pixels from 0 to 1"
                raise InputError(f"x: expected {expected}, got {extreme:g}")


def _check_amounts(name: str, amounts: Tensor, x: Tensor, at_least: float = -math.inf) -> None:
    """Refuse what is not one number for each image, NaN, infinity, and what is less."""
    if amounts.shape != x.shape[:1]:
        raise InputError(f"{name}: expected one number for each of {len(x)} images, got shape {list(amounts.shape)}")
    if x.device.type == "cpu" and not (right := (amounts >= at_least) & amounts.isfinite()).all():
        bounds = f" of at least {at_least:g}" if at_least > -math.inf else ""
        raise InputError(f"{name}: expected finite numbers{bounds}, got {float(amounts[~right][0]):g}")


def _checked_boxes(box: Tensor, x: Tensor) -> Int64[Tensor, "4 batch"]:
    """The boxes, unless they are empty or not inside their image."""
    if box.shape != (4, len(x)) or box.is_floating_point() or box.dtype == torch.bool:
        got = f"{box.dtype} of shape {list(box.shape)}"
        raise InputError(f"box: expected integers of shape [4, {len(x)}], got {got}")
    box = box.long()
    if box.device.type != "cpu":
        return box
    height, width = x.shape[2:]
    start, length, sides = box[:2], box[2:], torch.tensor([[height], [width]])
    right = ((start >= 0) & (length > 0) & (start + length <= sides)).all(0)
    if not right.all():
        wrong = box[:, ~right][:, 0].tolist()
        raise InputError(f"box: expected top, left, height and width inside of {height} x {width}, got {wrong}")
    return box


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise InputError(f"images: expected uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"images: expected [batch, 1 or 3 channels, height, width], got shape {list(images.shape)}")
