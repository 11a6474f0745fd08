"""The compose task: scores by hand, runs from the command's functions to the report, and what it refuses."""

import json

import pytest
import torch

from counterpoise import compare, train
from counterpoise.data import Images, Splits
from counterpoise.data.composed import Composed
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.registry import catalogue
from counterpoise.tasks import compose, load_encoder
from counterpoise.training.run import ImageSettings, Run

LETTERS = "glyphs:script=latin:classes=120"
QUICK = ImageSettings(epochs=1, batch_size=32, size=16, device="cpu")


def run(method="composed-retrieval", data=LETTERS, **changes):
    return Run(method, data, **{"settings": QUICK, "task": "compose", "imperfect": ("fewer=0.3",), **changes})


def test_recall_by_hand():
    rng = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(9, 4, generator=rng), torch.randn(12, 4, generator=rng)
    labels, references = torch.arange(12) % 4, torch.arange(9)
    answers = (references + 1 + torch.randint(0, 11, (9,), generator=rng)) % 12
    found = compose.search(queries, gallery, references, answers, labels, ks=(1, 2, 5, 99))
    cosine = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(gallery).T
    for k in (1, 2, 5, 99):
        right = very = 0
        for i in range(9):
            order = [j for j in cosine[i].argsort(descending=True).tolist() if j != i][:k]
            right += any(labels[j] == labels[answers[i]] for j in order)
            very += int(answers[i]) in order
        assert found.recall[k] == pytest.approx(right / 9)
        assert found.instance[k] == pytest.approx(very / 9)
    assert found.recall[99] == found.instance[99] == 1
    assert found.recall[1] <= found.recall[2] <= found.recall[5]
    assert all(found.instance[k] <= found.recall[k] for k in found.recall)


def test_a_query_does_not_find_its_own_image():
    gallery = torch.eye(3)
    found = compose.search(gallery, gallery, torch.arange(3), torch.tensor([1, 2, 0]), torch.tensor([0, 0, 0]), ks=(2,))
    assert found.instance[2] == 1
    with pytest.raises(InputError, match="answers: query 1 seeks image 1, which is its own"):
        compose.search(gallery, gallery, torch.arange(3), torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]))


def test_equal_embeddings_find_what_chance_finds_and_not_what_comes_first():
    """Of 20 classes of 10 in a sorted gallery; row number would find the first class alone."""
    labels, references = torch.arange(20).repeat_interleave(10), torch.arange(200)
    answers = references // 10 * 10 + (references + 1) % 10
    found = compose.search(torch.ones(200, 2), torch.ones(200, 2), references, answers, labels, ks=(1, 10, 100))
    assert found.recall[1] == pytest.approx(9 / 199, abs=0.03)
    assert found.recall[10] == pytest.approx(1 - (1 - 9 / 199) ** 10, abs=0.12)
    assert found.instance[100] == pytest.approx(0.5, abs=0.06)


def test_items_without_a_label_are_like_no_other():
    rows, labels = torch.eye(4), torch.tensor([0, -1, -1, 0])
    found = compose.search(rows[1:2], rows, torch.tensor([0]), torch.tensor([2]), labels, ks=(1, 3))
    assert found.recall == {1: 0.0, 3: 1.0}


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.uint16, torch.uint32])
def test_numbers_and_labels_of_any_integer_type_give_the_same(kind):
    rows, numbers = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    given = (numbers, (numbers + 2) % 9, numbers % 4)
    expected = compose.search(rows, rows, *given, ks=(1, 2))
    assert compose.search(rows, rows, *(x.to(kind) for x in given), ks=(1, 2)) == expected


@pytest.mark.usefixtures("plain_shapes")
def test_what_cannot_be_searched_is_refused_by_name():
    three, one = torch.eye(3), torch.tensor([0])
    with pytest.raises(InputError, match="gallery: expected at least 1 image to find, got an empty one"):
        compose.search(three[:1], three[:0], one, one, one[:0])
    with pytest.raises(InputError, match="answers: query 0 seeks image 3, which is not among the 3 of the gallery"):
        compose.search(three[:1], three, one, torch.tensor([3]), torch.arange(3))
    with pytest.raises(InputError, match="queries: 1 of 3 numbers are NaN"):
        compose.search(three[:1].clone().index_fill(1, one, torch.nan), three, one, one + 1, torch.arange(3))
    with pytest.raises(InputError, match="ks: expected a whole number of at least 1"):
        compose.search(three[:1], three, one, one + 1, torch.arange(3), ks=(0,))
    for ks, message in (((2.5,), "ks: expected a whole number"), ((), "ks: expected at least one number")):
        with pytest.raises(InputError, match=message):
            compose.search(three[:1], three, one, one + 1, torch.arange(3), ks=ks)
    with pytest.raises(InputError, match="labels: expected integers of at least -1, got -2"):
        compose.search(three[:1], three, one, one + 1, torch.arange(3) - 2)
    with pytest.raises(InputError, match="references: expected integers from 0 to 2, got 3"):
        compose.search(three[:1], three, one + 3, one + 1, torch.arange(3))


@pytest.mark.slow
def test_all_is_drawn_by_the_seed_and_test_has_the_words_of_training_alone():
    first, other = (compose.TASK.load(run(seed=seed)) for seed in (0, 1))
    assert isinstance(first.train, Composed)
    assert isinstance(first.test, Composed)
    assert first.test.words <= first.train.words
    assert first.train.texts != other.train.texts
    assert len(first.probe) == 0
    unseen = compose.TASK.load(run(data="glyphs:script=latin:split=character", imperfect=("fewer=0.5",)))
    assert not {*unseen.train.labels.tolist()} & {*unseen.test.labels.tolist()}
    assert unseen.test.words <= unseen.train.words


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"uncertain": False}])
def test_a_run_is_scored_and_kept(arguments, tmp_path, monkeypatch):
    one = run(arguments=arguments)
    result = execute_run(one, tmp_path)
    assert set(result["metrics"]) == set(compose.TASK.metrics)
    assert result["metrics"]["recall_1"] <= result["metrics"]["recall_10"] <= result["metrics"]["recall_50"]
    test = compose.TASK.load(one).test
    encoder, config = load_encoder(tmp_path)
    assert config["shape"] == [1, 16, 16]
    assert encoder(torch.zeros(1, 1, 16, 16)).shape == (1, 512)
    assert result["sizes"]["test"] == len(test)
    monkeypatch.setattr(execute, "_result", None)
    assert execute_run(one, tmp_path) == json.loads((tmp_path / "result.json").read_text())


@pytest.mark.slow
def test_training_finds_what_is_asked_for(tmp_path):
    result = execute_run(
        run(settings=ImageSettings(epochs=8, batch_size=32, size=16, device="cpu"), imperfect=()), tmp_path
    )
    assert result["metrics"]["recall_1"] > 0.3
    assert result["curve"][-1]["loss"] < result["curve"][0]["loss"]


@pytest.mark.slow
def test_compare_and_train(tmp_path, capsys):
    content = compare(
        ["composed-retrieval:uncertain=false", "composed-retrieval"],
        LETTERS,
        task="compose",
        imperfect=["fewer=0.3"],
        seeds=2,
        out=str(tmp_path / "c"),
        epochs=1,
        batch_size=32,
        size=16,
        device="cpu",
    )
    assert content["main"] == "recall_1"
    assert content["baseline"] == "composed-retrieval:uncertain=false"
    assert all(one["status"] == "done" for row in content["methods"] for one in row["runs"])
    assert "R@1 %" in capsys.readouterr().out
    assert "Recall@10" in (tmp_path / "c" / "report.html").read_text()
    assert catalogue.task_of("composed-retrieval") == "compose"
    result = train(
        "composed-retrieval",
        LETTERS,
        imperfect=["fewer=0.3"],
        out=str(tmp_path / "t"),
        quiet=True,
        epochs=1,
        batch_size=32,
        size=16,
        device="cpu",
    )
    assert "instance_50" in result["metrics"]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (run("triplet"), "method 'triplet' does not serve the task compose"),
        (run(arguments={"uncertian": False}), "did you mean 'uncertain'"),
        (run(arguments={"gamma": -1.0}), "gamma: expected a number of at least 0"),
        (run(settings=ImageSettings(devices=2, device="cpu")), "devices: expected 1"),
        (run(data="digits"), "classes: expected Unicode names of characters, as glyphs have, got"),
        (run(data="glyphs:script=braille", imperfect=()), "has no letter that is there twice"),
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        compose.TASK.check(given)


def test_a_test_set_without_a_query_is_named(monkeypatch):
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    names = ("LATIN SMALL LETTER A", "LATIN CAPITAL LETTER A", "DIGIT ONE")
    train_images = Images(pixels, torch.tensor([0, 0, 1, 1]), names, "training")
    test = Images(pixels, torch.tensor([0, 0, 2, 2]), names, "unseen")
    monkeypatch.setattr(compose, "load", lambda *_, **__: Splits(train_images, test))
    with pytest.raises(InputError, match="unseen: has no letter that is there twice"):
        compose.prepare("glyphs", (), 0, 0, None, None, False)
