"""The multi-similarity loss, anchor by anchor: what is mined, and how it is weighed."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.metric.multi_similarity import MultiSimilarity, MultiSimilarityLoss
from worlds import Encoder


@pytest.mark.parametrize(("alpha", "beta", "base", "epsilon"), [(2.0, 50.0, 0.5, 0.1), (1.0, 5.0, -0.2, 0.0)])
def test_anchors_one_by_one(alpha, beta, base, epsilon, rng):
    z = torch.randn(9, 3, generator=rng, dtype=torch.float64)
    labels = torch.arange(9) % 3
    cosine = F.normalize(z) @ F.normalize(z).T
    total = 0.0
    for i in range(9):
        own = [cosine[i, j].item() for j in range(9) if j != i and labels[j] == labels[i]]
        others = [cosine[i, j].item() for j in range(9) if labels[j] != labels[i]]
        mined = [s for s in own if s - epsilon < max(others)]  # equations 12 and 13
        against = [s for s in others if s + epsilon > min(own)]
        total += math.log1p(sum(math.exp(-alpha * (s - base)) for s in mined)) / alpha
        total += math.log1p(sum(math.exp(beta * (s - base)) for s in against)) / beta
    found = MultiSimilarityLoss(alpha, beta, base, epsilon)(z, labels)
    assert found.item() == pytest.approx(total / 9, rel=1e-6)


def test_classes_far_apart_have_no_pair_to_mine():
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert MultiSimilarityLoss()(z, torch.tensor([0, 0, 1, 1])).item() == 0


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"beta": -1.0}, {"base": 1.5}, {"epsilon": -0.1}])
def test_numbers_out_of_range_are_refused_by_name(wrong):
    for build in (MultiSimilarityLoss, lambda **wrong: MultiSimilarity(Encoder(), 10, **wrong)):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected a number"):
            build(**wrong)
