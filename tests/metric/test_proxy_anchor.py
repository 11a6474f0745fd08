"""The proxy-anchor loss, proxy by proxy."""

import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.errors import InputError
from counterpoise.metric.proxy_anchor import ProxyAnchor, ProxyAnchorLoss
from worlds import Encoder


@pytest.mark.parametrize(("margin", "alpha"), [(0.1, 32.0), (0.0, 2.0), (1.0, 1.0)])
def test_proxies_one_by_one(margin, alpha, rng):
    """Equation 4: positive terms are averaged over the proxies of classes that are there, negative ones over all."""
    loss = ProxyAnchorLoss(4, 3, margin, alpha).double()
    z, labels = torch.randn(8, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1, 2, 0, 2])
    cosine = (F.normalize(z) @ F.normalize(loss.proxies.detach()).T).tolist()
    positive = negative = 0.0
    for k in range(4):
        own = [cosine[i][k] for i in range(8) if labels[i] == k]
        others = [cosine[i][k] for i in range(8) if labels[i] != k]
        positive += math.log1p(sum(math.exp(-alpha * (s - margin)) for s in own)) / 3
        negative += math.log1p(sum(math.exp(alpha * (s + margin)) for s in others)) / 4
    assert loss(z, labels).item() == pytest.approx(positive + negative, rel=1e-6)


def test_a_step_brings_a_proxy_nearer_to_its_class_and_away_from_others():
    loss, z = ProxyAnchorLoss(2, 3), torch.eye(3)[:2]
    loss.proxies.data.copy_(torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 1.0]]))
    before = F.normalize(loss.proxies.detach()) @ z.T
    loss(z, torch.arange(2)).backward()
    after = F.normalize(loss.proxies.detach() - 1e-3 * loss.proxies.grad) @ z.T
    assert (after.diagonal() > before.diagonal()).all()
    assert after[0, 1] < before[0, 1]


@pytest.mark.parametrize("wrong", [{"margin": 1.5}, {"alpha": 0}])
def test_numbers_out_of_range_are_refused_by_name(wrong):
    for build in (
        lambda **wrong: ProxyAnchorLoss(3, 4, **wrong),
        lambda **wrong: ProxyAnchor(Encoder(), 10, 3, **wrong),
    ):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected a number"):
            build(**wrong)
