"""CLIP on named classes: its loss by the definition, what it passes over, and the towers that it trains."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.classify.clip import CLIP, image_text_contrast
from counterpoise.data import Images
from counterpoise.errors import InputError
from worlds import Encoder

LABELS = torch.tensor([0, 2, -1, 0, 1, -1, 2, 2])


@pytest.fixture
def batch(rng):
    return tuple(torch.randn(n, 6, generator=rng, dtype=torch.float64) for n in (8, 4))


def plain(images, texts, scale):
    z, t = F.normalize(images), F.normalize(texts)
    known = LABELS >= 0
    first = F.cross_entropy(scale * z[known] @ t.T, LABELS[known])
    of_names = (scale * t @ z[known].T).log_softmax(1)
    second = torch.stack([-of_names[k, i] for i, k in enumerate(LABELS[known].tolist())]).mean()
    return (first + second) / 2


@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_it_is_the_mean_of_two_cross_entropies(batch, scale):
    torch.testing.assert_close(image_text_contrast(*batch, LABELS, scale), plain(*batch, scale))


def test_pairs_of_their_own_name_each_give_the_symmetric_loss_of_clip(batch):
    images, texts = batch[0][:4], batch[1]
    logits = 5 * F.normalize(images) @ F.normalize(texts).T
    numbers = torch.arange(4)
    expected = (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2
    torch.testing.assert_close(image_text_contrast(images, texts, numbers, 5.0), expected)


def test_gradients_reach_images_names_and_scale(batch):
    images, texts = (x.requires_grad_() for x in batch)
    scale = torch.tensor(3.0, requires_grad=True)
    ours = torch.autograd.grad(image_text_contrast(images, texts, LABELS, scale), (images, texts, scale))
    scale64 = scale.detach().double().requires_grad_()
    expected = torch.autograd.grad(plain(images, texts, scale64), (images, texts, scale64))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-7)
    assert (ours[0][LABELS < 0] == 0).all()


def test_without_a_label_it_is_0_with_a_gradient_of_0(batch):
    images = batch[0].requires_grad_()
    found = image_text_contrast(images, batch[1], torch.full((8,), -1))
    found.backward()
    assert found.item() == 0
    assert (images.grad == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": torch.ones(1, 6)}, "texts"),
        ({"texts": torch.ones(4, 5)}, "texts: expected rows of width 6, as images has, got 5"),
        ({"labels": torch.full((8,), 4)}, "labels"),
        ({"scale": 0.0}, "scale"),
        ({"images": torch.full((8, 6), torch.nan)}, "images"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_what_makes_no_sense_is_refused_by_name(batch, changes, message):
    given = {"images": batch[0], "texts": batch[1], "labels": LABELS, "scale": 1.0, **changes}
    with pytest.raises(InputError, match=message):
        image_text_contrast(**given)


def method(**options):
    torch.manual_seed(0)
    return CLIP(Encoder(), ["red cat", "red dog", "blue cat"], **options)


def test_the_method_compares_images_with_the_names_of_their_classes(rng):
    ours, view = method(dim=8), torch.rand(6, 1, 4, 4, generator=rng)
    labels = torch.tensor([0, 1, 2, -1, 0, 1])
    towers = ours.towers
    expected = image_text_contrast(towers.images(view), towers.texts(["red cat", "red dog", "blue cat"]), labels)
    torch.testing.assert_close(ours.loss([view], labels, torch.arange(6)), expected)
    ours.loss([view], labels, torch.arange(6)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers.parameters())
    assert towers.scale.item() == pytest.approx(1 / 0.07)
    assert ours.net is towers


def test_the_scale_stops_at_100():
    ours = method()
    torch.nn.init.constant_(ours.towers.log_scale, math.log(1e4))
    assert ours.towers.scale.item() == pytest.approx(100)


def test_names_are_read_in_the_template():
    ours, other = method(template="a photo of a {}."), method()
    assert torch.equal(ours.towers.read(["a photo of a red dog."])[0], ours.read[1])
    assert not torch.equal(ours.read, other.read)
    for wrong, message in (
        ({"template": "cat"}, "template"),
        ({"text": "word"}, "did you mean 'words'"),
        ({"dim": 0}, "dim"),
    ):
        with pytest.raises(InputError, match=message):
            method(**wrong)


def test_images_of_one_class_are_refused():
    images = Images(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, -1, 0]), ("a", "b"), "x")
    with pytest.raises(InputError, match="labels: CLIP needs images of at least 2 classes with names"):
        method().check_data(images, 2)
