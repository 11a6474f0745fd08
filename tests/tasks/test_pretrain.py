import json

import numpy as np
import pytest
import torch

from counterpoise import catalogue
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.tasks import images, pretrain
from counterpoise.tasks.images import _held_out, build, load_encoder, prepare
from counterpoise.tasks.pretrain import execute
from counterpoise.tasks.runs import Run, Settings

PLANNED = catalogue.select(done=False)[-1].slug
QUICK = Settings(epochs=1, batch_size=64, device="cpu")


def quick(method="simclr", **changes):
    return Run(method, "digits", settings=QUICK, **changes)


def prepared(run):
    s = run.settings
    return prepare(run.data, run.imperfect, run.seed, s.size, s.data_dir, s.download)


def test_the_probe_is_held_out_before_the_data_is_made_imperfect():
    train, probe, test = prepared(quick(imperfect=("long-tail=50",)))
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
    train = prepared(quick()).train
    simclr, dcl = build(quick(), train).encoder, build(quick("dcl"), train).encoder
    assert all(torch.equal(a, b) for a, b in zip(simclr.parameters(), dcl.parameters(), strict=True))
    other = build(Run("simclr", "digits", seed=1, settings=QUICK), train).encoder
    assert not all(torch.equal(a, b) for a, b in zip(simclr.parameters(), other.parameters(), strict=True))


def test_a_run_keeps_everything_and_is_not_run_twice(tmp_path, monkeypatch):
    result = execute(quick(imperfect=("long-tail=5",)), tmp_path)
    assert {"config.json", "result.json", "last.ckpt", "encoder.safetensors", "gallery.npz"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert set(result["metrics"]) == set(pretrain.METRICS)
    assert result["metrics"]["knn"] > 0.5
    assert set(result["groups"]) == {"head", "medium", "tail"}
    assert len(result["per_class"]) == 10
    assert result["memory_mb"] > 100
    assert json.loads((tmp_path / "result.json").read_text()) == result
    monkeypatch.setattr(images, "_score_trained", None)
    assert execute(quick(imperfect=("long-tail=5",)), tmp_path) == result
    with pytest.raises(InputError, match="another configuration"):
        execute(quick("dcl"), tmp_path)


def test_the_encoder_comes_back(tmp_path):
    execute(quick(), tmp_path)
    encoder, config = load_encoder(tmp_path)
    gallery = np.load(tmp_path / "gallery.npz", allow_pickle=False)
    with torch.no_grad():
        features = encoder(torch.from_numpy(gallery["pixels"]).float() / 127.5 - 1)
    assert config["shape"] == list(gallery["pixels"].shape[1:])
    torch.testing.assert_close(features, torch.from_numpy(gallery["features"]).float(), rtol=2e-3, atol=2e-3)
    (tmp_path / "encoder.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"encoder\.safetensors: damaged or missing"):
        load_encoder(tmp_path)
    with pytest.raises(InputError, match="holds no finished run"):
        load_encoder(tmp_path / "nowhere")


def test_data_without_labels_trains_and_tells_the_geometry(tmp_path, monkeypatch):
    def unlabelled(*args):
        train, _, test = prepare.__wrapped__(*args)
        hide = lambda x: Images(x.pixels, torch.full((len(x),), -1), (), x.name)  # noqa: E731
        return pretrain.Prepared(hide(train), hide(test).subset(torch.arange(0)), hide(test))

    monkeypatch.setattr(images, "prepare", unlabelled)
    result = execute(quick(), tmp_path)
    assert set(result["metrics"]) == {"alignment", "uniformity", "effective_rank"}
    assert "knn" not in result["curve"][0]
    with pytest.raises(InputError, match="has no labels to score by"):
        pretrain.check(quick(), scored=True)


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
        (Run("simclr", "digits", settings=Settings(backbone="smal")), "did you mean 'small'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(run, message):
    with pytest.raises(InputError, match=message):
        pretrain.check(run)
