"""What `train` takes, refuses, and goes on from; and what it says of how a run went."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import counterpoise
from counterpoise.commands.train import as_words
from counterpoise.contrast.simclr import SimCLR
from counterpoise.engine import execute
from counterpoise.errors import Diverged, InputError, MissingExtra
from counterpoise.tasks import pretrain
from counterpoise.training.run import differences
from counterpoise.training.trainer import is_harmless

QUICK = {"epochs": 1, "batch_size": 8, "device": "cpu", "quiet": True, "loggers": ()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def train(photos, out, method="simclr", **changes):
    return counterpoise.train(method, str(photos), out=str(out), **{**QUICK, **changes})


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.usefixtures("plain_shapes")
def test_paths_and_numbers_of_numpy_are_taken_and_recorded_as_plain_ones(photos, tmp_path):
    whole = {"epochs": np.int64(1), "batch_size": np.int32(8), "seed": np.uint8(3)}
    result = counterpoise.train(
        "simclr", photos, out=tmp_path / "a", **{**QUICK, **whole}, temperature=np.float32(0.5), size=torch.tensor(16)
    )
    config = config_of(tmp_path / "a")
    assert (config["data"], config["seed"], config["arguments"]) == (str(photos), 3, {"temperature": 0.5})
    assert config["settings"]["epochs"] == 1
    again = train(photos, tmp_path / "a", seed=3, temperature=0.5, size=16)
    assert again == result


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 1.5}, "epochs: expected a whole number, got 1.5"),
        ({"epochs": True}, "epochs: expected a whole number, got True"),
        ({"epochs": np.float64(2.0)}, "epochs: expected a whole number, got 2.0"),
        ({"precision": 16}, "precision: expected one of 32, 16-mixed, bf16-mixed, auto, got 16"),
        ({"batch_size": "8"}, "batch_size: expected a whole number, got '8'"),
        ({"batch_size": None}, "batch_size: expected a whole number, got None"),
        ({"seed": 1.0}, "seed: expected a whole number"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"threads": 2.0}, "threads: expected a whole number"),
        ({"download": "yes"}, "download: expected true or false, got 'yes'"),
        ({"backbone": 3}, "backbone: expected a text, got 3"),
        ({"device": 0}, "device: expected a text, got 0"),
        ({"temperature": "warm"}, "temperature: expected a number, got 'warm'"),
        ({"temperature": True}, "temperature: expected a number, got True"),
        ({"temperature": float("nan")}, "temperature: expected a finite number"),
        ({"dim": 2.5}, "dim: expected a whole number, got 2.5"),
        ({"augment": torch.nn.Identity()}, "augment: takes an object, which a run cannot record"),
        ({"imperfect": 3}, "imperfect: expected texts, got 3"),
        ({"loggers": "nonesuch"}, "logger 'nonesuch' is not known"),
        ({"out": 3}, "out: expected a text, got 3"),
        ({"method": 3}, "method: expected a text, got 3"),
        ({"precision": "16-mixed"}, "precision: '16-mixed' is not available on cpu"),
        ({"accumulate": 0}, "accumulate: expected a whole number of at least 1"),
        ({"devices": 9, "batch_size": 64}, "images: expected at least 18 to train on, 2 for each of 9 processes, got"),
    ],
)
def test_what_is_refused_is_named_and_leaves_nothing(photos, tmp_path, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    given = {"method": "simclr", "data": str(photos), "out": "run", **QUICK, **wrong}
    with pytest.raises(InputError, match=message):
        counterpoise.train(**given)
    assert not list(tmp_path.iterdir())


def test_float16_on_what_turns_out_to_be_a_cpu_is_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="'16-mixed' is not available on cpu"):
        train(photos, tmp_path / "a", precision="16-mixed", device="auto")


def test_too_few_images_are_refused_by_every_task_that_trains_on_batches(tmp_path):
    for task, method, data in (("retrieve", "tcm", "digits"), ("few-shot", "protonet", "digits")):
        with pytest.raises(InputError, match="images: expected at least"):
            counterpoise.compare([method], data, task=task, devices=400, batch_size=5000, seeds=1, device="cpu")


def test_a_logger_whose_library_is_missing_is_refused_before_anything_is_written(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match="wandb is not installed"):
        train(photos, tmp_path / "a", loggers=["wandb"])
    assert not (tmp_path / "a").exists()


def test_one_word_stands_for_a_list_of_one():
    assert as_words("imperfect", "long-tail=10") == ("long-tail=10",)
    assert as_words("imperfect", np.array(["a", "b"])) == ("a", "b")


def test_a_call_that_failed_before_its_first_epoch_does_not_occupy_the_folder(photos, tmp_path, monkeypatch):
    def refuse(self, images, labels, index):
        raise InputError("images: not these")

    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "loss", refuse)
        with pytest.raises(InputError, match="not these"):
            train(photos, tmp_path / "a")
    assert train(photos, tmp_path / "a", temperature=0.3)["status"] == "done"
    assert config_of(tmp_path / "a")["arguments"] == {"temperature": 0.3}


def test_another_configuration_is_refused_naming_what_differs(photos, tmp_path):
    train(photos, tmp_path / "a", temperature=0.2, epochs=2)
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
    for change, message in (
        ({"temperature": 0.3, "epochs": 2}, r"another configuration \(temperature: 0.2, now 0.3\)"),
        ({"temperature": 0.2, "epochs": 1}, r"another configuration \(epochs: 2, now 1\)"),
        ({"epochs": 2}, r"another configuration \(temperature: 0.2, now not given\)"),
        ({"temperature": 0.2, "epochs": 3, "seed": 1}, r"\(seed: 0, now 1; epochs: 2, now 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            train(photos, tmp_path / "a", **change)
    assert {path: path.read_bytes() for path in before} == before


def test_differences_name_what_was_not_there():
    assert differences({"a": 1, "settings": {}}, {"a": 1, "settings": {"b": None}}) == "b: not given, now None"


@pytest.mark.slow
def test_more_epochs_go_on_from_the_checkpoint_and_the_result_says_so(photos, tmp_path):
    first = train(photos, tmp_path / "a")
    assert first["continued"] == []
    longer = train(photos, tmp_path / "a", epochs=3)
    assert longer["curve"][0] == first["curve"][0]
    assert [row["epoch"] for row in longer["curve"]] == [1, 2, 3]
    assert longer["continued"] == [1]
    assert any(warning.startswith("went on after epoch 1: as a shorter run") for warning in longer["warnings"])
    assert train(photos, tmp_path / "a", epochs=3) == longer
    longest = train(photos, tmp_path / "a", epochs=4)
    assert longest["continued"] == [1, 3]
    assert any("went on after epochs 1, 3" in warning for warning in longest["warnings"])


@pytest.mark.slow
def test_a_longer_run_that_is_stopped_still_says_that_it_was_continued(photos, tmp_path, monkeypatch):
    train(photos, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.TASK, "score", lambda *_: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            train(photos, tmp_path / "a", epochs=2)
    assert not (tmp_path / "a" / "result.json").exists()
    assert train(photos, tmp_path / "a", epochs=2)["continued"] == [1]


def test_what_was_put_in_the_place_of_what_was_asked_for_is_reported(photos, tmp_path):
    result = train(photos, tmp_path / "a", batch_size=500, accumulate=2)
    images = result["sizes"]["train"]
    assert f"batch_size: 500 images asked for, {images} used, since there are no more" in result["warnings"]
    assert any(
        warning.startswith("accumulate: 2 batches a step asked for, but an epoch has 1")
        for warning in result["warnings"]
    )
    assert result["device"] == "cpu"


def test_what_the_environment_changes_in_lightning_is_reported(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_TRAINER_GRADIENT_CLIP_VAL", "0.5")
    result = train(photos, tmp_path / "a")
    assert "PL_TRAINER_GRADIENT_CLIP_VAL=0.5 in the environment changes how Lightning trains" in result["warnings"]


def test_warnings_of_libraries_are_passed_on(photos, tmp_path, monkeypatch):
    usual = SimCLR.loss

    def loss(self, images, labels, index):
        warnings.warn_explicit("lbfgs did\nnot converge", UserWarning, "library.py", 1)
        warnings.warn_explicit("will go away", FutureWarning, "library.py", 2)
        warnings.warn_explicit("Found 3 module(s) in eval mode at the start of training.", UserWarning, "library.py", 3)
        return usual(self, images, labels, index)

    monkeypatch.setattr(SimCLR, "loss", loss)
    found = train(photos, tmp_path / "a", batch_size=8)["warnings"]
    assert "lbfgs did not converge" in found
    assert not any("go away" in text or "eval mode" in text for text in found)
    assert not is_harmless("overflow encountered in exp", RuntimeWarning)


def test_a_diverging_run_says_when_and_at_which_learning_rate(photos, tmp_path):
    with pytest.raises(
        Diverged, match=r"training diverged by step \d+, at a learning rate of .*smaller lr than 1e\+30"
    ):
        train(photos, tmp_path / "a", lr=1e30, epochs=3)


def test_a_comparison_marks_a_diverging_run_as_failed_and_says_why(photos, tmp_path):
    options = {"epochs": 3, "batch_size": 8, "device": "cpu", "seeds": 1, "quiet": True}
    found = counterpoise.compare(["simclr:lr=1e30"], str(photos), out=str(tmp_path / "o"), **options)
    (run,) = found["methods"][0]["runs"]
    assert run["status"] == "failed"
    assert run["error"].startswith("Diverged: training diverged by step")


def test_a_failure_is_not_blamed_on_a_folder_that_is_there(photos, tmp_path, monkeypatch):
    def fail(*given, **options):
        raise TypeError("not serializable")

    monkeypatch.setattr(execute, "_result", fail)
    with pytest.raises(TypeError, match="not serializable"):
        train(photos, tmp_path / "a")
