"""Retrieve and few-shot: classes apart, what is scored, runs from the command's functions to the report."""

import json

import pytest
import torch

from counterpoise import compare, train
from counterpoise.data import Images, Splits
from counterpoise.data.views import to_float
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.measure.retrieval import retrieval
from counterpoise.nets import embed
from counterpoise.registry import catalogue
from counterpoise.tasks import few_shot, find, load_encoder, pretrain, retrieve, unseen
from counterpoise.tasks.images import Prepared
from counterpoise.training import run as runs
from counterpoise.training.run import ImageSettings, Run

QUICK = ImageSettings(epochs=1, batch_size=64, device="cpu")


def parts_of(run):
    return retrieve.TASK.load(run).images.values()


def run(method="triplet", data="digits", task="retrieve", **changes):
    return Run(method, data, settings=QUICK, task=task, **changes)


def test_classes_are_divided_by_the_seed():
    halves = []
    for seed in (0, 0, 1):
        train, gallery, test = parts_of(run(seed=seed))
        assert len(train.classes) == len(test.classes) == 5
        assert not {*train.classes} & {*test.classes}
        assert gallery.classes == test.classes
        assert train.labels.unique().tolist() == test.labels.unique().tolist() == list(range(5))
        assert abs(len(gallery) - len(test)) <= 5
        halves.append(train.classes)
    assert halves[0] == halves[1] != halves[2]


def given(monkeypatch, train_labels, test_labels, classes=tuple("abcdefgh")):
    """Let `unseen` load images of these labels, each of which has a grey of its own."""
    count = len(train_labels) + len(test_labels)
    pixels = (torch.arange(count, dtype=torch.uint8) % 251).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    names = tuple(f"{i}.png" for i in range(count))
    parts = []
    for rows, labels in ((slice(0, len(train_labels)), train_labels), (slice(len(train_labels), None), test_labels)):
        parts.append(Images(pixels[rows], torch.as_tensor(labels), classes, "small", paths=names[rows]))
    monkeypatch.setattr(unseen, "load", lambda *_, **__: Splits(*parts))
    runs._loaded.cache_clear()


def test_unseen_classes_are_judged_by_all_their_images(monkeypatch):
    """Of 8 classes of 5 images, one of which is a test image each, and a ninth that is in test alone."""
    train, test = torch.arange(32) % 8, torch.arange(8)
    given(
        monkeypatch,
        torch.cat([train, torch.tensor([-1, -1])]),
        torch.cat([test, torch.tensor([8] * 5 + [-1])]),
        tuple("abcdefghi"),
    )
    learnt, gallery, queries = parts_of(run(data="small"))
    assert learnt.counts().tolist() == [4] * 4
    assert (gallery.counts() + queries.counts()).tolist() == [5] * 5
    assert gallery.counts().min() >= 2
    assert queries.counts().min() >= 2
    assert queries.classes[-1] == "i"
    grey = [int(images.pixels[i, 0, 0, 0]) for images in (learnt, gallery, queries) for i in range(len(images))]
    assert len({*grey}) == len(grey) == 16 + 25
    for images in (gallery, queries):  # each image has kept its file and its class
        for pixels, label, path in zip(images.pixels, images.labels.tolist(), images.paths, strict=True):
            number = int(path.removesuffix(".png"))
            assert int(pixels[0, 0, 0]) == number
            assert "abcdefghi".index(images.classes[label]) == (number % 8 if number < 32 else min(number - 34, 8))


@pytest.mark.parametrize(
    ("task", "method", "sizes", "message"),
    [
        (
            retrieve,
            "triplet",
            [1] * 4,
            r"small: expected at least 2 unseen classes with 2 images or more .*, got 0: '.' has 1, '.' has 1",
        ),
        (
            few_shot,
            "protonet",
            [5] * 8,
            "6 images or more .5 examples and one to classify., got 0: .* and 1 more have fewer than 6",
        ),
    ],
)
def test_unseen_classes_that_are_too_small_are_named_and_counted(task, method, sizes, message, monkeypatch):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    given(monkeypatch, labels, labels[:1] * 0)
    with pytest.raises(InputError, match=message):
        task.TASK.check(run(method, "small", task="few-shot" if task is few_shot else "retrieve"), scored=True)


def test_small_classes_are_enough(monkeypatch, tmp_path):
    """8 classes of 5 images: 4 unseen ones to be retrieved, by all 20 images."""
    given(monkeypatch, torch.arange(32) % 8, torch.arange(8))
    small = Run(
        "multi-similarity", "small", settings=ImageSettings(epochs=1, batch_size=8, device="cpu"), task="retrieve"
    )
    retrieve.TASK.check(small, scored=True)
    result = execute_run(small, tmp_path)
    assert result["sizes"]["probe"] + result["sizes"]["test"] == 20
    assert result["curve"][0]["loss"] > 0


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (
            [0, 1, 2, 3],
            {},
            "labels: expected a class with at least 2 training images, got none; the largest, '.', has 1",
        ),
        ([0, 1, 2, 3] * 5, {"batch_size": 3}, r"batch_size: expected at least 4 .* got 3"),
        ([0, 1, 2, 3] * 5, {"batch_size": 6, "devices": 2, "exchange": "none"}, "at least 4 images for each of 2 proc"),
    ],
)
def test_what_makes_no_batch_is_refused_before_training(labels, settings, message, monkeypatch):
    given(monkeypatch, torch.tensor(labels), torch.arange(4).repeat(2))
    with pytest.raises(InputError, match=message):
        retrieve.TASK.check(
            Run("triplet", "small", settings=ImageSettings(**{"device": "cpu", **settings}), task="retrieve")
        )


def test_an_image_that_probes_could_hold_out_is_missed_by_name(monkeypatch):
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    labels = {"of one each": torch.arange(4), "none": torch.full((4,), -1)}
    for name, message in (
        ("of one each", "at least 2 labelled training images.*the largest, 'a', has 1"),
        ("none", "no labels"),
    ):
        found = Images(pixels, labels[name], tuple("abcd"), "small")
        with pytest.raises(InputError, match=message):
            pretrain.TASK.check_parts(
                run("simclr", task="pretrain"), Prepared(found, found.subset(torch.arange(0)), found), scored=True
            )


def test_data_that_divides_its_classes_is_taken_as_it_is():
    train, gallery, test = parts_of(run(data="glyphs:script=greek:split=character"))
    assert not {*train.classes} & {*test.classes}
    assert len(test.classes) < len(train.classes) / 2
    assert len(gallery) + len(test) > 2 * len(test.classes)


def test_imperfections_fall_on_the_training_images():
    train, _, test = parts_of(run(imperfect=("fewer=0.5", "test:tint=0.5")))
    whole, _, _ = parts_of(run())
    assert len(train) < 0.6 * len(whole)
    assert train.pixels.shape[1] == test.pixels.shape[1] == 3


def test_a_run_is_scored_by_its_embeddings_of_all_unseen_images(tmp_path):
    result = execute_run(run(), tmp_path)
    assert set(result["metrics"]) == set(retrieve.TASK.metrics)
    assert result["curve"][0]["knn"] > 0
    encoder, _ = load_encoder(tmp_path)
    _, gallery, test = parts_of(run())
    rows = torch.cat([embed(encoder, part, to_float) for part in (test, gallery)])
    found = retrieval(rows, torch.cat([test.labels, gallery.labels]))
    assert result["metrics"]["map_r"] == pytest.approx(found.map_r, abs=1e-4)
    assert result["classes"][:5] == list(test.classes)
    assert result["counts"]["train"][:5] == [0] * 5
    assert sum(result["counts"]["test"]) == len(test)
    assert all(len(counts) == len(result["classes"]) == 10 for counts in result["counts"].values())
    assert execute_run(run(), tmp_path) == json.loads((tmp_path / "result.json").read_text())


def test_a_class_of_one_image_is_named(monkeypatch, tmp_path):
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    train = Images(pixels, torch.arange(40) % 2, ("a", "b", "c", "d", "only"), "noise")
    labels = torch.tensor([2, 3] * 10 + [4])
    test = Images(pixels[:21], labels, train.classes, "noise")
    monkeypatch.setattr(unseen, "load", lambda *_, **__: Splits(train, test))
    runs._loaded.cache_clear()
    result = execute_run(run(data="noise"), tmp_path)
    assert result["warnings"][-1] == "1 of 3 classes have 1 image, which has nothing to find: retrieval needs 2: only"


def test_episodes_need_six_images_of_two_classes(monkeypatch):
    given(monkeypatch, torch.arange(40) % 2, torch.tensor([2] * 10 + [3] * 5))
    with pytest.raises(InputError, match=r"at least 2 unseen classes with 6 images or more .*, got 1: 'd' has 5"):
        few_shot.TASK.check(run("protonet", "few", "few-shot"))


@pytest.mark.slow
def test_few_shot_episodes(tmp_path):
    result = execute_run(run("protonet", task="few-shot"), tmp_path)
    assert set(result["metrics"]) == set(few_shot.TASK.metrics)
    assert result["metrics"]["five_shot"] > result["metrics"]["one_shot"] > 0.3


@pytest.mark.slow
def test_compare_and_train(tmp_path):
    content = compare(
        ["triplet", "supcon", "multi-similarity"],
        "digits",
        task="retrieve",
        seeds=2,
        out=str(tmp_path / "c"),
        quiet=True,
        epochs=1,
        batch_size=64,
        device="cpu",
    )
    assert content["baseline"] == "multi-similarity"
    assert all(run["status"] == "done" for row in content["methods"] for run in row["runs"])
    assert "Recall@1" in (tmp_path / "c" / "report.html").read_text()
    assert catalogue.task_of("arcface") == "retrieve"
    result = train("arcface", "digits", out=str(tmp_path / "t"), quiet=True, epochs=1, batch_size=64, device="cpu")
    assert "recall_1" in result["metrics"]


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("retrieve", run("dcl"), "method 'dcl' does not serve the task retrieve; it serves: pretrain"),
        ("retrieve", run(data="glyphs:classes=2"), "expected at least 2 classes to learn from, got 1"),
    ],
)
def test_what_cannot_work_is_refused(task, given, message):
    with pytest.raises(InputError, match=message):
        find(task).check(given)
