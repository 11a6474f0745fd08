"""Changes of pixels: beside torchvision, SciPy and colorsys, and by client."""

import pytest
import scipy.ndimage
import torch
from torchvision.transforms.v2 import functional

from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import (
    make_imperfect,
)
from counterpoise.data.shifts import colour, rotate
from worlds import seeded

CLASSES = tuple("abcdefg")


def part(count: int, channels: int = 1) -> Images:
    pixels = torch.randint(0, 256, (count, channels, 9, 9), generator=seeded(count), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 5, CLASSES, "toy")


def grey_part(count: int) -> Images:
    return Images(torch.full((count, 1, 4, 4), 200, dtype=torch.uint8), torch.arange(count) % 7, CLASSES, "toy")


SPLITS = Splits(part(1000), part(200))
OF_CLIENTS = Splits(grey_part(1400), grey_part(280))


@pytest.mark.parametrize("degrees", [-70.0, 30.0, 90.0, 180.0])
@pytest.mark.parametrize("shape", [(9, 9), (8, 14)])
def test_rotation_agrees_with_torchvision(degrees, shape, rng):
    pixels = torch.randint(0, 256, (3, 3, *shape), generator=rng, dtype=torch.uint8)
    expected = functional.rotate(pixels, degrees, functional.InterpolationMode.BILINEAR)
    difference = rotate(pixels, torch.full((3,), degrees)).int() - expected.int()
    assert difference.abs().max() <= 1


def test_rotation_by_a_right_angle_is_exact():
    pixels = part(3).pixels
    assert torch.equal(rotate(pixels, torch.tensor([0.0, 90.0, 180.0]))[1], pixels[1].rot90(1, (1, 2)))


def test_tint_colours():
    white = torch.full((4, 3, 1, 1), 200, dtype=torch.uint8)
    hues = torch.tensor([0.0, 1 / 3, 2 / 3, 1 / 6])
    assert colour(white, hues, 1.0).flatten(1).tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]
    assert colour(white, hues, 0.5)[0].flatten().tolist() == [200, 100, 100]


def test_tint_colours_agree_with_colorsys(rng):
    import colorsys

    hues = torch.rand(20, generator=rng)
    made = colour(torch.full((20, 3, 1, 1), 255, dtype=torch.uint8), hues, 1.0).flatten(1)
    expected = torch.tensor([colorsys.hsv_to_rgb(hue, 1, 255) for hue in hues.tolist()])
    assert (made - expected).abs().max() <= 0.51


def test_tint_makes_both_splits_rgb():
    made = make_imperfect(SPLITS, ["tint=0.5"], 0)
    assert made.train.pixels.shape[1] == made.test.pixels.shape[1] == 3
    assert (made.train.pixels[:, 0] == made.train.pixels[:, 2]).all()
    assert not (made.test.pixels[:, 0] == made.test.pixels[:, 2]).all()


def test_blur_agrees_with_scipy():
    made = make_imperfect(SPLITS, ["blur=1"], 0).test.pixels[:20, 0]
    for image, blurred in zip(SPLITS.test.pixels[:20, 0].double().numpy(), made, strict=False):
        expected = torch.from_numpy(scipy.ndimage.gaussian_filter(image, 1.0, mode="mirror", truncate=3.0))
        assert (blurred - expected).abs().max() <= 1


def test_blur_wider_than_the_image():
    made = make_imperfect(SPLITS, ["blur=100"], 0).test.pixels
    assert made.float().std((1, 2, 3)).max() < 10


def test_noise_has_the_deviation_asked_for():
    grey = Images(
        torch.full((500, 1, 9, 9), 128, dtype=torch.uint8), torch.zeros(500, dtype=torch.int64), ("a",), "toy"
    )
    made = make_imperfect(Splits(grey, grey), ["noise=0.1"], 0).test.pixels.float()
    assert made.std().item() == pytest.approx(25.5, rel=0.02)
    assert made.mean().item() == pytest.approx(128, abs=0.5)


@pytest.mark.parametrize("sigma", ["1e-300", "1e-46", "0.0009"])
def test_a_blur_too_narrow_to_be_a_number_changes_nothing(sigma):
    """It made every image black."""
    assert torch.equal(make_imperfect(SPLITS, [f"blur={sigma}"], 0).test.pixels, SPLITS.test.pixels)


def test_a_client_has_a_hue_of_its_own_in_train_and_test():
    made = make_imperfect(OF_CLIENTS, ["client-tint=1", "clients=5"], 0)
    colours = []
    for images in made:
        each = [images.pixels[images.factors["client"] == k].flatten(2)[:, :, 0].unique(dim=0) for k in range(5)]
        assert all(len(one) == 1 for one in each)
        colours.append(torch.cat(each))
    assert torch.equal(*colours)
    assert torch.cdist(colours[0].float(), colours[0].float()).fill_diagonal_(1e9).min() > 50
    assert made.train.notes[-1].endswith("images of 5 clients tinted, each client in a hue of its own, strength 1")


def test_noise_rises_from_client_to_client():
    splits = make_imperfect(OF_CLIENTS, ["clients=4"], 0)
    grey = Splits(*(x.with_factor("client", torch.arange(len(x)) % 5 - 1) for x in splits))
    made = make_imperfect(grey, ["client-noise=0.1"], 0)
    for images in made:
        client = images.factors["client"]
        spread = sorted((images.pixels[client == k].float() - 200).std().item() for k in range(4))
        assert spread == pytest.approx([25.5 * k / 4 for k in (1, 2, 3, 4)], rel=0.15)
        assert (images.pixels[client == -1] == 200).all()


def test_images_of_no_client_keep_their_colours():
    splits = Splits(*(x.with_factor("client", torch.arange(len(x)) % 3 - 1) for x in OF_CLIENTS))
    made = make_imperfect(splits, ["client-tint=1"], 0).train
    assert (made.pixels[made.factors["client"] == -1] == 200).all()
    assert not (made.pixels[made.factors["client"] == 0] == 200).all()
