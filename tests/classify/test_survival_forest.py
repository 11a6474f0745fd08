"""The survival forest: scikit-survival's trees as tensors, which need neither it nor pickled code to be used."""

import numpy as np
import pytest
import torch

from counterpoise.classify.survival_forest import SurvivalForest, _rounded
from counterpoise.data.survival import Outcomes, Survival, load_survival
from counterpoise.errors import InputError, MissingExtra
from worlds import Encoder

AT = torch.tensor([0.5, 2.0, 5.0, 9.0, 40.0, 500.0]).double()


@pytest.fixture
def data():
    return load_survival("two-regimes:items=300")


def grown(train, steps=20):
    method = SurvivalForest(Encoder(20), [20], trees=4, steps=steps)
    method.check_data(train, 1)
    torch.manual_seed(3)
    method.start_epoch(train, 0)
    return method


def test_the_trees_are_those_of_scikit_survival(data):
    ensemble = pytest.importorskip("sksurv.ensemble")
    train, test = data
    method = grown(train)
    torch.manual_seed(3)
    seed = int(torch.randint(2**31 - 1, (1,)))
    theirs = ensemble.RandomSurvivalForest(4, min_samples_leaf=15, max_features="sqrt", random_state=seed)
    rows = test.inputs.numpy()
    theirs.fit(train.inputs.numpy(), Outcomes(_rounded(train, 20), train.events).structured())
    at = torch.from_numpy(theirs.unique_times_)
    found = method.predict(test, at)
    np.testing.assert_allclose(found.risk, theirs.predict(rows), rtol=1e-5)
    np.testing.assert_allclose(found.survival, theirs.predict_survival_function(rows, return_array=True), atol=1e-5)


def test_curves_fall_from_1_and_stay_after_the_last_time(data):
    pytest.importorskip("sksurv")
    train, test = data
    found = grown(train).predict(test, AT).survival
    assert (found[:, 0] == 1).all()
    assert (found.diff(dim=1) <= 0).all()
    assert (found >= 0).all()


def test_what_is_kept_is_the_forest(data):
    pytest.importorskip("sksurv")
    train, test = data
    method, fresh = grown(train), SurvivalForest(Encoder(20), [20], trees=4)
    fresh.net.load_state_dict(method.net.state_dict())
    assert torch.equal(fresh.predict(test, AT).survival, method.predict(test, AT).survival)
    assert torch.equal(fresh.net(test.inputs)[:, 0], method.risk(test.inputs))


def test_times_are_rounded_up_so_that_no_event_comes_earlier():
    rng = torch.Generator().manual_seed(0)
    times = torch.rand(200, generator=rng).double() + 0.1
    data = Survival(torch.zeros(200, 1), times, torch.rand(200, generator=rng) < 0.7, "made")
    found = _rounded(data, 10)
    assert (found >= times).all()
    assert len(found[data.events].unique()) == 10
    assert torch.equal(_rounded(data, 200), times)


def test_what_is_refused(data, monkeypatch):
    with pytest.raises(InputError, match="trees: expected a whole number of at least 1"):
        SurvivalForest(Encoder(20), [20], trees=0)
    monkeypatch.setitem(__import__("sys").modules, "sksurv", None)
    with pytest.raises(MissingExtra, match="scikit-survival is not installed"):
        SurvivalForest(Encoder(20), [20]).check_data(data.train, 1)
