"""Minutes become steps once, before runs are named."""

from dataclasses import replace

import pytest
import torch

from counterpoise.commands.compare import compare
from counterpoise.commands.train import train
from counterpoise.data import Images
from counterpoise.engine import budget
from counterpoise.engine.budget import FILE, Pace, measure_pace, settled_budget
from counterpoise.errors import InputError
from counterpoise.files import make_output_folder, read_json
from counterpoise.learners.method import Method
from counterpoise.tasks import pretrain
from counterpoise.tasks.images import Prepared
from counterpoise.terminal import make_console
from counterpoise.training.run import ImageSettings, Run


@pytest.fixture
def parts(monkeypatch):
    """Few and small images, in the place of those of the run."""
    rng = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (32, 1, 8, 8), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(32) % 2, ("a", "b"), "noise")
    monkeypatch.setattr(pretrain.TASK, "load", lambda run: Prepared(images, images, images), raising=True)


def run_of(**settings):
    settings = {"minutes": 1.0, "batch_size": 8, "device": "cpu", **settings}
    return Run("simclr", "digits", settings=ImageSettings(**settings))


def quiet():
    return make_console(True)


def test_steps_fill_the_minutes_with_what_comes_between_epochs():
    assert Pace(step=0.1, epoch=0.0, each=5).steps(minutes=2) == 1200
    assert Pace(step=0.1, epoch=0.5, each=5).steps(minutes=2) == 600
    assert Pace(step=100.0, epoch=0.0, each=5).steps(minutes=1) == 1


@pytest.mark.usefixtures("parts")
def test_a_method_is_timed_in_a_folder_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pace = measure_pace(run_of())
    assert pace.each == 4
    assert 0 < pace.step < 60
    assert pace.epoch > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("parts")
def test_accumulated_batches_are_one_step(monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(budget, "PATIENCE", 1e9)
    assert measure_pace(run_of(accumulate=2)).each == 2


@pytest.mark.usefixtures("parts")
def test_measuring_stops_early_where_steps_take_long(monkeypatch):
    monkeypatch.setattr(budget, "PATIENCE", -1.0)
    monkeypatch.setattr(budget, "TIMED", 10_000)
    assert measure_pace(run_of()).step > 0


def test_the_same_call_has_the_same_steps_without_measuring_again(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "measure_pace", lambda run: Pace(0.5, 0.0, 4))
    folder = make_output_folder(tmp_path / "out", "comparison")
    first = settled_budget([run_of()], folder, quiet())
    assert (first.steps, first.minutes, first.epochs) == (120, None, None)
    assert read_json(folder / FILE)["method"] == "simclr"
    monkeypatch.setattr(budget, "measure_pace", lambda run: Pace(5.0, 0.0, 4))
    assert settled_budget([run_of()], folder, quiet()) == first
    assert settled_budget([run_of(batch_size=16)], folder, quiet()).steps == 12  # another call


def test_settings_without_minutes_stay_as_they_are(tmp_path):
    run = run_of(minutes=None, epochs=3)
    assert settled_budget([run], tmp_path, quiet()) is run.settings
    assert list(tmp_path.iterdir()) == []


def test_the_first_method_that_trains_is_measured(tmp_path, monkeypatch):
    still, moving = run_of(), replace(run_of(), method="supcon")
    paces = {"simclr": None, "supcon": Pace(1.0, 0.0, 4)}
    monkeypatch.setattr(budget, "measure_pace", lambda run: paces[run.method])
    assert settled_budget([still, moving], tmp_path, quiet()).steps == 60
    with pytest.raises(InputError, match="minutes: none of the methods has anything to train"):
        settled_budget([run_of(batch_size=4)], tmp_path, quiet())


@pytest.mark.usefixtures("parts")
def test_what_has_nothing_to_train_has_no_pace(monkeypatch):
    class Still(Method):
        trains = False

    monkeypatch.setattr(pretrain.TASK, "make", lambda run, parts, given: Still(torch.nn.Identity()), raising=True)
    monkeypatch.setattr(torch.nn.Identity, "features", 4, raising=False)
    assert measure_pace(run_of()) is None


def test_several_processes_are_not_measured():
    with pytest.raises(InputError, match="minutes: are measured in one process; expected epochs or steps"):
        measure_pace(run_of(devices=2))


@pytest.mark.slow
def test_results_and_commands_hold_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "measure_pace", lambda run: Pace(20.0, 0.0, 4))
    options = {"batch_size": 512, "device": "cpu", "quiet": True, "minutes": 1}
    content = compare(["simclr"], "digits", seeds=1, out=tmp_path / "all", references=False, **options)
    assert content["settings"]["steps"] == 3
    assert content["settings"]["minutes"] is None
    assert "--steps 3 " in content["command"]
    assert "minutes" not in content["command"]
    (folder,) = (tmp_path / "all" / "runs").iterdir()
    assert read_json(folder / "config.json")["settings"]["steps"] == 3
    train("simclr", "digits", out=tmp_path / "one", loggers=(), **options)
    assert read_json(tmp_path / "one" / "config.json")["settings"]["steps"] == 3
