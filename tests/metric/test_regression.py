"""End-to-end regression: the error of standardised targets, and predictions in their own unit."""

import pytest
import torch

from counterpoise.errors import InputError
from counterpoise.metric.regression import Regression
from worlds import Encoder


@pytest.mark.parametrize(("error", "power"), [("l1", 1), ("l2", 2)])
def test_the_loss_is_the_mean_error_of_all_views_in_deviations(error, power, rng):
    method = Regression(Encoder(), mean=5.0, deviation=2.0, error=error)
    views, targets = [torch.randn(6, 16, generator=rng) for _ in range(2)], torch.randn(6, generator=rng)
    gaps = [method.head(method.encoder(view))[:, 0] - (targets - 5) / 2 for view in views]
    expected = torch.cat(gaps).abs().pow(power).mean()
    torch.testing.assert_close(method.loss(views, targets, torch.arange(6)), expected)


def test_predictions_are_in_the_unit_of_the_targets(rng):
    method = Regression(Encoder(), mean=5.0, deviation=2.0)
    x = torch.randn(6, 16, generator=rng)
    features = method.encoder(x).detach()
    found = method.predict(features)
    assert method.loss([x], found, torch.arange(6)).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(found, 5 + 2 * method.head(features)[:, 0].detach())


def test_a_deviation_of_0_counts_as_1(rng):
    x = torch.randn(3, 4, generator=rng)
    flat, plain = Regression(Encoder(), deviation=0), Regression(Encoder(), deviation=1)
    plain.load_state_dict(flat.state_dict())
    assert torch.equal(flat.predict(x), plain.predict(x))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"error": "l3"}, "error 'l3' is not known; did you mean"),
        ({"deviation": -1.0}, "deviation: expected a number of at least 0"),
        ({"mean": float("nan")}, "mean: expected a number that is finite"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(wrong, message):
    with pytest.raises(InputError, match=message):
        Regression(Encoder(), **wrong)
