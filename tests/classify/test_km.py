"""The Kaplan–Meier curve as a method: the same for every item, and kept whatever its length."""

import torch

from counterpoise.classify.km import KaplanMeier
from counterpoise.data.survival import load_survival
from counterpoise.measure.survival import concordance, kaplan_meier
from worlds import Encoder


def test_every_item_gets_the_curve_of_training():
    train, test = load_survival("two-regimes:items=100")
    method = KaplanMeier(Encoder(20), [20])
    method.start_epoch(train, 0)
    at = torch.tensor([3.0, 20.0, 500.0]).double()
    found = method.predict(test, at)
    curve = kaplan_meier(train.times, train.events).at(at)
    torch.testing.assert_close(found.survival, curve.expand(20, 3), atol=1e-6, rtol=0)
    assert concordance(test.times, test.events, found.risk) == 0.5
    fresh = KaplanMeier(Encoder(20), [20])
    fresh.net.load_state_dict(method.net.state_dict())
    assert torch.equal(fresh.predict(test, at).survival, found.survival)
    assert torch.equal(method.net(test.inputs)[0], method.net.curve)
