"""The triplet loss with semi-hard negatives, triplet by triplet."""

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.metric.triplet import Triplet, TripletLoss
from worlds import Encoder


@pytest.mark.parametrize("margin", [0.1, 0.3, 1.0])
def test_triplets_one_by_one(margin, rng):
    z = torch.randn(9, 3, generator=rng, dtype=torch.float64)
    labels, unit = torch.arange(9) % 3, F.normalize(z)
    distance = torch.cdist(unit, unit)
    costs = []
    for i in range(9):
        for p in (labels == labels[i]).nonzero().flatten().tolist():
            for n in (labels != labels[i]).nonzero().flatten().tolist():
                gap = (distance[i, n] - distance[i, p]).item()
                if p != i and 0 < gap <= margin:  # farther than the positive, but within the margin
                    costs.append(margin - gap)
    assert costs
    assert TripletLoss(margin)(z, labels).item() == pytest.approx(sum(costs) / len(costs), rel=1e-6)


def test_negatives_nearer_than_the_positive_and_beyond_the_margin_do_not_count():
    nearer = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    farther = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    assert TripletLoss(0.2)(nearer, labels).item() == 0
    assert TripletLoss(0.2)(farther, labels).item() == 0


@pytest.mark.parametrize("margin", [0, -1.0, float("inf")])
def test_a_margin_out_of_range_is_refused(margin):
    for build in (TripletLoss, lambda margin: Triplet(Encoder(), 10, margin=margin)):
        with pytest.raises(InputError, match="margin: expected a number above 0"):
            build(margin)
