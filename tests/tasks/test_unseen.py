"""Retrieve and few-shot: classes apart, what is scored, runs from the command's functions to the report."""

import json

import pytest
import torch

from counterpoise import compare, tasks, train
from counterpoise.data import Images, Splits
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.measure.retrieval import retrieval
from counterpoise.nets import embed
from counterpoise.tasks import few_shot, retrieve, unseen
from counterpoise.tasks.images import load_encoder
from counterpoise.tasks.runs import Run, Settings

QUICK = Settings(epochs=1, batch_size=64, device="cpu")


def run(method="triplet", data="digits", task="retrieve", **changes):
    return Run(method, data, settings=QUICK, task=task, **changes)


def test_classes_are_divided_by_the_seed():
    halves = []
    for seed in (0, 0, 1):
        train, gallery, test = unseen.images_of(run(seed=seed))
        assert len(train.classes) == len(test.classes) == 5
        assert not {*train.classes} & {*test.classes}
        assert gallery.classes == test.classes
        assert train.labels.unique().tolist() == test.labels.unique().tolist() == list(range(5))
        assert abs(len(gallery) - len(test)) <= 5
        halves.append(train.classes)
    assert halves[0] == halves[1] != halves[2]


def test_data_that_divides_its_classes_is_taken_as_it_is():
    train, gallery, test = unseen.images_of(run(data="glyphs:script=greek:split=character"))
    assert not {*train.classes} & {*test.classes}
    assert len(test.classes) < len(train.classes) / 2
    assert len(gallery) + len(test) > 2 * len(test.classes)


def test_imperfections_fall_on_the_training_images():
    train, _, test = unseen.images_of(run(imperfect=("fewer=0.5", "test:tint=0.5")))
    whole, _, _ = unseen.images_of(run())
    assert len(train) < 0.6 * len(whole)
    assert train.pixels.shape[1] == test.pixels.shape[1] == 3


def test_a_run_is_scored_by_its_embeddings_of_all_unseen_images(tmp_path):
    result = retrieve.execute(run(), tmp_path)
    assert set(result["metrics"]) == set(retrieve.METRICS)
    assert result["curve"][0]["knn"] > 0
    encoder, _ = load_encoder(tmp_path)
    _, gallery, test = unseen.images_of(run())
    rows = torch.cat([embed(encoder, part, to_float) for part in (test, gallery)])
    found = retrieval(rows, torch.cat([test.labels, gallery.labels]))
    assert result["metrics"]["map_r"] == pytest.approx(found.map_r, abs=1e-4)
    assert result["classes"][:5] == list(test.classes)
    assert result["counts"]["train"][:5] == [0] * 5
    assert sum(result["counts"]["test"]) == len(test)
    assert all(len(counts) == len(result["classes"]) == 10 for counts in result["counts"].values())
    assert retrieve.execute(run(), tmp_path) == json.loads((tmp_path / "result.json").read_text())


def test_a_class_of_one_image_is_named(monkeypatch, tmp_path):
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    train = Images(pixels, torch.arange(40) % 2, ("a", "b", "c", "d", "only"), "noise")
    labels = torch.tensor([2, 3] * 10 + [4])
    test = Images(pixels[:21], labels, train.classes, "noise")
    monkeypatch.setattr(unseen, "load", lambda *_, **__: Splits(train, test))
    unseen.prepare.cache_clear()
    result = retrieve.execute(run(data="noise"), tmp_path)
    unseen.prepare.cache_clear()
    assert result["warnings"][-1] == "1 classes have one image, which has nothing to find: only"


def test_episodes_need_six_images_of_two_classes(monkeypatch):
    pixels = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    train = Images(pixels, torch.arange(40) % 2, ("a", "b", "c", "d"), "few")
    test = Images(pixels[:15], torch.tensor([2] * 10 + [3] * 5), train.classes, "few")
    monkeypatch.setattr(unseen, "load", lambda *_, **__: Splits(train, test))
    unseen.prepare.cache_clear()
    with pytest.raises(InputError, match=r"expected at least 2 unseen classes with 6 images or more .*, got 1"):
        few_shot.check(run("protonet", "few", "few-shot"))
    unseen.prepare.cache_clear()


def test_few_shot_episodes(tmp_path):
    result = few_shot.execute(run("protonet", task="few-shot"), tmp_path)
    assert set(result["metrics"]) == set(few_shot.METRICS)
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
    assert tasks.of("arcface") == "retrieve"
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
        tasks.find(task).check(given)
