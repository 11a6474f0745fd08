"""Readers of frozen features, and the linear layer that they end in."""

import pytest
import torch
from torch import nn

from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.learners.readers import FeatureReader, linear_layer


class NearestMean(FeatureReader):
    """Each class by the distance of its mean, which is linear in the features up to a constant."""

    def fit(self, data):
        features, labels = (torch.cat(some) for some in zip(*self.labelled_features(data), strict=True))
        mean = torch.stack([features[labels == k].mean(0) for k in range(self.classes)])
        return linear_layer(mean, -mean.square().sum(1) / 2, torch.ones(self.classes, dtype=torch.bool))


@pytest.fixture
def images(rng):
    """Greys that name the class, with noise; every fifth image without a label."""
    labels = torch.arange(700) % 3
    pixels = 40 + 80 * labels.view(-1, 1, 1, 1) + torch.randint(-20, 20, (700, 1, 4, 4), generator=rng)
    hidden = torch.where(torch.arange(700) % 5 == 0, -1, labels)
    return Images(pixels.to(torch.uint8), hidden, ("a", "b", "c"), "greys")


def test_labelled_items_alone_are_read_in_double_precision(images):
    rows = list(NearestMean(nn.Identity(), classes=3, shape=(1, 4, 4)).labelled_features(images))
    features, labels = (torch.cat(some) for some in zip(*rows, strict=True))
    known = images.labels >= 0
    assert torch.equal(labels, images.labels[known])
    assert torch.equal(features, to_float(images.pixels).flatten(1)[known].double())
    assert len(rows) > 1  # some at a time


def test_one_epoch_fits_it_and_nothing_is_left_to_train(images):
    reader = NearestMean(nn.Identity(), classes=3, shape=(1, 4, 4))
    reader.start_epoch(images, 0)
    assert not reader.trains
    found = reader.predict(images).argmax(1)
    assert torch.equal(found, torch.arange(700) % 3)


def test_it_reads_an_encoder_as_it_is_or_with_the_statistics_of_the_data(images):
    for reads, mean in (("encoder", torch.zeros(16)), ("untrained", to_float(images.pixels).flatten(1).mean(0))):
        encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16))
        encoder.features = 16
        reader = NearestMean(encoder, classes=3, reads=reads)
        reader.start_epoch(images, 0)
        torch.testing.assert_close(encoder[1].running_mean, mean, atol=0.02, rtol=0)
        assert encoder.training  # as it was


@pytest.mark.usefixtures("plain_shapes")
def test_what_it_cannot_read_is_refused(images):
    with pytest.raises(InputError, match="reads 'rav' is not known; did you mean 'raw'"):
        NearestMean(nn.Identity(), classes=3, shape=(1, 4, 4), reads="rav")
    with pytest.raises(InputError, match="shape: expected that of one input, since reads is 'raw', got None"):
        NearestMean(nn.Identity(), classes=3)
    maps = nn.Identity()
    maps.features = 16
    with pytest.raises(InputError, match=r"encoder: expected to get \[batch, features\] from it, got \[\d+, 1, 4, 4\]"):
        NearestMean(maps, classes=3, reads="encoder").start_epoch(images, 0)
    with pytest.raises(NotImplementedError, match=r"FeatureReader must define fit\(data\)"):
        FeatureReader(nn.Identity(), classes=3, shape=(1, 4, 4)).start_epoch(images, 0)


def test_a_layer_is_the_given_map_and_never_names_a_class_that_was_not_there(rng):
    weight, bias = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 6), (4,)))
    present = torch.tensor([False, True, True, False])
    layer = linear_layer(weight, bias, present, torch.float64)
    rows = torch.randn(200, 6, generator=rng, dtype=torch.float64)
    outputs = layer(rows)
    torch.testing.assert_close(outputs[:, present], (rows @ weight.T + bias)[:, present])
    torch.testing.assert_close(outputs[:, 0], outputs[:, 1] - 30)
    torch.testing.assert_close(outputs[:, 3], outputs[:, 1] - 30)
    assert set(outputs.argmax(1).tolist()) == {1, 2}
    assert linear_layer(weight, bias, present).weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"present": torch.ones(3)}, "present: expected true or false for each class, got torch.float32"),
        ({"present": torch.zeros(3, dtype=torch.bool)}, "present: expected at least one class that was there"),
        ({"bias": torch.zeros(2)}, r"weight, bias, present: .* got shapes \[3, 2\], \[2\] and \[3\]"),
        ({"weight": torch.full((3, 2), torch.nan)}, "weight: 6 of 6 numbers are NaN"),
        ({"bias": torch.full((3,), torch.inf)}, "bias: 3 of 3 numbers are NaN or infinite"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_a_layer_of_what_does_not_fit_is_refused(changes, message):
    given = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "present": torch.ones(3, dtype=torch.bool), **changes}
    with pytest.raises(InputError, match=message):
        linear_layer(**given)
