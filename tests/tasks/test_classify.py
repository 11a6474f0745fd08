"""Classify: what is trained on, what is scored, what is refused, and runs from start to the network that is kept."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from counterpoise import tasks
from counterpoise.data import Images, Splits, load, load_rows
from counterpoise.data.views import to_float
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.learners.classifier import Classifier, Network
from counterpoise.measure import accuracy, balanced_accuracy
from counterpoise.nets import embed
from counterpoise.tasks import base, classify, images, load_net
from counterpoise.tasks.images import Prepared
from counterpoise.training import run as runs
from counterpoise.training.run import ImageSettings, Run

TASK = classify.TASK
QUICK = ImageSettings(epochs=2, batch_size=64, device="cpu")


def run(method="cross-entropy", data="digits", **changes):
    return Run(method, data, settings=QUICK, task="classify", **changes)


def numbered(labels, classes="abc", start=0, **changes):
    """Images with these labels, each of which has a grey of its own."""
    pixels = (torch.arange(len(labels), dtype=torch.uint8) + start).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return Images(pixels, torch.tensor(labels), tuple(classes), "small", **changes)


def given(monkeypatch, train, test):
    """Let the task load these images."""
    monkeypatch.setattr(images, "load", lambda *_, **__: Splits(train, test))
    runs._loaded.cache_clear()


def test_all_images_but_those_of_the_test_are_trained_on_and_the_same_for_every_method():
    splits = load("digits", seed=0)
    for method in ("cross-entropy", "logit-adjusted"):
        parts = TASK.load(run(method))
        assert torch.equal(parts.train.pixels, splits.train.pixels)
        assert torch.equal(parts.test.pixels, splits.test.pixels)
        assert len(parts.probe) == 0
    assert (
        TASK.summary(run(), parts) == "training on 1,438 images; held out: 359 for the test; --all trains on them, too"
    )


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "long-tail=5",
            "random-tail=5",
            "linear-tail=5",
            "fewer=0.5",
            "label-noise=0.5",
            "label-noise-asymmetric=0.5",
        ),
        *("label-noise-by-size=0.5", "unlabelled=0.5", "labelled=0.5", "unknown=2", "missing=2", "known=0.5"),
        *("new-classes=2", "steps=2", "clients=2", "forget-class=1"),
    ],
)
def test_labels_of_test_images_are_the_true_ones_whatever_is_done_to_training(spec):
    clean = load("digits", seed=0).test
    known = {bytes(x.flatten().tolist()): y for x, y in zip(clean.pixels, clean.labels.tolist(), strict=True)}
    test = TASK.load(run(imperfect=(spec,))).test
    assert len(test)
    assert all(known[bytes(x.flatten().tolist())] == y for x, y in zip(test.pixels, test.labels.tolist(), strict=True))


def test_labels_of_test_images_are_wrong_where_that_is_asked_for():
    noisy = TASK.load(run(imperfect=("test:label-noise=0.5",))).test.labels
    assert (noisy != load("digits", seed=0).test.labels).float().mean() == pytest.approx(0.5, abs=0.01)


class Dots(nn.Flatten):
    features = 64


class Reader(Classifier):
    """Gives each image the logits of a table, by the grey that it has."""

    def __init__(self, table):
        super().__init__(Dots(), classes=table.shape[1])
        self.table = table

    def predict(self, data, batch_size=512):
        return self.table[data.pixels[:, 0, 0, 0].long()].log_softmax(1)


def scored(parts, predicted, classes=3, sure=2.0):
    """The scores of a network that predicts these classes for images of grey 0, 1, …"""
    table = sure * nn.functional.one_hot(torch.tensor(predicted), classes).float()
    return TASK.score_features(Reader(table), parts, torch.zeros(len(parts.test), 2))


def test_scores_by_hand():
    """Of 3, 1 and 2 test images of the classes, and one without a label, 2, 0 and 2 are named rightly."""
    test = numbered([0, 0, 0, 1, 2, 2, -1])
    train = numbered([0] * 8 + [2] * 4 + [1])
    found = scored(Prepared(train, train.subset(torch.arange(0)), test, train.labels), [0, 0, 2, 2, 2, 2, 1])
    likely = torch.tensor([2.0, 0, 0]).log_softmax(0)
    nll = -(4 * likely[0] + 2 * likely[1]) / 6
    assert found.metrics == {
        "balanced": pytest.approx(5 / 9),
        "accuracy": pytest.approx(4 / 6),
        "worst_class": 0.0,
        "ece": pytest.approx(float(likely[0].exp()) - 4 / 6, abs=1e-6),
        "nll": pytest.approx(float(nll)),
    }
    assert found.per_class == pytest.approx([2 / 3, 0, 1])
    assert found.groups == {"head": pytest.approx(2 / 3), "medium": 1.0, "tail": 0.0}  # by images of training
    assert set(found.items) == {"balanced", "accuracy", "nll"}
    for name, values in found.items.items():
        assert values.shape == (6,)
        assert values.mean().item() == pytest.approx(found.metrics[name])
    assert found.diagnostics == {}  # no label is wrong


def test_a_class_without_test_images_does_not_count():
    train = numbered([0, 1, 2])
    found = scored(Prepared(train, train, numbered([0, 1]), train.labels), [0, 0])
    assert found.per_class == [1.0, 0.0, None]
    assert found.metrics["balanced"] == found.items["balanced"].mean().item() == 0.5


def test_more_than_five_classes_have_a_top_5():
    images = numbered([0, 5], classes="abcdef")
    for order, expected in (([5, 4, 3, 2, 1, 0], 0.5), ([5, 4, 3, 2, 0, 1], 1.0)):
        table = torch.tensor([order] * 2).float()
        found = TASK.score_features(Reader(table), Prepared(images, images, images), torch.zeros(2, 2))
        assert found.metrics["top_5"] == expected


def test_subgroups_are_judged_by_the_factor_that_the_settings_name_or_by_group():
    """Rights and wrongs count alike in a subgroup, though an image of a rare class weighs more in the accuracy."""
    factors = {"group": torch.tensor([1, 1, 0, -1]), "domain": torch.tensor([0, 0, 1, 1])}
    test = numbered([0, 1, 0, 0], factors=factors, factor_names={"group": ("in", "out")})
    found = scored(Prepared(test, test, test), [1, 1, 0, 0])
    right, between = 5 / 6 + 4 / 6 * 1 / 3, 5 / 6 - 4 / 6 * 2 / 3  # the accuracies are 2/3 of 3 images and 1 of 1
    assert found.items["balanced"].tolist() == pytest.approx([between, 5 / 6, right, right])
    with pytest.warns(UserWarning, match="MacroStd: 3 of 3 subgroups are single items"):
        by_default = classify._with_subgroups(found, test, None)
    assert by_default.metrics == {**found.metrics, "worst_group": 0.5, "macro_std": pytest.approx(0.5)}
    chance = {name: value for name, value in by_default.diagnostics.items() if name.startswith("MacroStd")}
    assert chance["MacroStd by chance"] == pytest.approx(0.5)  # one of two is right, whichever it is
    assert chance["MacroStd p"] == 1
    assert by_default.diagnostics == {**chance, "group in": 1.0, "group out": 0.5}
    assert by_default.groups == found.groups
    with pytest.warns(UserWarning, match="MacroStd: 2 of 3 subgroups are single items"):
        asked = classify._with_subgroups(found, test, "domain")
    assert asked.metrics["macro_std"] < by_default.metrics["macro_std"]
    assert "MacroStd p" in asked.diagnostics
    assert asked.metrics["worst_group"] == asked.diagnostics["worst domain"] == 0.5
    assert asked.groups == {**found.groups, "domain 0": 0.5, "domain 1": 1.0}
    assert asked.items is found.items
    bare = numbered([0, 1, 0, 0])
    assert classify._with_subgroups(found, bare, None) == found
    apart = numbered([0, 1, 0, 0], factors={"group": torch.tensor([0, 1, 0, 0])})
    with pytest.warns(UserWarning, match="MacroStd is not defined"):
        assert "macro_std" not in classify._with_subgroups(found, apart, None).metrics


def test_without_two_subgroups_macro_std_is_neither_there_nor_computed(monkeypatch):
    for name in ("macro_std", "macro_std_null"):
        monkeypatch.setattr(classify, name, lambda *_: pytest.fail("it was computed"))
    for groups in (None, [0, 0, 0, 0], [-1, -1, -1, -1]):
        factors = {} if groups is None else {"group": torch.tensor(groups)}
        test = numbered([0, 1, 0, 0], factors=factors)
        found = scored(Prepared(test, test, test), [1, 1, 0, 0])
        judged = classify._with_subgroups(found, test, None)
        assert not any("macro" in name.lower() for name in (*judged.metrics, *judged.diagnostics))


@pytest.mark.slow
def test_a_run_is_scored_by_the_group_of_its_settings(tmp_path):
    asked = run(data="factors:scales")
    asked = replace(asked, settings=replace(QUICK, epochs=1, group="quarter", batch_size=512))
    result = execute_run(asked, tmp_path)
    quarters = [value for name, value in result["groups"].items() if name.startswith("quarter ")]
    assert len(quarters) == 4
    assert result["metrics"]["worst_group"] == min(quarters)
    assert TASK.declared(asked.settings)["groups"]["metric"] == "accuracy"


def test_wrong_labels_learnt_are_those_of_training_images():
    train = numbered([1, 1, 0, -1])  # of the greys 0, 1, 2, 3; the first two are wrong
    parts = Prepared(train, train.subset(torch.arange(0)), numbered([0, 1]), torch.tensor([0, 0, 0, 1]))
    assert scored(parts, [1, 0, 2, 1]).diagnostics == {"wrong_learnt": 0.5}
    assert scored(parts, [0, 0, 1, 0]).diagnostics == {"wrong_learnt": 0.0}


class Weighing(Reader):
    """A method with weights of its own, in the order of the training images."""

    def membership(self, data):
        return torch.tensor([0.9, 0.1, 0.5, 0.5, 0.2])[: len(data)]


def pool(truth, hidden=(1, 2, 3, 4)):
    """Training images of greys 0, 1, …, of which some are unlabelled; the test asks for the classes 0 and 1."""
    train = numbered([-1 if i in hidden else label for i, label in enumerate(truth)])
    return Prepared(train, train.subset(torch.arange(0)), numbered([0, 1]), torch.tensor(truth))


def outsiders(parts, kind=Reader):
    """What is found of the pool; the network is the surer, the higher the grey."""
    table = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    return classify._with_outsiders(runs.Scores({"accuracy": 0.5}), kind(table), parts)


def test_outsiders_are_told_from_others_by_the_methods_weights_or_by_how_sure_it_is():
    parts = pool([0, 1, 2, 0, 2])  # of the unlabelled ones the second and the fourth are outsiders
    assert outsiders(parts).metrics == {"accuracy": 0.5, "outsiders": 1 / 4}  # surer of 3 than of 2, not of 4
    assert outsiders(parts, Weighing).metrics["outsiders"] == 1.5 / 4  # 0.5 against 0.5 and 0.2, 0.1 against neither
    assert not outsiders(parts).warnings
    unknown = replace(parts, truth=parts.truth.where(torch.arange(5) != 4, -1))
    assert outsiders(unknown).metrics["outsiders"] == 1 / 2  # without the one whose class nobody knows
    assert outsiders(replace(parts, truth=None)).metrics == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("truth", "hidden", "why"),
    [
        ([0, 1, 0, 0, 1], (1, 2, 3, 4), "all 4 unlabelled images are of the test's classes"),
        ([0, 2, 2, 2, 2], (1, 2, 3, 4), "all 4 unlabelled images are outsiders"),
        ([0, 1, 0, 0, 1], (), "nothing is unlabelled"),
    ],
)
def test_where_there_is_one_kind_alone_the_score_of_outsiders_is_undefined_and_says_so(truth, hidden, why):
    found = outsiders(pool(truth, hidden))
    assert found.metrics == {"accuracy": 0.5}
    assert found.warnings == [f"the AUROC of outsiders is undefined: {why}"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["wad", "fixmatch"])
def test_a_run_with_outsiders_reports_how_well_they_are_told_from_others(method, tmp_path):
    specs = ("unlabelled=0.9", "outsiders=0.5")
    result = execute_run(replace(run(method, imperfect=specs), settings=replace(QUICK, given="start=none")), tmp_path)
    assert 0 <= result["metrics"]["outsiders"] <= 1
    plain = execute_run(
        replace(run(method, imperfect=specs[:1]), settings=replace(QUICK, given="start=none")), tmp_path / "plain"
    )
    assert "outsiders" not in plain["metrics"]
    assert not [warning for warning in plain["warnings"] if "outsiders" in warning]


def test_the_curve_reads_no_label_of_a_test_image(monkeypatch):
    hidden = [-1] * 6
    given(monkeypatch, numbered([0, 1, 2, 0, 1, -1]), numbered(hidden, start=9))
    parts = TASK.load(run(data="small"))
    figures, _ = TASK.probe(run(data="small"), parts)(Reader(torch.eye(3)[torch.tensor([0, 1, 1, 0, 0, 0])]))
    assert figures["fitted"] == 3 / 5  # of the labelled training images
    assert set(figures) == {"fitted", *TASK.curve, "uniformity"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cross-entropy", "logit-adjusted:posthoc"])
def test_a_run_from_start_to_the_network_that_classifies(method, tmp_path):
    slug, _, when = method.partition(":")
    arguments = {"when": when} if when else {}
    asked = run(slug, arguments=arguments, imperfect=("long-tail=5", "label-noise=0.3"))
    result = execute_run(asked, tmp_path)
    parts = TASK.load(asked)
    assert set(result["metrics"]) == set(TASK.metrics) - {"worst_group", "macro_std", "outsiders"}
    assert result["metrics"]["balanced"] > 0.2  # twice what chance has
    assert 0 <= result["diagnostics"]["wrong_learnt"] <= 1
    assert set(result["groups"]) == {"head", "medium", "tail"}
    assert [row["epoch"] for row in result["curve"]] == [1, 2]
    assert set(TASK.curve) <= result["curve"][0].keys()
    assert result["sizes"] == {"train": len(parts.train), "probe": 0, "test": len(parts.test)}
    net, config = load_net(tmp_path)
    assert isinstance(net, Network)
    predicted = embed(net, parts.test, to_float).argmax(1)
    assert accuracy(predicted, parts.test.labels) == result["metrics"]["accuracy"]
    assert balanced_accuracy(predicted, parts.test.labels, 10) == pytest.approx(result["metrics"]["balanced"])
    assert config["classes"] == list(parts.test.classes)


@pytest.mark.slow
def test_training_on_all_images_scores_none_of_them(tmp_path):
    result = execute_run(run(train_on_all=True), tmp_path)
    assert result["metrics"] == {}
    assert result["sizes"] == {"train": 1797, "probe": 0, "test": 0}
    assert any("no scores" in warning for warning in result["warnings"])


@pytest.mark.slow
def test_classes_that_were_never_learnt_are_named(tmp_path):
    result = execute_run(run(imperfect=("unknown=2",)), tmp_path)
    (warning,) = (text for text in result["warnings"] if "no training label" in text)
    never = [name for name, count in zip(result["classes"], result["counts"]["train"], strict=True) if not count]
    assert len(never) == 2
    assert f"of 2 classes ({', '.join(never)}): their" in warning
    assert result["metrics"]["worst_class"] == 0


def test_test_images_without_labels_are_not_scored_and_refused_where_scores_are_needed(monkeypatch, tmp_path):
    given(monkeypatch, numbered([0, 1, 2] * 4), numbered([-1] * 4))
    with pytest.raises(InputError, match="digits: its test images have no labels to score by"):
        TASK.check(run(data="digits", seed=3), scored=True)
    runs._loaded.cache_clear()
    assert execute_run(run(data="digits", seed=3), tmp_path)["metrics"] == {}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 0, 0, 0], [0, 0], "has one class, 'a', so there is nothing to distinguish"),
        ([0, 0, 1, 1], [2, 2], r"no class in common \(train: a, b; test: c\)"),
        ([-1, -1, -1, -1], [0, 1], "labels: CrossEntropy needs some, but none of the 4 training images has one"),
        ([0, 1, 2, 0], [0], "expected at least 2 test images, got 1"),
    ],
)
def test_data_that_cannot_be_learnt_from_or_scored_by_is_refused(train, test, message, monkeypatch):
    given(monkeypatch, numbered(train), numbered(test))
    with pytest.raises(InputError, match=message):
        TASK.check(run(seed=3), scored=True)


def test_a_method_that_does_not_classify_is_refused(monkeypatch):
    with pytest.raises(InputError, match="method 'simclr' does not serve the task classify"):
        TASK.check(run("simclr"))
    monkeypatch.setattr(base, "make", lambda *_: nn.Identity())
    with pytest.raises(InputError, match="method 'cross-entropy': has no logits to classify by"):
        TASK.check(run())


@pytest.mark.slow
def test_rows_are_classified_as_they_come_from_a_file(tmp_path):
    settings = replace(QUICK, epochs=30, batch_size=32)
    result = execute_run(replace(run(data="sklearn:wine"), settings=settings), tmp_path)
    assert result["metrics"]["accuracy"] > 0.9
    assert (result["items"], result["columns"][0], result["shape"]) == ("rows", "alcohol", [13])
    assert not (tmp_path / "gallery.npz").exists()
    net, about = load_net(tmp_path)
    _, test = load_rows("sklearn:wine", seed=0)
    assert about["columns"] == result["columns"]
    predicted = net(test.inputs).argmax(1)  # the columns differ by a factor of a thousand, which the network scales
    assert accuracy(predicted, test.labels) == result["metrics"]["accuracy"]


def test_the_rows_themselves_are_features_of_a_linear_classifier(tmp_path):
    settings = replace(QUICK, backbone="identity", batch_size=32)
    result = execute_run(replace(run(data="sklearn:wine"), settings=settings), tmp_path)
    assert result["parameters"] == 3 * (13 + 1)
    (rows,) = (part.train for part in [TASK.load(replace(run(data="sklearn:wine"), settings=settings))])
    start = TASK.make(replace(run(data="sklearn:wine"), settings=settings), TASK.load(run(data="sklearn:wine")))
    scaled = start.encoder(rows.inputs)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(13), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(13))


def test_imperfections_of_labels_are_those_of_rows(tmp_path):
    result = execute_run(run(data="sklearn:digits", imperfect=("long-tail=10", "label-noise=0.3")), tmp_path)
    assert set(result["diagnostics"]) == {"wrong_learnt"}
    assert any("long tail" in note for note in result["notes"])
    assert {"head", "tail"} <= set(result["groups"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "size: is of images, got 8 for rows of numbers"),
        ({"augmentations": "flip"}, "augmentations: are views of images, got rows of 13 numbers"),
        ({"backbone": "timm:resnet18"}, "backbone of rows 'timm:resnet18' is not known. Known: identity, small"),
        ({"init": "pretrained"}, "init: pretrained weights are for encoders of images"),
    ],
)
def test_what_is_of_images_is_refused_for_rows(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TASK.check(replace(run(data="sklearn:wine"), settings=replace(QUICK, **changes)))


def test_a_task_of_images_refuses_rows():
    with pytest.raises(InputError, match="the task pretrain is for images, got rows of numbers, sklearn:wine"):
        tasks.find("pretrain").load(Run("simclr", "sklearn:wine"))
