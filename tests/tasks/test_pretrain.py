import json
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch

from counterpoise import embed, export, train
from counterpoise.data import Images
from counterpoise.data.images import fair_sample
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.measure.online import OnlineProbe
from counterpoise.registry import catalogue
from counterpoise.tasks import find, images, load_encoder, pretrain
from counterpoise.tasks.images import _held_out, prepare
from counterpoise.training.run import ImageSettings, Run
from worlds import build

PLANNED = catalogue.select(done=False)[-1].slug
QUICK = ImageSettings(epochs=1, batch_size=64, device="cpu")


def quick(method="simclr", **changes):
    return Run(method, "digits", settings=QUICK, **changes)


def test_the_probe_is_held_out_before_the_data_is_made_imperfect():
    train, probe, test = pretrain.TASK.load(quick(imperfect=("long-tail=50",))).images.values()
    assert probe.counts().min() >= 20
    assert train.counts()[0] > 10 * train.counts()[-1]
    flat = [set(map(bytes, np.asarray(x.pixels).reshape(len(x), -1))) for x in (train, probe)]
    assert len(flat[0] & flat[1]) < 5  # digits has a few true duplicates
    assert any("long tail" in note for note in train.notes)
    assert len(test)


def test_a_class_of_one_stays_in_training():
    labels = torch.tensor([0] * 10 + [1] + [-1] * 3)
    held = _held_out(labels, torch.Generator().manual_seed(0))
    assert (labels[held] == 0).all()
    assert len(held) == 2


def test_methods_of_one_seed_start_from_the_same_backbone():
    train = pretrain.TASK.load(quick()).train
    simclr, dcl = build(quick(), train).encoder, build(quick("dcl"), train).encoder
    assert all(torch.equal(a, b) for a, b in zip(simclr.parameters(), dcl.parameters(), strict=True))
    other = build(Run("simclr", "digits", seed=1, settings=QUICK), train).encoder
    assert not all(torch.equal(a, b) for a, b in zip(simclr.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_a_run_keeps_everything_and_is_not_run_twice(tmp_path, monkeypatch):
    result = execute_run(quick(imperfect=("long-tail=5",)), tmp_path)
    assert {"config.json", "result.json", "last.ckpt", "net.safetensors", "gallery.npz"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert set(result["metrics"]) == set(pretrain.TASK.metrics)
    assert result["metrics"]["knn"] > 0.5
    assert set(result["groups"]) == {"head", "medium", "tail"}
    assert len(result["per_class"]) == 10
    assert result["memory_mb"] > 100
    assert json.loads((tmp_path / "result.json").read_text()) == result
    monkeypatch.setattr(execute, "_result", None)
    assert execute_run(quick(imperfect=("long-tail=5",)), tmp_path) == result
    with pytest.raises(InputError, match="another configuration"):
        execute_run(quick("dcl"), tmp_path)


@pytest.mark.slow
def test_the_encoder_comes_back(tmp_path):
    execute_run(quick(), tmp_path)
    encoder, config = load_encoder(tmp_path)
    gallery = np.load(tmp_path / "gallery.npz", allow_pickle=False)
    with torch.no_grad():
        features = encoder(torch.from_numpy(gallery["pixels"]).float() / 127.5 - 1)
    assert config["shape"] == list(gallery["pixels"].shape[1:])
    torch.testing.assert_close(features, torch.from_numpy(gallery["features"]).float(), rtol=2e-3, atol=2e-3)
    (tmp_path / "net.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"net\.safetensors: damaged or missing"):
        load_encoder(tmp_path)
    with pytest.raises(InputError, match="holds no finished run"):
        load_encoder(tmp_path / "nowhere")


@pytest.mark.slow
def test_data_without_labels_trains_and_is_scored_by_the_geometry(tmp_path, monkeypatch):
    @wraps(prepare)
    def unlabelled(**given):
        train, _, test = prepare(**given).images.values()
        hide = lambda x: Images(x.pixels, torch.full((len(x),), -1), (), x.name)  # noqa: E731
        return pretrain.Prepared(hide(train), hide(test).subset(torch.arange(0)), hide(test))

    monkeypatch.setattr(images, "prepare", unlabelled)
    result = execute_run(quick(), tmp_path)
    assert set(result["metrics"]) == {"alignment", "uniformity", "effective_rank"}
    assert "knn" not in result["curve"][0]
    with pytest.raises(InputError, match="has no labels to score by"):
        pretrain.TASK.check(quick(), scored=True)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (quick("simclt"), "did you mean 'simclr'"),
        (quick(PLANNED), f"'{PLANNED}' is planned"),
        (
            quick(arguments={"temprature": 1.0}),
            "argument of simclr 'temprature' is not known; did you mean 'temperature'",
        ),
        (quick(arguments={"temperature": -1.0}), "temperature: expected a number above 0"),
        (Run("simclr", "digitz", settings=QUICK), "did you mean 'digits'"),
        (quick(imperfect=("long-tale=3",)), "did you mean 'long-tail'"),
        (Run("simclr", "digits", settings=ImageSettings(backbone="smal")), "did you mean 'small'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(run, message):
    with pytest.raises(InputError, match=message):
        pretrain.TASK.check(run)


def sorted_images(each=300, classes=9):
    """Images as a table sorted by class gives them."""
    labels = torch.arange(classes).repeat_interleave(each)
    noise = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = noise // 2 + (14 * labels.to(torch.uint8))[:, None, None, None]
    return Images(pixels, labels, tuple(f"class {k}" for k in range(classes)), "sorted")


def test_pictures_and_quick_measures_are_of_all_classes_alike(tmp_path, monkeypatch):
    data = sorted_images()
    execute._write_gallery(tmp_path / "gallery.npz", data, torch.arange(len(data))[:, None].float())
    with np.load(tmp_path / "gallery.npz", allow_pickle=False) as kept:
        counts = np.bincount(kept["labels"], minlength=9)
        rows = fair_sample(data.labels, execute.GALLERY)
        np.testing.assert_array_equal(kept["pixels"], data.pixels[rows].numpy())
        np.testing.assert_array_equal(kept["features"][:, 0], rows.half().numpy())
    assert counts.max() - counts.min() <= 1
    probe = OnlineProbe(data, data)
    for part in (probe.labelled, probe.unseen):
        assert len(part) == 1000
        assert part.counts().max() - part.counts().min() <= 1
    seen = []
    monkeypatch.setattr(pretrain, "embed", lambda encoder, some, view: seen.append(some) or torch.ones(len(some), 2))
    pretrain._two_views(build(quick(), data), data)
    assert [int(some.counts().min()) for some in seen] == [111, 111]


def test_of_very_many_classes_the_same_ones_are_drawn_in_every_part_with_pairs_to_see():
    known, unseen = torch.arange(2000).repeat_interleave(7), torch.arange(1999).repeat_interleave(9)
    drawn = [part[fair_sample(part, 1000)].unique(return_counts=True) for part in (known, unseen)]
    assert len({*drawn[0][0].tolist()} & {*drawn[1][0].tolist()}) >= 199, "but for the class that one part lacks"
    assert all(counts.tolist() == [5] * 200 for _, counts in drawn)
    assert drawn[0][0].diff().max() <= 20, "they lie evenly among all"
    single = torch.arange(3000)
    assert len(fair_sample(single, 500)) == 500


def test_small_data_is_shown_whole_and_the_draw_is_always_the_same():
    data = sorted_images(each=50)
    assert torch.equal(fair_sample(data.labels, 500), torch.arange(450))
    long = sorted_images().labels
    assert torch.equal(fair_sample(long, 500), fair_sample(long, 500))
    assert not torch.equal(fair_sample(long, 500), fair_sample(long, 500, seed=1))
    assert torch.equal(fair_sample(long, 500), fair_sample(long, 500).sort().values.unique())


@pytest.mark.slow
def test_a_run_trained_too_little_says_so_and_what_to_try(tmp_path, monkeypatch):
    data = sorted_images(each=30)
    few = images.Prepared(data, data, data)
    settings = ImageSettings(backbone="small:last", epochs=3, batch_size=256, device="cpu")
    run = Run("simclr", "sorted", settings=settings, arguments={"lr": 1e-9})
    monkeypatch.setattr(pretrain.TASK, "load", lambda run: few, raising=False)
    result = execute_run(run, tmp_path)
    assert {"few steps", "embeddings close together"} <= {warning.split(":")[0] for warning in result["warnings"]}
    assert all("; try " in warning for warning in result["warnings"])


def test_each_sign_of_undertraining_is_a_warning_of_its_own():
    data, flat = sorted_images(each=30), [{"epoch": k, "knn": 0.4} for k in range(4)]
    few = images.Prepared(data, data, data)
    four = torch.eye(64)[data.labels % 4]

    def named(method, known, features):
        return [warning.split(":")[0] for warning in images.undertraining(quick(method), known, flat, features)]

    all_signs = ["few steps", "flat probe", "low effective rank", "embeddings close together"]
    assert named("simclr", few, four + 0.45) == all_signs
    three = replace(data, labels=data.labels % 3, classes=("a", "b", "c"))
    known = images.Prepared(three, three, three)
    assert named("supcon", known, four) == all_signs[:2], "embeddings of 3 classes need no more dimensions"
    assert named("simclr", known, four) == all_signs[:3]
    other = replace(three, classes=("d", "e", "f"))
    assert named("supcon", images.Prepared(three, other, other), four) == all_signs[:3], "those of others do"


@pytest.mark.slow
def test_a_run_on_all_images_holds_none_out_and_has_no_scores(tmp_path, capsys):
    options = {"epochs": 1, "batch_size": 256, "device": "cpu"}
    result = train("simclr", "digits", all=True, out=str(tmp_path / "run"), loggers=(), **options)
    assert "training on all 1,797 images; none is held out, so there are no scores" in capsys.readouterr().out
    assert result["metrics"] == {}
    assert result["sizes"] == {"train": 1797, "probe": 0, "test": 0}
    assert "no scores: all 1797 images were trained on and none is held out" in result["warnings"]
    assert "knn" not in result["curve"][0]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train_on_all"] is True
    assert len(embed(str(tmp_path / "run"), "digits", str(tmp_path / "e.parquet"))) == 1797
    assert export(str(tmp_path / "run"), str(tmp_path / "e.safetensors")).exists()
    with pytest.raises(InputError, match="another configuration"):
        train("simclr", "digits", out=str(tmp_path / "run"), loggers=(), quiet=True, **options)


def test_train_says_how_many_images_are_held_out():
    summary = pretrain.TASK.summary(quick(), pretrain.TASK.load(quick()))
    assert summary == (
        "training on 1,154 images; held out: 284 for the probes and 359 for the test; --all trains on them, too"
    )


@pytest.mark.slow
def test_all_images_of_all_classes_are_trained_on_for_unseen_classes_too(tmp_path):
    run = Run("triplet", "digits", settings=QUICK, task="retrieve", train_on_all=True)
    result = execute_run(run, tmp_path)
    assert result["sizes"] == {"train": 1797, "probe": 0, "test": 0}
    assert len(result["classes"]) == 10
    assert result["metrics"] == {}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (quick(train_on_all=True, imperfect=("long-tail=5",)), "all: trains on every image as it is"),
        (
            Run("composed-retrieval", "glyphs", settings=QUICK, task="compose", train_on_all=True),
            "all: is not for the task compose",
        ),
    ],
)
def test_what_does_not_go_with_all_images_is_refused(run, message):
    with pytest.raises(InputError, match=message):
        find(run.task).check(run)
