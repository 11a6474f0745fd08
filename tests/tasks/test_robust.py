"""Robust: scores under attack by hand, what they have in common with classify, what is refused, and whole runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from counterpoise.data import Images
from counterpoise.engine.execute import execute_run
from counterpoise.engine.items import read_items
from counterpoise.engine.pool import run_all
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder
from counterpoise.learners.classifier import Classifier
from counterpoise.measure import accuracy
from counterpoise.measure.robustness import attacked_predictions
from counterpoise.nets import embed
from counterpoise.registry import catalogue
from counterpoise.tasks import base, classify, load_net, robust
from counterpoise.tasks.images import Prepared
from counterpoise.terminal import make_console
from counterpoise.training.run import ImageSettings, Run

TASK = robust.TASK
QUICK = robust.RobustSettings(epochs=1, batch_size=256, device="cpu", pgd_steps=3)


def run(method="cross-entropy", data="digits", settings=QUICK, **changes):
    return Run(method, data, settings=settings, task="robust", **changes)


class Dots(nn.Flatten):
    features = 1


def greys(labels, values, **factors):
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images(pixels, torch.tensor(labels, dtype=torch.int64), ("dark", "light"), "greys", factors=factors)


def threshold():
    """Names an image light where its grey is above the middle, 127.5."""
    method = Classifier(Dots(), classes=2)
    method.classifier.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
    method.classifier.bias.data.zero_()
    return method


# Within 0.1 of the range lie 25.5 greys: 140 and 110 fall, 200 and 20 stand, 100 is wrong from the start.
TEST = ([0, 0, 0, 1, 1, -1], [20, 110, 90, 140, 100, 128])


def scored(asked=QUICK, learner=None, **factors):
    test = greys(*TEST, **factors)
    parts = Prepared(greys([0, 1, 1], [0, 255, 250]), test.subset(torch.arange(0)), test)
    return TASK.score(run(settings=asked), learner or threshold(), parts, [])


def test_scores_by_hand():
    found = scored()
    assert found.metrics["accuracy"] == 4 / 5
    assert found.metrics["robust"] == pytest.approx(2 / 5)
    assert found.metrics["balanced"] == pytest.approx((1 + 1 / 2) / 2)
    assert found.metrics["balanced_robust"] == pytest.approx((2 / 3 + 0) / 2)
    assert found.per_class == pytest.approx([2 / 3, 0])
    assert found.groups == {"head": 0, "tail": pytest.approx(2 / 3)}  # by images of training
    assert found.items["robust"].tolist() == [1, 0, 1, 0, 0]
    for name in ("robust", "balanced_robust", "accuracy", "balanced"):
        assert found.items[name].mean().item() == pytest.approx(found.metrics[name])
    assert found.identity is not None


@pytest.mark.parametrize(("attack", "stand"), [(0.01, 4), (0.06, 3), (0.1, 2), (0.2, 1), (0.5, 0)])
def test_the_radius_is_a_share_of_the_range_of_pixels(attack, stand):
    assert scored(replace(QUICK, attack=attack)).metrics["robust"] == pytest.approx(stand / 5)


def test_steps_and_restarts_of_the_attack_are_those_of_the_settings(monkeypatch):
    asked = []
    monkeypatch.setattr(
        robust, "attacked_predictions", lambda net, data, *given: asked.append(given) or data.labels.clone()
    )
    TASK.score(
        run(settings=replace(QUICK, attack=0.3, pgd_steps=7, pgd_restarts=5), seed=4),
        threshold(),
        Prepared(greys(*TEST), greys([], []), greys(*TEST)),
        [],
    )
    assert asked == [(0.3, 7, 5, 4)]


def test_subgroups_are_judged_under_attack():
    factors = {"domain": torch.tensor([0, 0, 1, 1, 1, 1])}
    asked = replace(QUICK, group="domain")
    found = scored(asked, **factors)
    assert found.groups["domain 0"] == 1 / 2
    assert found.groups["domain 1"] == pytest.approx(1 / 3)
    assert found.diagnostics["worst domain"] == pytest.approx(1 / 3)
    assert TASK.declared(asked)["groups"]["metric"] == "robust"
    assert TASK.declared(asked)["front"] == ["accuracy", "robust"]


def test_another_radius_in_training_is_named():
    method = threshold()
    assert not any("radius" in warning for warning in scored(learner=method).warnings)
    for radius, warned in ((0.0, 0), (0.1, 0), (0.25, 1)):
        method.radius = radius
        named = [warning for warning in scored(learner=method).warnings if "radius" in warning]
        assert named == ["trained against attacks of radius 0.25, scored by those of radius 0.1"] * warned


def test_images_without_a_label_to_score_by_give_no_scores():
    test = greys([-1, -1], [0, 255])
    parts = Prepared(greys([0, 1], [0, 255]), test.subset(torch.arange(0)), test)
    assert TASK.score(run(), threshold(), parts, []).metrics == {}


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attack", 0.0, "attack: expected a number above 0 and of at most 1, got 0"),
        ("attack", 1.5, "attack: expected a number above 0 and of at most 1, got 1.5"),
        ("pgd_steps", 0, "pgd_steps: expected a whole number of at least 1, got 0"),
        ("pgd_restarts", 0, "pgd_restarts: expected a whole number of at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        replace(QUICK, **{name: value})


def test_rows_are_refused_and_another_task_refuses_the_attack():
    with pytest.raises(InputError, match=r"of the range that all have in common.* got rows of numbers, sklearn:wine"):
        TASK.load(run(data="sklearn:wine"))
    asked = replace(run(settings=replace(QUICK, attack=0.2)), task="classify")
    with pytest.raises(InputError, match="attack: is no setting of the task classify"):
        classify.TASK.check_run(asked)


class Voting(Classifier):
    def predict(self, data, batch_size=512):
        return super().predict(data, batch_size).round()


class Blind(Dots):
    def forward(self, x):
        return super().forward(x).detach()


class Frozen(Classifier):
    """The logits of a table, whatever the input's gradient."""

    def __init__(self):
        super().__init__(Blind(), classes=2)
        self.classifier.requires_grad_(False)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (Voting(Dots(), classes=2), "method 'cross-entropy': predicts in a way of its own"),
        (Frozen(), "method 'cross-entropy': its logits have no gradient by the images"),
    ],
)
def test_a_method_that_no_attack_can_follow_is_refused(learner, message, monkeypatch):
    monkeypatch.setattr(base, "make", lambda *_: learner)
    parts = Prepared(greys([0, 1], [0, 255]), greys([], []), greys([0, 1], [0, 255]))
    with pytest.raises(InputError, match=message):
        TASK.make(run(), parts)


def test_a_start_is_the_same_as_that_of_classify():
    ours = TASK.given_run(run(settings=replace(QUICK, attack=0.3)), "start", "simclr")
    plain = ImageSettings(epochs=1, batch_size=256, device="cpu")
    assert ours == classify.TASK.given_run(Run("wad", "digits", settings=plain, task="classify"), "start", "simclr")


# --- whole runs ---


def test_training_and_clean_scores_are_those_of_classify_to_the_last_bit(tmp_path):
    """With the settings of the claim on comp-sum losses, and a seed that it does not use."""
    asked = {"steps": 2, "batch_size": 64, "augmentations": "crop=0.7", "device": "cpu"}
    found, nets = [], []
    for task, own in (
        (classify.TASK, ImageSettings(**asked)),
        (TASK, robust.RobustSettings(**asked, attack=0.15, pgd_steps=1, pgd_restarts=1)),
    ):
        folder = tmp_path / task.name
        arguments = {"tau": 0.5, "lr": 0.008}
        one = Run("comp-sum", "digits", 33, arguments, settings=own, task=task.name, division=100)
        found.append(execute_run(one, folder))
        nets.append(load_net(folder)[0].state_dict())
    plain, attacked = found
    assert plain["curve"][-1]["loss"] == attacked["curve"][-1]["loss"]
    assert plain["metrics"] == {name: attacked["metrics"][name] for name in plain["metrics"]}
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    kept = [read_items(tmp_path / task) for task in ("classify", "robust")]
    assert (kept[0].metrics["accuracy"] == kept[1].metrics["accuracy"]).all()
    assert attacked["metrics"]["robust"] < attacked["metrics"]["accuracy"]


NEEDS = {  # besides labelled digits
    "fixmatch": {"imperfect": ("unlabelled=0.5",)},
    "wad": {"imperfect": ("unlabelled=0.5",)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "slug",
    [
        *(row.slug for row in catalogue.select(task="robust", done=True)),
        *(slug for slug, row in catalogue.REFERENCES.items() if "robust" in row.tasks and slug != "start-linear"),
    ],
)
def test_every_method_that_serves_the_task_is_scored_under_attack(slug, tmp_path):
    asked = run(slug, settings=replace(QUICK, epochs=None, steps=3, pgd_steps=2, pgd_restarts=1), **NEEDS.get(slug, {}))
    folder = make_output_folder(tmp_path / "out", "comparison")
    (result,) = run_all({(slug, 0): asked}, folder, jobs=1, console=make_console(quiet=True)).values()
    assert result["status"] == "done", result["error"]
    assert 0 <= result["metrics"]["robust"] < result["metrics"]["accuracy"]


@pytest.mark.slow
def test_a_linear_reader_is_attacked_through_its_layer(tmp_path):
    """Its gradient is that of the pixels, so that it falls to a nearer attack than is seen by the eye."""
    result = execute_run(run("naive-bayes-probe"), tmp_path)
    assert result["metrics"]["robust"] < result["metrics"]["accuracy"] / 2


@pytest.mark.slow
def test_a_run_is_scored_as_by_classify_and_under_attack_by_the_network_that_is_kept(tmp_path):
    asked = run("pgd-at", arguments={"attack_steps": 2}, seed=3)
    result = execute_run(asked, tmp_path)
    parts = TASK.load(asked)
    net, _ = load_net(tmp_path)
    named = attacked_predictions(net, parts.test, 0.1, 3, 2, seed=3)
    assert result["metrics"]["robust"] == accuracy(named, parts.test.labels)
    clean = embed(net, parts.test, lambda pixels: pixels / 127.5 - 1).argmax(1)
    assert result["metrics"]["accuracy"] == accuracy(clean, parts.test.labels) >= result["metrics"]["robust"]
    assert set(result["metrics"]) == set(TASK.metrics) - {"worst_group", "outsiders", "macro_std"}


@pytest.mark.slow
def test_training_on_all_images_scores_none(tmp_path):
    assert execute_run(run(train_on_all=True), tmp_path)["metrics"] == {}
