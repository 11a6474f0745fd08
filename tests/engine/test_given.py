"""Models that runs stand on: trained first and once, shared to the bit, unchanged, resumed; or the user's own."""

import hashlib
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import counterpoise
import worlds
from counterpoise import tasks
from counterpoise.engine import execute, given
from counterpoise.engine.execute import execute_run
from counterpoise.errors import InputError, RunFailed
from counterpoise.training.run import ImageSettings, Run

MINE = f'''
import copy
{worlds.NEAR}

class Maybe(Near):
    """The same, which can do without a start."""

    def __init__(self, encoder, start=None, **recipe):
        super().__init__(encoder, copy.deepcopy(encoder) if start is None else start, **recipe)
'''
QUICK = {"epochs": 1, "batch_size": 256, "device": "cpu"}
NEAR = "./mine.py:Near"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*methods, seeds=1, **options):
    options = {"seeds": seeds, "out": "c", "quiet": True, "references": False, **QUICK, **options}
    return counterpoise.compare(list(methods), "digits", **options)


def results(content):
    return [run for row in content["methods"] for run in row["runs"]]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).rglob("*.safe*"))}


@pytest.mark.slow
def test_arms_of_a_seed_share_one_start_that_is_trained_first_and_stays_as_it_was(place, monkeypatch):
    order = []
    own = execute.execute_run

    def noted(run, folder, **options):
        order.append(folder.parent.name)
        return own(run, folder, **options)

    monkeypatch.setattr("counterpoise.engine.pool.execute_run", noted)
    content = compare(NEAR, f"{NEAR}:weight=2", "simclr", seeds=2)
    assert [run["status"] for run in results(content)] == ["done"] * 6
    assert order == ["given"] * 2 + ["runs"] * 6
    shelf = place / "c" / "given"
    starts = sorted(path.name for path in shelf.iterdir() if path.is_dir())
    assert [name.rsplit("-", 1)[0] for name in starts] == ["simclr-0", "simclr-1"]
    near, heavy, simclr = content["methods"]
    for seed in (0, 1):
        used = {row["runs"][seed]["given"]["start"]["source"] for row in (near, heavy)}
        assert used == {f"given/{starts[seed]}"}
        assert near["runs"][seed]["given"]["start"]["metrics"]["knn"] > 0.3
        assert near["runs"][seed]["given"]["start"]["seconds"] > 0
        assert simclr["runs"][seed]["given"] == {}
    before = digests(shelf)
    compare(NEAR, f"{NEAR}:weight=3", seeds=2)
    assert digests(shelf) == before


@pytest.mark.slow
def test_a_start_is_what_the_method_gets_and_nothing_trains_it(place):
    run = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK))
    result = execute_run(run, place / "run")
    (start,) = (path for path in (place / "run" / "given").iterdir() if path.is_dir())
    task = tasks.find("pretrain")
    parts = task.load(run)
    learner = task.make(run, parts, execute.models(run, place / "run", parts))
    kept = load_file(start / "net.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in learner.start.module.state_dict().items())
    assert result["given"]["start"]["source"] == f"given/{start.name}"
    net, _ = tasks.load_net(place / "run")
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 320)


@pytest.mark.slow
def test_the_encoder_is_the_same_whether_the_start_was_there_or_not(place):
    """Training a start first draws nothing of what the run draws."""
    run = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK))
    execute_run(run, place / "a")
    for name in ("net.safetensors", "result.json", "last.ckpt"):
        (place / "a" / name).replace(place / name)
    execute_run(run, place / "a")
    first, second = load_file(place / "net.safetensors"), load_file(place / "a" / "net.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_worker_processes_share_what_was_trained_first(place):
    content = compare(NEAR, f"{NEAR}:weight=2", seeds=2, jobs=2)
    assert [run["status"] for run in results(content)] == ["done"] * 4
    assert len([path for path in (place / "c" / "given").iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
def test_the_users_own_models_are_taken(place):
    counterpoise.train("simclr", "digits", out="start", loggers=(), quiet=True, **QUICK)
    weights = load_file(place / "start" / "net.safetensors")
    save_file(weights, place / "w.safetensors")
    for value, source in (("start", "start"), ("small@w.safetensors", "small@w.safetensors")):
        run = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK, given=f"start={value}"))
        parts = tasks.find("pretrain").load(run)
        model = execute.models(run, place / "run", parts)["start"]()
        assert all(torch.equal(found, weights[name]) for name, found in model.state_dict().items())
        assert execute_run(run, place / f"run-{value[:5]}")["given"] == {"start": {"source": source}}
        assert not (place / f"run-{value[:5]}" / "given").exists()


@pytest.mark.slow
def test_weights_to_start_from_are_the_start_of_a_method_that_asks_for_one(place):
    counterpoise.train("simclr", "digits", out="start", loggers=(), quiet=True, **QUICK)
    (one,) = tasks.find("pretrain").given(
        Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK, init="start"))
    )
    assert (one.role, one.run, one.source) == ("start", None, "start")
    (other,) = tasks.find("pretrain").given(
        Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK, init="start", given="start=moco"))
    )
    assert other.run.method == "moco"
    assert other.run.settings.init is None


@pytest.mark.slow
def test_a_start_is_trained_beside_weights_to_start_from(place):
    counterpoise.train("simclr", "digits", out="start", loggers=(), quiet=True, **QUICK)
    (run,) = results(compare(NEAR, init="start", given="start=moco"))
    assert run["status"] == "done"
    assert run["given"]["start"]["source"].startswith("given/moco-0-")


@pytest.mark.slow
@pytest.mark.usefixtures("plain_shapes")
def test_none_is_no_model_for_methods_that_can_do_without():
    content = compare("./mine.py:Maybe", given="start=none")
    assert results(content)[0]["status"] == "done"
    with pytest.raises(InputError, match="module: expected a module, got"):
        compare(NEAR, given="start=none")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("teacher=small", "given: role of the task pretrain 'teacher' is not known.* Known: start"),
        (
            "start=nowhere",
            "given: start: expected simclr, moco, a backbone, BACKBONE@FILE, the folder of a run, or none",
        ),
        ("start=small@nowhere.pt", "given: start: 'nowhere.pt' does not exist"),
    ],
)
def test_what_is_no_model_is_refused_with_what_there_is(value, message):
    with pytest.raises(InputError, match=message):
        compare(NEAR, given=value)


@pytest.mark.slow
def test_runs_whose_start_cannot_be_trained_fail_with_its_reason_and_the_others_go_on(monkeypatch):
    own = execute.execute_run

    def broken(run, folder, **options):
        if folder.parent.name == "given":
            raise RuntimeError("no luck")
        return own(run, folder, **options)

    monkeypatch.setattr("counterpoise.engine.pool.execute_run", broken)
    near, simclr = compare(NEAR, "simclr")["methods"]
    assert near["runs"][0]["status"] == "failed"
    assert "a model that it stands on cannot be trained: RuntimeError: no luck" in near["runs"][0]["error"]
    assert simclr["runs"][0]["status"] == "done"


def test_a_single_run_says_which_model_could_not_be_trained(place, monkeypatch):
    own = execute._result

    def broken(run, folder, watch):
        if run.method == "simclr":
            raise RuntimeError("no luck")
        return own(run, folder, watch)

    monkeypatch.setattr(execute, "_result", broken)
    with pytest.raises(RunFailed, match="the start cannot be trained: no luck"):
        counterpoise.train(NEAR, "digits", out="run", loggers=(), quiet=True, **QUICK)


def test_what_changes_a_start_changes_the_name_of_the_run_that_stands_on_it(place):
    run = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK))
    other = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK, given="start=moco"))
    assert given.run_name(run) != given.run_name(other)
    assert "contrast.simclr" in given.modules_of(run)
    assert {"contrast.moco"} <= set(given.modules_of(other))


def test_a_run_is_named_once_and_its_user_s_folder_looked_at_once(place, monkeypatch):
    looked, own = [], given.loader_of
    monkeypatch.setattr(given, "loader_of", lambda data: looked.append(data) or own(data))
    run = Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK))
    name = given.run_name(run)
    assert looked == ["digits"] * 2  # of the run, and of the one that trains its start
    assert given.waves([run]) == [given.stands_on(run)]
    assert (given.run_name(run), given.run_name(given.stands_on(run)[0])[:9]) == (name, "simclr-0-")
    assert given.run_name(pickle.loads(pickle.dumps(run))) == name
    assert looked == ["digits"] * 2
    assert run == Run(f"{place}/mine.py:Near", "digits", settings=ImageSettings(**QUICK))
    assert run.config().keys() == {field.name for field in fields(Run)}


def test_another_run_made_of_one_has_its_own_name(place):
    run = Run("simclr", "digits", settings=ImageSettings(**QUICK))
    names = {given.run_name(run), *(given.run_name(replace(run, seed=seed)) for seed in (1, 2))}
    assert len(names) == 3


def test_waves_come_from_below_and_each_model_once(monkeypatch):
    runs = {name: Run("simclr", name, settings=ImageSettings(**QUICK)) for name in "abcde"}
    below = {"a": "cd", "b": "d", "c": "e", "d": "e", "e": ""}
    monkeypatch.setattr(given, "run_name", lambda run: run.data)
    monkeypatch.setattr(given, "stands_on", lambda run: [runs[name] for name in below[run.data]])
    found = given.waves([runs["a"], runs["b"]])
    assert [[run.data for run in wave] for wave in found] == [["e"], ["c", "d"]]
    assert given.waves([runs["e"]]) == []
    below["e"] = "a"
    with pytest.raises(RuntimeError, match="stand on each other"):
        given.waves([runs["a"]])


@pytest.mark.parametrize(
    ("folder", "shelf"),
    [("o/runs/a", "o/given"), ("o/given/a", "o/given"), ("mine", "mine/given")],
)
def test_the_shelf_of_a_folder(folder, shelf):
    assert given.shelf_of(Path(folder)) == Path(shelf)
