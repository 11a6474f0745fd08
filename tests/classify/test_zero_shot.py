"""Zero-shot classification by names: the nearest name, and nothing trained."""

import pytest
import torch

from counterpoise.classify.zero_shot import UntrainedTowers, ZeroShot
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.nets.towers import Towers
from worlds import Encoder

NAMES = ["red cat", "blue dog", "green bird"]


@pytest.fixture
def towers():
    torch.manual_seed(0)
    return Towers(Encoder(), dim=8)


def test_each_image_gets_the_nearest_name(towers, rng):
    images = Images(
        torch.randint(0, 256, (30, 1, 4, 4), generator=rng, dtype=torch.uint8), torch.full((30,), -1), (), "x"
    )
    method = ZeroShot(Encoder(), towers)
    with torch.no_grad():
        cosines = towers.images(images.pixels.float() / 127.5 - 1) @ towers.texts(NAMES).T
    rows = method.rows(images)
    found = method.scores(rows, NAMES)
    torch.testing.assert_close(found, cosines * towers.scale.item(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(method.scores(rows, NAMES[:2]), found[:, :2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(method.doubt(rows, NAMES), 1 - found.softmax(1).amax(1), rtol=1e-4, atol=1e-5)
    assert not method.trains


def test_the_towers_are_kept_and_stay_as_they_are(towers):
    method = ZeroShot(Encoder(), towers)
    assert not list(method.parameters())
    kept = method.net.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in towers.state_dict().items())


def test_without_towers_it_is_refused():
    with pytest.raises(InputError, match="towers: expected those that a run of clip has trained, got none"):
        ZeroShot(Encoder(), None)


def test_untrained_towers_take_the_statistics_of_the_images_and_nothing_else(rng):
    pixels = torch.randint(0, 256, (300, 1, 4, 4), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(300) % 3, ("a", "b", "c"), "x")
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(16))
    encoder.features = 16
    method = UntrainedTowers(encoder)
    weights = [p.clone() for p in method.parameters()]
    method.start_epoch(images, 0)
    rows = (images.pixels.float() / 127.5 - 1).flatten(1)
    torch.testing.assert_close(encoder[1].running_mean, rows.mean(0), atol=0.02, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(weights, method.parameters(), strict=True))
    assert not method.trains
