"""The contrastive loss, pair by pair."""

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.metric.contrastive import Contrastive, ContrastiveLoss
from worlds import Encoder


@pytest.mark.parametrize("margin", [0.3, 0.9, 2.0])
def test_pairs_one_by_one(margin, rng):
    z = torch.randn(10, 3, generator=rng, dtype=torch.float64)
    labels, unit = torch.arange(10) % 3, F.normalize(z)
    positives, negatives = [], []
    for i in range(10):
        for j in range(10):
            distance = (unit[i] - unit[j]).norm().item()
            if i != j and labels[i] == labels[j]:
                positives.append(distance)
            elif labels[i] != labels[j] and distance < margin:
                negatives.append(margin - distance)
    expected = sum(positives) / len(positives) + sum(negatives) / max(1, len(negatives))
    assert ContrastiveLoss(margin)(z, labels).item() == pytest.approx(expected, rel=1e-6)


def test_only_directions_count_and_classes_far_apart_cost_nothing():
    z, labels = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0, 1, 1])
    assert ContrastiveLoss(1.0)(z, labels).item() == pytest.approx(0, abs=1e-6)
    assert ContrastiveLoss(2.0)(z, labels).item() == pytest.approx(2 - 2**0.5, abs=1e-6)


@pytest.mark.parametrize("margin", [0, 2.5, float("nan")])
def test_a_margin_out_of_range_is_refused(margin):
    for build in (ContrastiveLoss, lambda margin: Contrastive(Encoder(), 10, margin=margin)):
        with pytest.raises(InputError, match="margin: expected a number above 0 and of at most 2"):
            build(margin)
