"""Random views: every step against torchvision's function, the boxes' statistics, and independence of the samples."""

import colorsys

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from counterpoise.data.views import (
    Views,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_resize,
    gaussian_blur,
    luma,
    random_boxes,
    to_float,
    to_input,
)
from counterpoise.errors import InputError
from worlds import seeded

COLOUR = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=seeded(0))
GREY = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8, generator=seeded(1))
UNIT = COLOUR / 255
FACTORS = torch.tensor([0.0, 0.3, 0.8, 1.0, 1.4, 2.0])
PLAIN = {"crop": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grayscale": 0.0}


@pytest.mark.parametrize("images", [COLOUR, GREY])
def test_without_randomness_a_view_is_the_image_bit_for_bit(images):
    view = Views(images.shape[-1], **PLAIN)(images)
    assert torch.equal(view, to_float(images))
    assert torch.equal((view + 1).mul(127.5).round().to(torch.uint8), images)


def test_a_certain_flip_is_torchvisions_bit_for_bit():
    view = Views(32, **(PLAIN | {"flip": 1.0}))(COLOUR)
    assert torch.equal(view, tv.horizontal_flip(to_float(COLOUR)))


@pytest.mark.parametrize("size", [10, 24, 32, 47])
def test_crop_and_resize_is_torchvisions(size):
    """Boxes smaller and larger than the view, thin, of one pixel, and at every border."""
    boxes = torch.tensor(
        [[0, 0, 32, 32], [3, 5, 11, 17], [20, 0, 12, 30], [31, 31, 1, 1], [0, 2, 25, 30], [8, 8, 10, 10]]
    )
    flip = torch.tensor([False, True, False, True, False, True])
    ours = crop_resize(UNIT, boxes.T, flip, size)
    for i, box in enumerate(boxes.tolist()):
        theirs = tv.resized_crop(UNIT[i], *box, [size, size], antialias=True)
        torch.testing.assert_close(ours[i], tv.horizontal_flip(theirs) if flip[i] else theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("images", [UNIT, GREY / 255], ids=["colour", "grey"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(adjust_brightness, tv.adjust_brightness), (adjust_contrast, tv.adjust_contrast)],
)
def test_brightness_and_contrast_are_torchvisions(images, ours, theirs):
    expected = torch.stack([theirs(x, f) for x, f in zip(images, FACTORS.tolist(), strict=True)])
    torch.testing.assert_close(ours(images, FACTORS), expected, atol=1e-5, rtol=0)


def test_saturation_is_torchvisions():
    expected = torch.stack([tv.adjust_saturation(x, f) for x, f in zip(UNIT, FACTORS.tolist(), strict=True)])
    torch.testing.assert_close(adjust_saturation(UNIT, FACTORS), expected, atol=1e-5, rtol=0)


def test_hue_is_torchvisions():
    """Random colours, and the corners and edges of the colour cube, where the hue's formula changes."""
    levels = torch.tensor([0.0, 0.5, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 9, 3).expand(6, -1, -1, -1)
    turns = torch.tensor([-0.5, -0.1, 0.0, 0.07, 1 / 6, 0.5])
    for images in (UNIT, cube):
        expected = torch.stack([tv.adjust_hue(x, t) for x, t in zip(images, turns.tolist(), strict=True)])
        torch.testing.assert_close(adjust_hue(images, turns), expected, atol=1e-5, rtol=0)


def test_luma_is_torchvisions():
    torch.testing.assert_close(luma(UNIT)[:, None], tv.rgb_to_grayscale(UNIT), atol=1e-5, rtol=0)


def test_a_certain_grayscale_is_torchvisions():
    view = Views(32, **(PLAIN | {"grayscale": 1.0}))(COLOUR)
    expected = tv.rgb_to_grayscale(UNIT, num_output_channels=3) * 2 - 1
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [1, 4])
def test_blur_is_torchvisions(radius):
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
    ours = gaussian_blur(UNIT, sigma, radius)
    assert torch.equal(ours[0], UNIT[0])
    for i in range(1, 6):
        theirs = tv.gaussian_blur(UNIT[i], [2 * radius + 1] * 2, [sigma[i].item()] * 2)
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "crop"), [(64, 64, (0.2, 1.0)), (48, 96, (0.5, 1.0))])
def test_boxes_are_distributed_as_torchvisions(height, width, crop):
    """Kolmogorov-Smirnov on area, ratio and position; in the wide image many boxes are the last resort."""
    n, ratio = 3000, (3 / 4, 4 / 3)
    images = torch.empty(n, 1, height, width)
    top, left, h, w = random_boxes(images, crop, ratio, torch.Generator().manual_seed(1)).double()
    torch.manual_seed(2)
    sampler = v2.RandomResizedCrop(8, scale=crop, ratio=ratio)
    drawn = [sampler.make_params([images[0]]) for _ in range(n)]
    theirs = {key: torch.tensor([d[key] for d in drawn]).double() for key in ("top", "left", "height", "width")}
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    samples = [
        (h * w, theirs["height"] * theirs["width"]),
        (w / h, theirs["width"] / theirs["height"]),
    ]
    if height == width:  # the last resort lies anywhere here, in the middle there
        samples += [(top, theirs["top"]), (left, theirs["left"])]
    for ours, other in samples:
        assert ks_2samp(ours.numpy(), other.numpy()).pvalue > 1e-3


def test_an_impossible_ratio_takes_the_largest_box_that_has_it():
    """A crop of the whole area cannot be twice as wide as high in a square: the last resort is 16 x 32."""
    _, _, h, w = random_boxes(UNIT, (1.0, 1.0), (2.0, 2.0))
    assert h.tolist() == [16] * 6
    assert w.tolist() == [32] * 6


def test_each_sample_draws_its_own_parameters():
    """One image 64 times: all views differ; with flips alone about half are mirrored."""
    same = COLOUR[:1].expand(64, -1, -1, -1)
    views = Views(32, blur=0.5)(same, torch.Generator().manual_seed(0))
    assert len(views.flatten(1).unique(dim=0)) == 64
    flipped = Views(32, **(PLAIN | {"flip": 0.5}))(same, torch.Generator().manual_seed(0))
    mirrored = (flipped == tv.horizontal_flip(to_float(same))).flatten(1).all(1)
    assert 16 < mirrored.sum() < 48


def test_probabilities_are_shares_of_the_samples():
    same = COLOUR[:1].expand(2000, -1, -1, -1)[:, :, :8, :8]
    options = PLAIN | {"jitter": 0.4, "jitter_probability": 0.25}
    untouched = to_float(same[:1])
    views = Views(8, **options)(same, torch.Generator().manual_seed(0))
    jittered = (views - untouched).abs().flatten(1).amax(1) > 1e-5
    assert jittered.float().mean().item() == pytest.approx(0.25, abs=0.04)
    views = Views(8, **(PLAIN | {"grayscale": 0.2}))(same, torch.Generator().manual_seed(0))
    grey = (views[:, 0] == views[:, 2]).flatten(1).all(1)
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.04)
    views = Views(8, **(PLAIN | {"blur": 0.3}))(same, torch.Generator().manual_seed(0))
    blurred = (views != untouched).flatten(1).any(1)
    assert blurred.float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_jitter_factors_are_uniform():
    """White at brightness f in [0.6, 1] shows f; a constant image does not feel the contrast."""
    white = torch.full((4000, 1, 2, 2), 255, dtype=torch.uint8)
    options = PLAIN | {"jitter": 0.4, "jitter_probability": 1.0}
    level = (Views(2, **options)(white, torch.Generator().manual_seed(0))[:, 0, 0, 0] + 1) / 2
    quantiles = np.quantile(level.numpy(), [0, 0.125, 0.25, 0.375, 0.5, 1])
    np.testing.assert_allclose(quantiles, [0.6, 0.7, 0.8, 0.9, 1, 1], atol=0.02)


def test_hue_turns_by_up_to_a_quarter_of_the_jitter():
    """On a dull red that no step drives out of [0, 1], brightness, contrast and saturation leave the hue alone."""
    red = torch.tensor([150, 100, 100], dtype=torch.uint8)[None, :, None, None].expand(2000, -1, 2, 2)
    options = PLAIN | {"jitter": 0.2, "jitter_probability": 1.0}
    views = Views(2, **options)(red, torch.Generator().manual_seed(0))
    turns = np.array([colorsys.rgb_to_hsv(*x)[0] for x in ((views[:, :, 0, 0] + 1) / 2).tolist()])
    quantiles = np.quantile((turns + 0.5) % 1 - 0.5, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, [-0.05, -0.025, 0, 0.025, 0.05], atol=0.003)


STEPS = {
    "crop": ({"crop": (0.2, 1.0)}, v2.RandomResizedCrop(32, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), antialias=True)),
    "flip": ({"flip": 0.5}, v2.RandomHorizontalFlip(0.5)),
    "jitter": ({"jitter": 0.4}, v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)),
    "grey": ({"grayscale": 0.2}, v2.RandomGrayscale(0.2)),
    "blur": ({"blur": 0.5}, v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5)),
}


def summaries(views):
    """What the pixels show of crop, flip, jitter, grey and blur, one value a view each."""
    x = views.double()
    half = x.shape[-1] // 2
    means = x.mean((2, 3))
    red, green, blue = means[:, 0], means[:, means.shape[1] // 2], means[:, -1]
    deviation = x.std((1, 2, 3))
    return {
        **{f"mean of channel {c}": channel for c, channel in enumerate(means.T)},
        "deviation": deviation,
        "colour": (x.amax(1) - x.amin(1)).mean((1, 2)),
        "hue": torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue),
        "sharpness": x.diff(dim=-1).abs().mean((1, 2, 3)) / deviation.clamp(min=0.01),
        "right less left": x[..., half:].mean((1, 2, 3)) - x[..., :half].mean((1, 2, 3)),
        "bottom less top": x[..., half:, :].mean((1, 2, 3)) - x[..., :half, :].mean((1, 2, 3)),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "channels"),
    [(("crop", "flip"), 3), (("jitter",), 3), (("grey", "blur"), 3), (tuple(STEPS), 3), (tuple(STEPS), 1)],
    ids=["crop and flip", "jitter", "grey and blur", "all", "all of a grey image"],
)
def test_views_are_distributed_as_torchvisions(steps, channels):
    """Kolmogorov-Smirnov on what 1,500 views of one image show, drawn by us and by torchvision."""
    n, chunk = 1500, 20  # small batches, since a batch shares the order of its jitter's steps
    generator = torch.Generator().manual_seed(1)
    across, down = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="xy")
    tinted = torch.stack([0.6 + 0.3 * across, 0.2 + 0.3 * down, 0.1 + 0.2 * across * down])[:channels]
    image = tinted.add(0.25 * torch.rand(32, 32, generator=generator)).clamp(0, 1).mul(255).to(torch.uint8)
    views = Views(32, **PLAIN | {name: value for step in steps for name, value in STEPS[step][0].items()})
    ours = torch.cat([views(image.expand(chunk, -1, -1, -1), generator) for _ in range(n // chunk)])
    torch.manual_seed(2)
    torchvisions = v2.Compose([STEPS[step][1] for step in steps])
    expected = summaries(torch.stack([torchvisions(image / 255) for _ in range(n)]) * 2 - 1)
    for name, values in summaries(ours).items():
        rounded = [side.mul(1e4).round().numpy() for side in (values, expected[name])]  # ties that rounding parts
        assert ks_2samp(*rounded).pvalue > 1e-3, name


def test_a_batch_draws_the_order_of_its_jitter():
    """Black and white side by side, brightened and less contrasted, still add up to white if the brightness came first,
    since no more light than white is kept; and to more than white if the contrast came first."""
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(40, 1, 2, 2)
    views = Views(2, **(PLAIN | {"jitter": 0.4, "jitter_probability": 1.0}))
    generator = torch.Generator().manual_seed(0)
    contrast_first = 0
    for _ in range(200):
        black, white = ((views(images, generator)[:, 0, 0] + 1) / 2).unbind(1)
        more = (black + white > 1.001).any()
        assert more != ((black > 0) & ((black + white - 1).abs() < 1e-5)).any()
        contrast_first += int(more)
    assert 70 < contrast_first < 130


def test_the_seed_decides():
    views = Views(32, blur=0.5)
    torch.manual_seed(5)
    first = views(COLOUR)
    torch.manual_seed(5)
    assert torch.equal(views(COLOUR), first)
    assert not torch.equal(views(COLOUR), first)


def test_a_generator_of_its_own_leaves_the_global_one_alone():
    views = Views(32, blur=0.5)
    state = torch.get_rng_state()
    first = views(COLOUR, torch.Generator().manual_seed(5))
    assert torch.equal(views(COLOUR, torch.Generator().manual_seed(5)), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("images", [COLOUR, GREY, COLOUR[:1, :, :20]], ids=["colour", "grey", "one, not square"])
@pytest.mark.parametrize("size", [16, 32, 40])
def test_shape_type_and_range(images, size):
    view = Views(size, jitter=2.0, blur=0.5)(images)
    assert view.shape == (len(images), images.shape[1], size, size)
    assert view.dtype == torch.float32
    assert view.min() >= -1
    assert view.max() <= 1


def test_mixed_precision_does_not_round_the_pixels():
    with torch.autocast("cpu", torch.bfloat16):
        mixed = Views(24, blur=0.5)(COLOUR, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, Views(24, blur=0.5)(COLOUR, torch.Generator().manual_seed(0)))


def test_to_float_resizes_as_torchvision():
    expected = tv.resize(UNIT, [20, 20], antialias=True) * 2 - 1
    torch.testing.assert_close(to_float(COLOUR, 20), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("apply", [Views(32), to_float])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (UNIT, "images: expected uint8, got torch.float32"),
        (COLOUR[0], r"images: expected \[batch, 1 or 3 channels, height, width\], got shape \[3, 32, 32\]"),
        (COLOUR[:, :2], r"got shape \[6, 2, 32, 32\]"),
        (COLOUR[:0], r"got shape \[0, 3, 32, 32\]"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_wrong_images_are_refused_by_name(apply, images, message):
    with pytest.raises(InputError, match=message):
        apply(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size: expected a whole number of at least 2, got 1"),
        ({"size": 8.5}, "size: expected a whole number of at least 2, got 8.5"),
        ({"size": "32"}, "size: expected a whole number of at least 2, got '32'"),
        ({"crop": 0.5}, "crop: expected two shares 0 < low <= high <= 1, got 0.5"),
        ({"crop": (0.5,)}, "crop: expected two shares"),
        ({"crop": ("0.2", "1")}, "crop: expected two shares"),
        ({"crop": (float("nan"), 1.0)}, "crop: expected two shares"),
        ({"ratio": 1.0}, "ratio: expected two numbers 0 < low <= high, got 1.0"),
        ({"ratio": (1.0, float("inf"))}, "ratio: expected two numbers"),
        ({"flip": "0.5"}, "flip: expected a number of at least 0 and of at most 1, got '0.5'"),
        ({"crop": (0.0, 1.0)}, r"crop: expected two shares 0 < low <= high <= 1, got \(0.0, 1.0\)"),
        ({"crop": (0.9, 0.5)}, "crop: "),
        ({"crop": (0.5, 1.1)}, "crop: "),
        ({"ratio": (2.0, 1.0)}, "ratio: "),
        ({"jitter": -0.1}, "jitter: expected a number of at least 0 and of at most 2, got -0.1"),
        ({"jitter": 2.1}, "jitter: "),
        ({"flip": 1.5}, "flip: expected a number of at least 0 and of at most 1, got 1.5"),
        ({"jitter_probability": 2.0}, "jitter_probability: "),
        ({"grayscale": float("nan")}, "grayscale: "),
        ({"blur": -1.0}, "blur: "),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        Views(**({"size": 32} | options))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("crop,crop=0.5", "augmentations: crop is given twice in 'crop,crop=0.5'"),
        ("crop=nan", "crop: expected two shares 0 < low <= high <= 1"),
        ("crop=1e400", "crop: expected two shares"),
        ("crop=0", "crop: expected two shares"),
        ("crop= ", "augmentations: expected a number for crop, got ''"),
        ("flip=0.5=2", "augmentations: expected a number for flip, got '0.5=2'"),
        ("jitter=-1", "jitter: expected a number of at least 0 and of at most 2, got -1"),
        ("blur=nan", "blur: expected a number of at least 0 and of at most 1, got nan"),
        ("", "step of the views '' is not known"),
        (3, "augmentations: expected a text such as 'crop=0.6,blur', got 3"),
        (["crop"], "augmentations: expected a text"),
    ],
)
def test_wrong_steps_are_refused_by_name(steps, message):
    with pytest.raises(InputError, match=message):
        Views.of(32, steps)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("size", [0, -1, 2.5, float("nan"), "8", True])
def test_to_float_refuses_what_is_no_size(size):
    with pytest.raises(InputError, match="size: expected a whole number of at least 1, got "):
        to_float(COLOUR, size)


TWO = UNIT[:2]
WHOLE = torch.tensor([[0, 0], [0, 0], [32, 32], [32, 32]])


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_boxes(TWO, (float("nan"), 1.0), (1.0, 1.0)), "crop: expected two shares"),
        (lambda: random_boxes(TWO, (1.0, 0.2), (1.0, 1.0)), "crop: expected two shares"),
        (lambda: random_boxes(TWO, (0.2, 1.0), (0.0, 1.0)), "ratio: expected two numbers"),
        (
            lambda: crop_resize(TWO, WHOLE, torch.tensor([False, True]), 0),
            "size: expected a whole number of at least 1",
        ),
        (lambda: crop_resize(TWO, WHOLE, torch.tensor([False, True]), 2.5), "size: expected a whole number"),
        (
            lambda: crop_resize(TWO, WHOLE + 1, torch.tensor([False, True]), 8),
            r"box: expected top, left, height and width inside of 32 x 32, got \[1, 1, 33, 33\]",
        ),
        (lambda: crop_resize(TWO, 0 * WHOLE, torch.tensor([False, True]), 8), r"box: .*, got \[0, 0, 0, 0\]"),
        (
            lambda: adjust_brightness(TWO, torch.tensor([1.0, -1.0])),
            "factor: expected finite numbers of at least 0, got",
        ),
        (lambda: adjust_contrast(TWO, torch.tensor([1.0, torch.nan])), "factor: expected finite numbers .*, got nan"),
        (lambda: adjust_saturation(TWO, torch.tensor([torch.inf, 1.0])), "factor: expected finite numbers .*, got inf"),
        (lambda: adjust_hue(TWO, torch.tensor([0.0, torch.nan])), "turn: expected finite numbers, got nan"),
        (
            lambda: gaussian_blur(TWO, torch.tensor([1.0, -1.0]), 2),
            "sigma: expected finite numbers of at least 0, got -1",
        ),
        (lambda: gaussian_blur(TWO, torch.ones(2), 32), "radius: expected a whole number .* of at most 31, got 32"),
        (lambda: gaussian_blur(TWO, torch.ones(2), -1), "radius: expected a whole number of at least 0"),
        (lambda: gaussian_blur(TWO, torch.ones(2), 1.5), "radius: expected a whole number of at least 0"),
        (
            lambda: adjust_contrast(1e30 * TWO, torch.full((2,), 1e30)),
            r"x: expected pixels from 0 to 1, got .*e\+",
        ),
        (lambda: adjust_saturation(TWO * torch.nan, torch.ones(2)), "x: expected pixels from 0 to 1, got nan"),
        (lambda: adjust_brightness(TWO - 1, torch.ones(2)), "x: expected pixels from 0 to 1, got -"),
        (
            lambda: adjust_hue((255 * TWO).byte(), torch.ones(2)),
            "x: expected floating-point numbers .* got torch.uint8",
        ),
        (lambda: gaussian_blur((255 * TWO).byte(), torch.ones(2), 2), "x: expected floating-point numbers"),
        (lambda: gaussian_blur(TWO * torch.inf, torch.ones(2), 2), "x: expected finite numbers, got nan"),
        (
            lambda: adjust_brightness(TWO, torch.ones(1)),
            r"factor: expected one number for each of 2 images, got .* \[1\]",
        ),
        (
            lambda: adjust_hue(TWO[0], torch.ones(2)),
            r"x: expected floating-point numbers \[batch, channels, .* \[3, 32, 32\]",
        ),
        (
            lambda: crop_resize(TWO, WHOLE.float(), torch.tensor([False, True]), 8),
            r"box: expected integers of shape \[4, 2\]",
        ),
        (
            lambda: crop_resize(TWO, WHOLE, torch.tensor([False]), 8),
            "flip: expected one of true and false for each of 2",
        ),
        (lambda: random_boxes(TWO[0], (0.2, 1.0), (1.0, 1.0)), r"x: expected \[batch, channels, height, width\]"),
        (lambda: luma(TWO[:, :2]), "x: expected 1 or 3 channels, got 2"),
    ],
)
def test_steps_refuse_numbers_that_would_give_nan(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_bytes_become_pixels_and_numbers_stay():
    assert to_input(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).flatten().tolist() == [-1, 1]
    rows = torch.tensor([[0.0, 7.0]])
    assert to_input(rows) is rows
