"""The probe that measures an encoder during training."""

import pytest
import torch
from torch import nn

from counterpoise.data.images import Images
from counterpoise.measure.geometry import effective_rank, uniformity
from counterpoise.measure.online import OnlineProbe

CLASSES = ("dark", "bright")


class Flat(nn.Flatten):
    features = 16


class Constant(nn.Module):
    def forward(self, images):
        return torch.ones(len(images), 4)


def images(count, rng):
    """Dark images and bright ones, in turn."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 40, (count, 1, 4, 4), generator=rng)
    return Images((noise + 200 * labels[:, None, None, None]).to(torch.uint8), labels, CLASSES, "toy")


def test_figures_are_those_of_the_unseen_images_features(rng):
    known, unseen = images(40, rng), images(20, rng)
    figures, collapsed = OnlineProbe(known, unseen, neighbours=5)(Flat())
    features = unseen.pixels.flatten(1).float() / 127.5 - 1
    assert figures["effective_rank"] == pytest.approx(float(effective_rank(features)), rel=1e-5)
    assert figures["uniformity"] == pytest.approx(float(uniformity(features)), rel=1e-5)
    assert figures["knn"] == 1.0
    assert collapsed is None


def test_a_learner_s_encoder_is_measured_and_a_collapse_is_named(rng):
    learner = nn.Module()
    learner.encoder = Constant()
    figures, collapsed = OnlineProbe(None, images(20, rng))(learner)
    assert set(figures) == {"effective_rank", "uniformity"}
    assert collapsed


def test_no_more_images_are_measured_than_asked_for_and_every_class_stays(rng):
    probe = OnlineProbe(images(200, rng), images(100, rng), most=30)
    for part in (probe.labelled, probe.unseen):
        assert len(part) <= 30
        assert (part.counts() > 0).all()
