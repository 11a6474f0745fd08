"""Cox regression: scikit-survival's, kept as tensors, and right where hazards are proportional."""

import numpy as np
import pytest
import torch

from counterpoise.classify.cox import Cox, CoxOnFeatures, CoxOnUntrained
from counterpoise.data.survival import Outcomes, Survival
from counterpoise.errors import InputError, MissingExtra
from worlds import Encoder

WEIGHTS = torch.tensor([1.0, -0.5])


@pytest.fixture
def data():
    """Hazards that are proportional, with a column that depends on another."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 2, generator=rng)
    times = torch.empty(1500).exponential_(generator=rng) * (-(x @ WEIGHTS)).exp() + 1e-4
    ends = torch.empty(1500).exponential_(generator=rng) * 3 + 1e-4
    rows = torch.cat([5 + 2 * x, -x[:, :1]], 1)
    return Survival(rows, torch.minimum(times, ends), times <= ends, "made")


def fitted(data, **arguments):
    method = Cox(Encoder(3), [3], **arguments)
    method.check_data(data, 1)
    method.start_epoch(data, 0)
    return method


def test_it_finds_the_weights_and_the_curves(data):
    pytest.importorskip("sksurv")
    method = fitted(data)
    first, second, third = method.model.weights.tolist()
    assert first - third == pytest.approx(1.0, abs=0.12)  # divided between two columns that are one
    assert second == pytest.approx(-0.5, abs=0.12)
    at, typical = torch.tensor([0.5, 1.0]).double(), data.inputs.mean(0, keepdim=True)
    torch.testing.assert_close(method.survival(typical, at)[0].double(), (-at).exp(), atol=0.05, rtol=0)


def test_it_is_scikit_survival_s(data):
    linear = pytest.importorskip("sksurv.linear_model")
    method, few = fitted(data, penalty=2.0), data.subset(torch.arange(20))
    rows = ((data.inputs - data.inputs.mean(0)) / data.inputs.std(0, correction=0)).double().numpy()
    outcomes = Outcomes(data.times, data.events).structured()
    theirs = linear.CoxPHSurvivalAnalysis(alpha=2.0, ties="efron").fit(rows, outcomes)
    at = torch.tensor([0.2, 0.7, 1.5]).double()
    found = method.predict(few, at)
    np.testing.assert_allclose(found.risk, theirs.predict(rows[:20]), atol=1e-4)
    curves = theirs.predict_survival_function(rows[:20])
    np.testing.assert_allclose(found.survival, [curve(at.numpy()) for curve in curves], atol=1e-4)


def test_what_is_kept_holds_the_baseline_too(data):
    pytest.importorskip("sksurv")
    method, few = fitted(data), data.subset(torch.arange(5))
    fresh = Cox(Encoder(3), [3])
    fresh.net.load_state_dict(method.net.state_dict())
    at = torch.tensor([0.3, 2.0]).double()
    assert torch.equal(fresh.predict(few, at).survival, method.predict(few, at).survival)
    assert (method.predict(few, torch.tensor([1e-6]).double()).survival == 1).all()


def test_on_features_it_is_the_regression_of_these_features(data):
    pytest.importorskip("sksurv")
    turned = torch.nn.Linear(3, 2)
    turned.features = 2
    few, at = data.subset(torch.arange(200)), torch.tensor([0.5]).double()
    method = CoxOnFeatures(turned)
    method.start_epoch(few, 0)
    with torch.no_grad():
        rows = turned(few.inputs)
    plain = Cox(Encoder(2), [2])
    plain.start_epoch(Survival(rows, few.times, few.events, "made"), 0)
    torch.testing.assert_close(method.model.weights, plain.model.weights)
    torch.testing.assert_close(method.net(few.inputs), plain.net(rows))
    assert method.survival(few.inputs, at).shape == (200, 1)


def test_an_untrained_encoder_has_the_statistics_of_the_training_items(data):
    pytest.importorskip("sksurv")
    encoder = torch.nn.BatchNorm1d(3)
    encoder.features = 3
    method = CoxOnUntrained(encoder)
    method.start_epoch(data, 0)
    torch.testing.assert_close(encoder.running_mean, data.inputs.mean(0), atol=0.05, rtol=0)
    assert encoder.training


def test_a_library_that_is_missing_is_named_before_training(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sksurv", None)
    with pytest.raises(MissingExtra, match=r"scikit-survival is not installed: pip install 'counterpoise\[survival\]'"):
        Cox(Encoder(3), [3]).check_data(data, 1)


def test_it_refuses_no_penalty():
    with pytest.raises(InputError, match="penalty: expected a number above 0"):
        Cox(Encoder(3), [3], penalty=0)
