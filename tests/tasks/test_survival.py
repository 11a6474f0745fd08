"""The survival task: scores by hand, the division at the horizon, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from counterpoise.data.survival import Survival, SurvivalSplits, load_survival
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError, MissingExtra
from counterpoise.learners.hazard import Predicted
from counterpoise.learners.references import Raw
from counterpoise.measure.survival import concordance
from counterpoise.registry import catalogue
from counterpoise.tasks import survival
from counterpoise.tasks.survival import SurvivalSettings, calibration_at, horizon_of, score_each, times_to_judge
from counterpoise.training.run import Run, make_settings

QUICK = SurvivalSettings(epochs=2, batch_size=50, device="cpu")


def run(method="ad-survival", data="two-regimes:items=300", **changes):
    return Run(method, data, **{"settings": QUICK, "task": "survival", **changes})


def splits(times, events, weights=None):
    part = Survival(torch.zeros(len(times), 2), torch.tensor(times), torch.tensor(events), "made", weights)
    return SurvivalSplits(part, part)


def test_each_pair_is_judged_by_the_head_for_lives_of_its_length():
    pytest.importorskip("sksurv")
    parts = splits([1.0, 2.0, 3.0, 11.0, 12.0, 13.0], [True] * 6)
    times = parts.test.times
    at, marks = torch.linspace(1, 12, 5).double(), torch.tensor([2.0, 11.0]).double()
    alive = (times[:, None] > torch.cat([at, marks])).double()
    found = Predicted(torch.zeros(6).double(), -times, times, alive)
    metrics, items = score_each(parts, found, at, calibration_at(parts.test, found, marks), horizon=10.0)
    assert metrics == pytest.approx(
        {"c_index": 0.5, "c_short": 1, "c_long": 0, "c_ipcw": 0.5, "brier": 0, "calibration": 0}
    )
    assert {name: float(values.mean()) for name, values in items.items()} == pytest.approx(
        {name: metrics[name] for name in ("c_index", "c_short", "c_long")}
    )


def test_weights_of_the_data_give_a_weighted_concordance():
    pytest.importorskip("sksurv")
    weights = torch.tensor([1.0, 1.0, 9.0, 9.0])
    parts = splits([1.0, 2.0, 3.0, 4.0], [True] * 4, weights)
    risk = torch.tensor([2.0, 3.0, 1.0, 0.0]).double()
    at = times_to_judge(parts.test)
    found = Predicted(risk, risk, risk, torch.full((4, len(at) + 1), 0.5).double())
    metrics, _ = score_each(parts, found, at, {}, 2.0)
    assert "calibration" not in metrics
    assert metrics["c_index"] == pytest.approx(5 / 6)
    assert metrics["c_weighted"] == pytest.approx(1 - 1 / (1 + 9 * 4 + 81))


def test_a_metric_without_a_value_is_left_out_with_a_warning():
    pytest.importorskip("sksurv")
    parts = splits([1.0, 2.0, 3.0, 4.0], [True] * 4)
    at = times_to_judge(parts.test)
    zeros = torch.zeros(4).double()
    found = Predicted(zeros, zeros, zeros, torch.full((4, len(at) + 1), 0.5).double())
    with pytest.warns(match="concordance of long lifetimes: undefined: no two items are comparable"):
        metrics, items = score_each(parts, found, at, {}, horizon=9.0)
    assert "c_long" not in metrics
    assert "c_long" not in items
    assert all(value == value for value in metrics.values())


def test_the_horizon_is_the_setting_s_or_the_data_s_or_the_median_of_events():
    train, _ = load_survival("two-regimes:items=100")
    assert horizon_of(run(), train) == 10
    assert horizon_of(run(settings=replace(QUICK, horizon=4.0)), train) == 4
    median = float(train.times[train.events].median())
    assert horizon_of(run(), replace(train, horizon=None)) == median
    with pytest.raises(InputError, match="horizon: expected a number above 0"):
        make_settings(SurvivalSettings, {"horizon": 0.0})


@pytest.mark.slow
def test_a_run_says_how_each_head_does_on_its_own_grid(tmp_path):
    pytest.importorskip("sksurv")
    result = execute_run(run(), tmp_path)
    assert set(result["metrics"]) == set(survival.TASK.metrics)
    assert {"own short", "own long", "largest weights"} <= set(result["diagnostics"])
    assert result["offered"]["horizon"] == 10
    assert result["columns"][0] == "text0"
    assert sum(name.startswith("calibration at") for name in result["diagnostics"]) == 3


@pytest.mark.slow
def test_the_figures_of_a_run_are_those_of_the_measures(tmp_path):
    pytest.importorskip("sksurv")
    given = run("cox", "gbsg2")
    result = execute_run(given, tmp_path)
    parts = survival.TASK.parts(given)
    learner = survival.TASK.make(given, parts)
    learner.start_epoch(parts.train, 0)
    risk = learner.predict(parts.test, torch.tensor([100.0])).risk
    assert result["metrics"]["c_index"] == concordance(parts.test.times, parts.test.events, risk)
    assert 0.6 < result["metrics"]["c_index"] < 0.8


def test_tuning_holds_out_a_fifth_of_the_training_rows():
    parts = survival.TASK.load(run())
    held = survival.TASK.tuning_parts(run(), parts)
    assert (len(held.train), len(held.test)) == (192, 48)
    rows = torch.cat([held.train.inputs, held.test.inputs])
    assert torch.equal(rows.sort(0).values, parts.train.inputs.sort(0).values)


@pytest.mark.parametrize(
    ("events", "test_events", "message"),
    [
        ([False] * 4, [True] * 4, "expected some event in training, got 4 censored rows"),
        ([True] * 4, [False] * 4, "expected two test rows, one with an event before the other's time"),
        ([True] * 4, [False, False, False, True], "expected two test rows, one with an event before the other's time"),
    ],
)
def test_data_that_cannot_be_learnt_or_judged_is_refused_before_training(events, test_events, message, monkeypatch):
    pytest.importorskip("sksurv")
    times = [1.0, 2.0, 3.0, 4.0]
    parts = SurvivalSplits(splits(times, events).train, splits(times, test_events).test)
    monkeypatch.setattr(survival.TASK, "load", lambda _: parts, raising=False)
    with pytest.raises(InputError, match=message):
        survival.TASK.check(run(data="made"))


def test_methods_without_risks_are_refused(monkeypatch):
    monkeypatch.setattr(catalogue, "load_class", lambda *_: Raw)
    with pytest.raises(InputError, match="method 'cox': has no risks to rank by; expected a HazardLearner"):
        survival.TASK.make(run("cox"), survival.TASK.load(run("cox")))


@pytest.mark.slow
def test_no_features_rank_nothing_and_raw_inputs_are_read_by_a_cox_regression(tmp_path):
    pytest.importorskip("sksurv")
    given = run("cox")
    found = {
        name: execute_run(survival.TASK.reference_run(given, name), tmp_path / name)["metrics"]
        for name in ("no-features", "raw")
    }
    assert found["no-features"]["c_index"] == 0.5
    assert found["raw"] == execute_run(given, tmp_path / "cox")["metrics"]


def test_the_library_of_the_measures_is_asked_for_before_training(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sksurv", None)
    with pytest.raises(MissingExtra, match="scikit-survival"):
        survival.TASK.check(run())


def test_views_of_rows_are_refused():
    pytest.importorskip("sksurv")
    with pytest.raises(InputError, match="augmentations: are views of images"):
        survival.TASK.check(run(settings=replace(QUICK, augmentations="flip")))
