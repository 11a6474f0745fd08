"""ArcFace: cross-entropy of cosines, with a margin added to the angle to the own proxy."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.metric.arcface import ArcFace, ArcFaceLoss
from worlds import Encoder


def cosines(loss, z):
    weight = loss.proxies.detach()
    weight = weight if weight.shape[1] == z.shape[1] else weight.T
    return F.normalize(z) @ F.normalize(weight).T


@pytest.mark.parametrize(("margin", "scale"), [(28.6, 64.0), (10.0, 2.0), (0.0, 8.0)])
def test_the_margin_is_added_to_the_angle(margin, scale, rng):
    loss = ArcFaceLoss(3, 4, margin, scale).double()
    z, labels = torch.randn(6, 4, generator=rng, dtype=torch.float64), torch.arange(6) % 3
    angles = cosines(loss, z).acos()
    assert angles.max() < math.pi - math.radians(margin)  # beyond, the library goes on along a line
    angles[torch.arange(6), labels] += math.radians(margin)
    assert loss(z, labels).item() == pytest.approx(F.cross_entropy(scale * angles.cos(), labels).item(), rel=1e-6)


def test_without_a_margin_it_is_the_cross_entropy_of_cosines_and_a_margin_costs_more(rng):
    z, labels = torch.randn(6, 4, generator=rng), torch.arange(6) % 3
    plain = ArcFaceLoss(3, 4, margin=0, scale=4)
    strict = ArcFaceLoss(3, 4, margin=20, scale=4)
    strict.load_state_dict(plain.state_dict())
    expected = F.cross_entropy(4 * cosines(plain, z), labels)
    torch.testing.assert_close(plain(z, labels).detach(), expected, rtol=1e-4, atol=1e-5)
    assert strict(z, labels) > plain(z, labels)


@pytest.mark.parametrize("wrong", [{"margin": 91}, {"margin": -1}, {"scale": 0}])
def test_numbers_out_of_range_are_refused_by_name(wrong):
    for build in (lambda **wrong: ArcFaceLoss(3, 4, **wrong), lambda **wrong: ArcFace(Encoder(), 10, 3, **wrong)):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected a number"):
            build(**wrong)
