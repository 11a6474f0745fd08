"""The regress task: scores by hand, runs of images and of rows, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from counterpoise import compare, embed, export, train
from counterpoise.data.targets import Targets, TargetSplits
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.tasks import regress
from counterpoise.training.run import ImageSettings, LearnerSettings, Run

QUICK = LearnerSettings(epochs=2, batch_size=64, device="cpu")


def run(method="regression", data="diabetes", **changes):
    return Run(method, data, **{"settings": QUICK, "task": "regress", **changes})


def splits(train, test):
    return TargetSplits(*(Targets(torch.zeros(len(y), 1), y, "made") for y in (train, test)))


def test_scores_by_hand():
    rng = torch.Generator().manual_seed(0)
    x, z = torch.randn(200, 3, generator=rng), torch.randn(50, 3, generator=rng)
    data = splits(2 * x[:, 0] + 1, 2 * z[:, 0] + 1)
    found = regress.score(x, z, data)
    assert found["mae"] == found["probe_mae"] < 0.01
    assert found["r2"] > 0.999
    guesses = data.test.targets + torch.tensor([1.0, -1.0]).repeat(25)
    off = regress.score(x, z, data, guesses)
    assert off["mae"] == pytest.approx(1)
    assert off["probe_mae"] == found["probe_mae"]
    assert off["r2"] == pytest.approx(1 - 50 / (50 * data.test.targets.var(correction=0).item()), abs=1e-5)
    ordered = regress.score(x, data.test.targets[:, None].repeat(1, 3), data, guesses)
    assert ordered["order"] == pytest.approx(1, abs=1e-6)


def test_a_score_without_a_value_is_left_out():
    y = torch.tensor([1.0, 2.0, 4.0])
    for x in (torch.ones(3, 2), torch.ones(2, 2)):
        data = splits(y, y[: len(x)])
        found = regress.score(torch.randn(3, 2), x, data)
        assert "order" not in found
        assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("method", "targets", "message"),
    [
        (
            "regression",
            [[3.0] * 9, [1.0, 2.0]],
            "made: expected at least 2 different train targets, got 9 inputs with 1",
        ),
        (
            "regression",
            [[1.0, 2.0, 3.0], [2.0]],
            "made: expected at least 2 different test targets, got 1 inputs with 1",
        ),
        ("rnc", [[1.0, 2.0], [1.0, 2.0]], "batch_size: expected at least 3, for a pair and a negative, got 2"),
        ("supremix", [[1.0, 2.0], [1.0, 2.0]], "batch_size: expected at least 3"),
        ("supremix:window=0.5", [[1.0, 2.0, 3.0], [1.0, 2.0]], "window: expected one that pairs some of the 3 targets"),
        ("supcon-regression", [[1.0, 2.0, 3.0], [1.0, 2.0]], "bin: expected bins of several targets"),
        ("supcon-regression:bin=9", [[1.0, 2.0, 3.0], [1.0, 2.0]], "bin: expected bins that divide the 3 targets"),
    ],
)
def test_data_of_which_nothing_can_be_learnt_is_refused_before_training(method, targets, message, monkeypatch):
    slug, _, given = method.partition(":")
    name, _, value = given.partition("=")
    monkeypatch.setattr(regress.TASK, "load", lambda _: splits(*map(torch.tensor, targets)), raising=False)
    with pytest.raises(InputError, match=message):
        regress.TASK.check(run(slug, "made", arguments={name: float(value)} if given else {}))


def test_where_training_has_few():
    known = np.concatenate([np.zeros(50), np.full(30, 10.0), np.full(2, 19.9), [20.0]])
    assert regress.is_few(known, np.array([0.0, 0.5, 10.0, 19.95, -3.0])).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("method", ["regression", "supcon-regression", "rnc"])
@pytest.mark.parametrize("data", ["diabetes", pytest.param("rotations", marks=pytest.mark.slow)])
def test_a_run_is_scored_and_kept(method, data, tmp_path, monkeypatch):
    arguments = {"bin": 20.0} if (method, data) == ("supcon-regression", "diabetes") else {}
    one = run(method, data, arguments=arguments)
    result = execute_run(one, tmp_path)
    assert set(result["metrics"]) == set(regress.TASK.metrics)
    assert len(result["curve"]) == 2
    assert result["metrics"]["mae"] > 0
    assert (method == "regression") == (result["metrics"]["mae"] != result["metrics"]["probe_mae"])
    monkeypatch.setattr(execute, "_result", None)
    assert execute_run(one, tmp_path) == json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow
def test_encoders_of_images_can_be_used_on_others_and_those_of_rows_are_refused(tmp_path):
    for data in ("diabetes", "rotations"):
        train("regression", data, out=str(tmp_path / data), epochs=1, device="cpu")
    assert export(str(tmp_path / "rotations"), str(tmp_path / "encoder.safetensors")).exists()
    for use in (lambda run: export(run, str(tmp_path / "encoder.onnx")), lambda run: embed(run, "digits", "x.npy")):
        with pytest.raises(InputError, match="expected a run on images, whose encoder can be used on others, got one"):
            use(str(tmp_path / "diabetes"))


@pytest.mark.slow
def test_compare_says_which_is_nearer(tmp_path, capsys):
    content = compare(
        ["regression", "regression:error=l2", "rnc"],
        "diabetes",
        task="regress",
        seeds=2,
        out=str(tmp_path),
        epochs=2,
        batch_size=64,
        device="cpu",
    )
    assert content["main"] == "mae"
    assert content["baseline"] == "regression"
    assert "MAE less" in " ".join(capsys.readouterr().out.split())
    assert "mean absolute error" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (run("triplet"), "method 'triplet' does not serve the task regress"),
        (run(arguments={"eror": "l1"}), "did you mean 'error'"),
        (run(arguments={"error": "l3"}), "error 'l3' is not known"),
        (run(imperfect=("fewer=0.5",)), "imperfect: is not for the task regress"),
        (run(settings=ImageSettings(devices=2, device="cpu")), "devices: is no setting of the task regress"),
        (run(data="diabete"), "did you mean 'diabetes'"),
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        regress.TASK.check(given)
