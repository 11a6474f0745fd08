"""One run in its folder: begun once, kept whole, never run twice, and nothing passed over."""

import json
import shutil
import warnings

import pytest
import torch

from counterpoise.data import Images
from counterpoise.engine import execute
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError
from counterpoise.training.run import ImageSettings, Run

RUN = Run("simclr", "digits", settings=ImageSettings(epochs=1, batch_size=64, device="cpu"))


@pytest.fixture
def result(monkeypatch):
    """What a run comes to, in place of training; tests may change it or count how often it was asked for."""

    def found(run, folder, watch):
        found.calls += 1
        found.during(folder)
        return {"seed": run.seed, "status": "done", "metrics": {"knn": 0.5}, "warnings": ["own"], "shape": [1, 8, 8]}

    found.calls, found.during = 0, lambda folder: None
    monkeypatch.setattr(execute, "_result", found)
    return found


def test_a_finished_run_is_read_and_not_run_again(result, tmp_path):
    first = execute_run(RUN, tmp_path / "run")
    assert (first["metrics"], first["device"], first["continued"]) == ({"knn": 0.5}, "cpu", [])
    assert first["memory_mb"] > 0
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == first
    assert execute_run(RUN, tmp_path / "run") == first
    assert result.calls == 1


def test_the_folder_of_another_run_is_refused_and_stays(result, tmp_path):
    execute_run(RUN, tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    other = Run("simclr", "digits", seed=1, settings=RUN.settings)
    with pytest.raises(InputError, match="holds a run of another configuration"):
        execute_run(other, tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"status": "done"}', "\0"])
@pytest.mark.parametrize(("name", "remedy"), [("result.json", "to score the run again"), ("config.json", "delete ")])
def test_a_damaged_file_is_named_with_what_to_delete(result, tmp_path, name, content, remedy):
    execute_run(RUN, tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}.*delete .*") as refused:
        execute_run(RUN, tmp_path)
    assert remedy in str(refused.value)
    assert result.calls == 1


def test_warnings_of_whichever_library_are_kept_once_and_harmless_ones_are_not(result, tmp_path):
    def during(folder):
        for _ in range(2):
            warnings.warn("weights\n  are odd")
        warnings.warn("the library changes", DeprecationWarning)

    result.during = during
    assert execute_run(RUN, tmp_path)["warnings"] == ["own", "weights are odd"]


def test_a_folder_that_is_removed_meanwhile_gets_no_result(result, tmp_path):
    result.during = lambda folder: shutil.rmtree(folder)
    with pytest.raises(InputError, match="was removed while its run went on"):
        execute_run(RUN, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_error_of_a_method_is_raised_as_it_is_and_leaves_no_result(result, tmp_path):
    def during(folder):
        raise ZeroDivisionError("of the method")

    result.during = during
    with pytest.raises(ZeroDivisionError, match="of the method"):
        execute_run(RUN, tmp_path)
    assert not (tmp_path / "result.json").exists()
    result.during = lambda folder: None
    assert execute_run(RUN, tmp_path)["status"] == "done"


def test_what_the_task_cannot_do_is_refused_before_the_folder_is_made(result, tmp_path):
    run = Run("meow", "planted", task="graph", imperfect=("long-tail=5",))
    with pytest.raises(InputError, match="imperfect: is not for the task graph"):
        execute_run(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gallery_is_a_fair_sample_with_its_features(tmp_path, rng):
    labels = torch.arange(1200) % 3
    images = Images(
        torch.randint(0, 256, (1200, 1, 4, 4), generator=rng, dtype=torch.uint8), labels, ("a", "b", "c"), ""
    )
    execute._write_gallery(tmp_path / "gallery.npz", images, images.pixels.flatten(1).float())
    with execute.np.load(tmp_path / "gallery.npz", allow_pickle=False) as kept:
        assert len(kept["labels"]) == execute.GALLERY
        assert sorted(torch.from_numpy(kept["labels"]).bincount().tolist()) == [166, 167, 167]
        assert (kept["pixels"].reshape(500, -1) == kept["features"]).all()


@pytest.mark.parametrize(("epochs", "said"), [([3], "epoch 3"), ([3, 5], "epochs 3, 5")])
def test_a_run_that_went_on_after_a_shorter_one_says_so(result, tmp_path, monkeypatch, epochs, said):
    monkeypatch.setattr(execute, "begin", lambda run, folder: epochs)
    monkeypatch.setattr(execute, "_check_there", lambda folder: None)
    tmp_path.joinpath("config.json").write_text('{"method": "simclr", "settings": {}}')
    found = execute_run(RUN, tmp_path)
    assert found["continued"] == epochs
    assert found["warnings"][-1].startswith(f"went on after {said}: as a shorter run")
