"""Labels of new images: by a network's own logits, or by the votes of what a run has learnt from."""

import csv
import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import counterpoise
from counterpoise import commands
from counterpoise.commands.predict import Known, by_classifier, by_neighbours, classes_of, predict
from counterpoise.errors import InputError
from counterpoise.measure import knn_predict

SIDE = 8
LEVELS = {"dark": 40, "light": 210}
QUICK = {"epochs": 1, "batch_size": 8, "device": "cpu", "quiet": True, "loggers": ()}


def paint(path, level, draw):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = draw.integers(-20, 20, (SIDE, SIDE))
    Image.fromarray((level + noise).astype(np.uint8)).save(path)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images to learn from, of two classes that any network distinguishes."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, level in LEVELS.items():
        for i in range(20):
            paint(folder / name / f"{i}.png", level, draw)
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Images without labels, and a file that is none."""
    folder, draw = tmp_path_factory.mktemp("new"), np.random.default_rng(1)
    for i, level in enumerate((40, 210, 210, 40)):
        paint(folder / f"{i}.png", level, draw)
    (folder / "2.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    counterpoise.train("simclr", photos, out=folder, **QUICK)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_nearest_images_that_the_run_knows_vote(run, photos, new, tmp_path):
    found = predict(str(run), str(new), str(tmp_path / "p.csv"), k=3)
    assert [row.path for row in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row.label for row in found] == ["dark", "light", None, "dark"]
    for row in found[:2]:
        assert row.confidences[0] > 0.9
        assert sum(row.confidences) == pytest.approx(1)
        assert len(row.nearest) == 3
        assert all(path.startswith(f"{row.label}/") and (photos / path).exists() for path in row.nearest)
    written = rows(tmp_path / "p.csv")
    names = [f"{name}{end}" for end in ("", "_2", "_3") for name in ("label", "confidence")]
    assert list(written[0]) == ["path", *names, "nearest", "nearest_2", "nearest_3"]
    assert [row["label"] for row in written] == ["dark", "light", "", "dark"]
    assert [row["nearest"] for row in written] == [row.nearest[0] if row.nearest else "" for row in found]
    assert all(not value for name, value in written[2].items() if name != "path")


def test_a_row_without_a_label_is_named(run, new, tmp_path):
    with pytest.warns(match=r"rows without a label, their images being unreadable \(1\): 2\.png"):
        predict(str(run), str(new), str(tmp_path / "p.csv"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_run_learnt_from_must_be_as_it_was(photos, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for path in photos.glob("*/*.png"):
        (tmp_path / "own" / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / "own" / path.parent.name / path.name).write_bytes(path.read_bytes())
    counterpoise.train("simclr", "own", out="run", **QUICK)
    predict("run", str(new), "p.csv")
    (tmp_path / "own" / "dark" / "0.png").write_bytes((photos / "light" / "0.png").read_bytes())
    with pytest.raises(
        InputError, match=r"own: is not as it was when the run in run learnt from it \(changed: .*0\.png"
    ):
        predict("run", str(new), "p.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(InputError, match=r"own: is not there, .* start the command in the folder in which the run was"):
        predict("../run", str(new), "p.csv")
    assert not os.path.exists("p.csv")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_weights_that_a_run_started_from_may_be_gone(photos, new, tmp_path):
    for name, options in (("start", {}), ("run", {"init": str(tmp_path / "start")})):
        counterpoise.train("simclr", photos, out=tmp_path / name, **QUICK, **options)
    before = predict(str(tmp_path / "run"), str(new), str(tmp_path / "p.csv"))
    shutil.rmtree(tmp_path / "start")
    assert predict(str(tmp_path / "run"), str(new), str(tmp_path / "p.csv")) == before


@pytest.mark.slow
def test_images_without_files_are_named_by_their_number(tmp_path, new):
    counterpoise.train("simclr", "digits", out=tmp_path / "run", **{**QUICK, "batch_size": 512})
    found = predict(str(tmp_path / "run"), str(new), str(tmp_path / "p.csv"))
    assert {path.split(" ")[0] for row in found for path in row.nearest} <= {"train", "probe"}
    assert found[0].label in "0123456789"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_without_labels_has_none_to_give(tmp_path, new):
    draw = np.random.default_rng(2)
    for i in range(12):
        paint(tmp_path / "flat" / f"{i}.png", 40 + 10 * i, draw)
    counterpoise.train("simclr", tmp_path / "flat", out=tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match=r"run: the images of this run have no labels to predict; `embed` gives"):
        predict(str(tmp_path / "run"), str(new), str(tmp_path / "p.csv"))


class Brightness(nn.Module):
    """A classifier whose logits are known: the mean pixel, and its opposite."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        mean = images.flatten(1).mean(1)
        return torch.stack([-10 * mean, 10 * mean, torch.zeros_like(mean), -20 + torch.zeros_like(mean)], 1)


CLASSES = ("dark", "light", "neither", "none")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("classes", [4, CLASSES])
def test_a_network_with_classes_decides_itself(monkeypatch, new, tmp_path, classes):
    found = Brightness(classes), {"shape": [1, SIDE, SIDE], "classes": list(CLASSES)}
    monkeypatch.setattr(commands.predict, "load_image_net", lambda folder: found)
    given = predict("run", str(new), str(tmp_path / "p.csv"))
    assert [row.labels for row in given] == [
        ("dark", "neither", "light"), ("light", "neither", "dark"), (), ("dark", "neither", "light"),
    ]  # fmt: skip
    assert list(rows(tmp_path / "p.csv")[0])[-1] == "confidence_3"
    assert given[0].confidences[0] > 0.9


def test_confidences_are_the_softmax():
    logits = torch.tensor([[0.0, 3.0], [200.0, 0.0]])
    torch.testing.assert_close(by_classifier(logits, ("a", "b")).shares, logits.double().softmax(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classes_of(Brightness(3), {"classes": CLASSES}), "its network has 3 classes, its data 4"),
        (lambda: by_classifier(torch.zeros(2, 3), CLASSES), "expected logits of its 4 classes from its network, got 3"),
        (lambda: by_classifier(torch.full((1, 4), torch.nan), CLASSES), "logits that are NaN or infinite"),
    ],
)
def test_logits_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_encoder_has_no_classes():
    assert classes_of(nn.Flatten(), {"classes": CLASSES}) is None


def test_votes_are_those_of_the_knn_accuracy_also_where_all_are_equally_near():
    draw = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 5, generator=draw), torch.randint(0, 3, (40,), generator=draw)
    queries, names = torch.randn(30, 5, generator=draw), tuple(map(str, range(40)))
    found = by_neighbours(queries, Known(features, labels, ("a", "b", "c"), names), 7)
    torch.testing.assert_close(found.shares.argmax(1), knn_predict(features, labels, queries, 3, k=7))
    torch.testing.assert_close(found.shares.sum(1), torch.ones(30, dtype=torch.float64))
    nearest = nn.functional.normalize(queries) @ nn.functional.normalize(features).T
    assert [row[0] for row in found.nearest] == [names[i] for i in nearest.argmax(1).tolist()]
    same = by_neighbours(queries, Known(torch.ones(40, 5), labels, ("a", "b", "c"), names), 7)
    torch.testing.assert_close(same.shares[0], torch.bincount(labels).double() / 40)


def test_what_is_refused_leaves_nothing(run, new, tmp_path):
    (tmp_path / "own.csv").write_text("mine")
    for given, message in (
        ({"out": "p.txt"}, r"out: expected a name that ends in \.csv, got"),
        ({"k": 0}, "k: expected"),
        ({"run": str(tmp_path)}, "holds no finished run"),
        ({"data": str(tmp_path / "none.png")}, "no such file or folder"),
        ({"out": str(tmp_path / "own.csv")}, r"own\.csv: is there, and was not written by counterpoise"),
    ):
        with pytest.raises(InputError, match=message):
            predict(**{"run": str(run), "data": str(new), "out": str(tmp_path / "p.csv"), **given})
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]
    assert (tmp_path / "own.csv").read_text() == "mine"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_whose_classes_are_not_those_of_its_test(tmp_path, new):
    """Names of classes, not their numbers, are what its parts have in common."""
    draw = np.random.default_rng(3)
    for name, level in {"a": 20, "b": 80, "c": 150, "d": 230}.items():
        for i in range(12):
            paint(tmp_path / "data" / name / f"{i}.png", level, draw)
    counterpoise.compare(["triplet"], tmp_path / "data", task="retrieve", seeds=1, out=tmp_path / "o", references=False,
                         **{name: QUICK[name] for name in ("epochs", "batch_size", "device", "quiet")})  # fmt: skip
    (folder,) = (tmp_path / "o" / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())["task"] == "retrieve"
    found = predict(str(folder), str(new), str(tmp_path / "p.csv"))
    assert {row.label for row in found if row.labels} <= set("abcd")


WORDS = ("red", "green", "blue")


def write_table(path, names, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])


@pytest.fixture(scope="module")
def of_rows(tmp_path_factory):
    """A run on a table whose class is in its numbers and, less surely, in a column of words."""
    folder, draw = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    kinds = np.arange(90) % 3
    numbers = draw.normal(size=(90, 2)) + np.stack([kinds * 10, 500 - kinds * 100], 1)
    lines = [[f"kind {kind}", *row, WORDS[kind]] for kind, row in zip(kinds, numbers.tolist(), strict=True)]
    write_table(folder / "train.csv", ["quality", "small", "large", "colour"], lines)
    data = f"rows:{folder / 'train.csv'}:label=quality:categories=colour"
    counterpoise.train("cross-entropy", data, task="classify", out=folder / "run", **(QUICK | {"epochs": 40}))
    return folder / "run"


def test_rows_without_labels_are_labelled_whatever_the_order_of_their_columns(of_rows, tmp_path):
    lines = [["red", 500, "x", 0], ["green", 400, "y", 10], ["blue", 300, "z", 20], ["violet", 300, "z", 20]]
    write_table(tmp_path / "new.csv", ["colour", "large", "remark", "small"], lines)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = predict(of_rows, tmp_path / "new.csv", tmp_path / "labels.csv")
    assert [one.label for one in found[:3]] == ["kind 0", "kind 1", "kind 2"]
    said = " ".join(str(one.message) for one in warned)
    assert "columns not used (1): remark" in said
    assert "words that the training rows do not have (1): colour=violet" in said
    assert [row["path"] for row in rows(tmp_path / "labels.csv")] == ["row 1", "row 2", "row 3", "row 4"]


@pytest.mark.parametrize(
    ("names", "line", "message"),
    [
        (["colour", "small"], ["red", 1], "column 'large' is not known"),
        (["colour", "small", "large"], ["red", "", 1], "row 1: column 'small' holds no number"),
        (["small", "large"], [1, 2], "column 'colour' is not known"),
    ],
)
def test_rows_that_lack_what_the_run_has_learnt_from_are_refused(names, line, message, of_rows, tmp_path):
    write_table(tmp_path / "new.csv", names, [line, [value or 3 for value in line]])
    with pytest.raises(InputError, match=message):
        predict(of_rows, tmp_path / "new.csv", tmp_path / "labels.csv")
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.slow
def test_a_matrix_is_labelled_by_its_places_and_needs_as_many_columns(tmp_path):
    draw = np.random.default_rng(0)
    kinds = np.arange(60) % 2
    np.save(tmp_path / "X.npy", draw.normal(size=(60, 3)) + 5 * kinds[:, None])
    np.save(tmp_path / "X.labels.npy", kinds)
    counterpoise.train(
        "cross-entropy", tmp_path / "X.npy", task="classify", out=tmp_path / "run", **(QUICK | {"epochs": 30})
    )
    np.save(tmp_path / "new.npy", np.array([[0.0, 0, 0], [5, 5, 5]]))
    assert [one.label for one in predict(tmp_path / "run", tmp_path / "new.npy", tmp_path / "a.csv")] == ["0", "1"]
    np.save(tmp_path / "wide.npy", np.zeros((2, 4)))
    with pytest.raises(InputError, match="expected vectors of 3 numbers, got 4"):
        predict(tmp_path / "run", tmp_path / "wide.npy", tmp_path / "b.csv")
