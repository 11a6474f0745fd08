"""Data is loaded once for all runs on the same files, and files that change while a command runs are noticed."""

from dataclasses import replace
from pathlib import Path

import pytest

from counterpoise.errors import InputError
from counterpoise.training import run as runs
from counterpoise.training.run import Run, TargetSettings, load_once


@pytest.fixture
def tables(tmp_path):
    """Two tables of numbers, of a source and a target, and a file of weights."""
    paths = [tmp_path / name for name in ("source.csv", "target.csv", "w.safetensors")]
    for path in paths:
        path.write_text("a,y\n1,2\n")
    return paths


@pytest.fixture
def scans(monkeypatch):
    """The data whose files were looked at."""
    found, own = [], runs.data_state

    def noted(data, *rest):
        found.append(data)
        return own(data, *rest)

    monkeypatch.setattr(runs, "data_state", noted)
    return found


def load(data, target):
    return [Path(path).read_text() for path in (data, target)]


def made(tables):
    source, target, weights = map(str, tables)
    return Run("simclr", source, settings=TargetSettings(target=target, init=weights))


def test_the_files_of_the_target_are_looked_at_once_for_all_runs_on_them(tables, scans):
    run = made(tables)
    others = [replace(run, seed=seed) for seed in range(3)]
    scans.clear()
    first = load_once(run, load)
    assert all(load_once(other, load) is first for other in others)
    assert scans == [str(tables[1])]


def test_another_state_of_the_target_is_loaded_anew(tables):
    first = load_once(made(tables), load)
    tables[1].write_text("a,y\n3,4\n")
    second = load_once(made(tables), load)
    assert first[0] == second[0]
    assert second[1] == "a,y\n3,4\n"


@pytest.mark.parametrize("which", [1, 2])
def test_a_target_or_weights_that_change_before_they_are_loaded_are_noticed(tables, which):
    run = made(tables)
    tables[which].write_text("a,y\n5,6,7\n")
    with pytest.raises(InputError, match="files that the settings name were changed while the command ran"):
        load_once(run, load)


def test_weights_that_change_between_two_runs_are_noticed(tables):
    run = made(tables)
    load_once(run, load)
    tables[2].write_text("other")
    with pytest.raises(InputError, match="files that the settings name were changed while the command ran"):
        load_once(replace(run, seed=1), load)
