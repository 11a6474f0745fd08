"""The supervised baseline: rows with a label count, the others do not, and data without any is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.classify.cross_entropy import CrossEntropy, cross_entropy
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.training.trainer import fit

rng = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, generator=rng, dtype=torch.float64)
TARGETS = torch.tensor([2, -1, 0, 1, -1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_against_the_sums_written_out_over_the_labelled_rows(smoothing):
    total = 0.0
    for i in (0, 2, 3, 5):
        wanted = torch.full((3,), smoothing / 3, dtype=torch.float64)
        wanted[TARGETS[i]] += 1 - smoothing
        total -= (wanted * torch.log(LOGITS[i].exp() / LOGITS[i].exp().sum())).sum() / 4
    torch.testing.assert_close(cross_entropy(LOGITS, TARGETS, smoothing), total)


def test_without_a_label_the_loss_and_its_gradient_are_zero():
    logits = LOGITS.clone().requires_grad_()
    value = cross_entropy(logits, torch.full((6,), -1))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="targets: expected integers from -1 to 2, got 3"):
        cross_entropy(LOGITS, TARGETS + 1)
    with pytest.raises(InputError, match="targets: expected one integer for each of the 6 rows"):
        cross_entropy(LOGITS, TARGETS[:5])
    with pytest.raises(InputError, match="logits: 18 of 18 numbers are NaN"):
        cross_entropy(LOGITS * math.nan, TARGETS)


class Encoder(nn.Linear):
    features = 4

    def __init__(self):
        super().__init__(16, 4)

    def forward(self, images):
        return super().forward(images.flatten(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes: expected a whole number of at least 2, got 1"),
        ({"classes": 3, "label_smoothing": 1.5}, "label_smoothing: expected a number .*, got 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        CrossEntropy(Encoder(), **arguments)


def test_the_method_classifies_one_view():
    method = CrossEntropy(Encoder(), classes=3, label_smoothing=0.2)
    view = torch.randn(6, 1, 4, 4, generator=rng)
    expected = F.cross_entropy(method.classifier(method.encoder(view)), TARGETS, ignore_index=-1, label_smoothing=0.2)
    torch.testing.assert_close(method.loss([view], TARGETS, torch.arange(6)), expected)
    assert method.views == 1


def halves(labelled):
    """Images whose left or right half is bright, by class; only the first `labelled` have a label."""
    classes = torch.arange(40) % 2
    pixels = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    pixels[classes == 0, :, :, :2] = 255
    pixels[classes == 1, :, :, 2:] = 255
    return Images(pixels, torch.where(torch.arange(40) < labelled, classes, -1), ("left", "right"), "halves")


def test_it_learns_from_the_labelled_images_alone(tmp_path):
    images = halves(labelled=4)
    method = CrossEntropy(Encoder(), classes=2, lr=0.1)
    fit(method, images, epochs=5, batch_size=8, seed=0, folder=tmp_path, device="cpu", loggers=())
    pixels, _, _ = images.__getitems__(list(range(40)))
    assert method.classifier(method.encoder(method.view(pixels))).argmax(1).tolist() == [0, 1] * 20


def test_data_without_any_label_is_refused(tmp_path):
    method = CrossEntropy(Encoder(), classes=2)
    with pytest.raises(
        InputError, match="labels: cross-entropy needs some, but none of the 40 training images has one"
    ):
        fit(method, halves(labelled=0), epochs=1, batch_size=8, seed=0, folder=tmp_path, device="cpu", loggers=())
