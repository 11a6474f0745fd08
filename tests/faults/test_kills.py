"""`kill -9` at any moment costs the running run's last epoch and nothing else."""

import collections
import os
import random
import subprocess
import sys
import time

import psutil
import pytest

import worlds
from counterpoise.engine.given import RUNS, SHELF
from counterpoise.training.trainer import CHECKPOINT, read_checkpoint
from faults.commands import MOMENTS, Work, alive, kill_at, rows

pytestmark = pytest.mark.slow

EPOCHS = 5
OPTIONS = ["--batch-size", "16", "--device", "cpu", "--epochs", str(EPOCHS)]
COMPARE = ["compare", "--methods", "simclr,dcl", "--seeds", "2", "--no-references", *OPTIONS]
TRAIN = ["train", "--method", "isogclr", "--quiet", *OPTIONS]
SCALE = {"few": 2, "many": 12}


def killed_and_resumed(server, tmp_path, words, runs, kills, seed, phases_met=1):
    """Kill a command so often, in new folders as they are done, and compare all of them with one left alone.

    How far it comes before a kill is a matter of the machine: it is killed on until it was so in enough phases.
    """
    draw = random.Random(seed)
    whole = Work(tmp_path / "whole", runs, EPOCHS)
    server.run([*words, "--out", str(whole.out)])
    phases = collections.Counter()
    moments = [moment for moment in MOMENTS if runs > 1 or moment != "between"]
    folders = []
    while phases.total() < kills or len(phases) < phases_met:
        assert phases.total() < 5 * kills, phases
        folders.append(Work(tmp_path / f"cut-{len(folders)}", runs, EPOCHS))
        command = [*words, "--out", str(folders[-1].out)]
        phase = ""
        while phase is not None and (phases.total() < kills or len(phases) < phases_met):
            phase = kill_at(folders[-1], draw.choice(moments), draw, lambda: server.start(command), server.wait)  # noqa: B023
            phases.update([phase] if phase else [])
        server.run(command)
        assert folders[-1].outcome() == whole.outcome()
        assert not folders[-1].left_over()
    print(f"{phases.total()} kills in {len(folders)} folders:", dict(phases))


@pytest.mark.parametrize("scale", ["few", pytest.param("many", marks=pytest.mark.faults)])
def test_a_comparison(server, photos, tmp_path, scale):
    killed_and_resumed(server, tmp_path, [*COMPARE, *photos], 4, SCALE[scale], 0, 1 if scale == "few" else 3)


@pytest.mark.parametrize("scale", ["few", pytest.param("many", marks=pytest.mark.faults)])
def test_a_training(server, photos, tmp_path, scale):
    killed_and_resumed(server, tmp_path, [*TRAIN, *photos], 1, SCALE[scale], 1, 1 if scale == "few" else 2)


def test_a_model_that_runs_stand_on(server, photos, tmp_path):
    """Killed while the model itself trains, and again while a run that stands on it does."""
    (tmp_path / "mine.py").write_text(worlds.NEAR)
    epochs = 40
    words = ["compare", "--methods", f"{tmp_path}/mine.py:Near", "--seeds", "1", "--no-references", *photos]
    words += ["--batch-size", "16", "--device", "cpu", "--epochs", str(epochs)]
    whole, cut = (Work(tmp_path / name, 2, epochs, models=1) for name in ("whole", "cut"))
    server.run([*words, "--out", str(whole.out)])
    command = [*words, "--out", str(cut.out)]
    draw, before = random.Random(3), []
    for name in (SHELF, RUNS):
        shelf = Work(cut.out / name, 1, epochs)
        assert kill_at(shelf, "checkpoint", draw, lambda: server.start(command), server.wait) == "training"
        cut.check()
        (run,) = shelf.folders()
        before.append((run, rows(run / "curve.csv")[: 1 + read_checkpoint(run / CHECKPOINT)["epoch"]]))
    server.run(command)
    assert cut.outcome() == whole.outcome()
    assert not cut.left_over()
    for run, curve in before:  # seconds and all: these epochs were not trained again
        assert curve
        assert rows(run / "curve.csv")[: len(curve)] == curve


@pytest.mark.faults
def test_a_comparison_in_several_processes_from_its_import_on(server, photos, tmp_path):
    """Processes started as a user starts them; killed all at once, or only the first, which takes the others along."""
    draw = random.Random(2)
    command = [*COMPARE, *photos, "--jobs", "2"]
    whole, cut = Work(tmp_path / "whole", 4, EPOCHS), Work(tmp_path / "cut", 4, EPOCHS)
    started = []

    def start():
        words = [sys.executable, "-m", "counterpoise.cli", *command, "--out", str(cut.out)]
        started.append(subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL))
        return started[-1].pid

    def wait(pid):
        return started[-1].wait()

    phases = []
    for moment, group in (("start", True), ("training", True), ("training", False), ("checkpoint", False)):
        phases.append(kill_at(cut, moment, draw, start, wait, group))
        ends = time.monotonic() + 5
        while members := [p for p in psutil.process_iter() if alive(p.pid) and group_of(p.pid) == started[-1].pid]:
            assert time.monotonic() < ends, members
            time.sleep(0.02)
    server.run([*command, "--out", str(cut.out)])
    server.run([*COMPARE, *photos, "--out", str(whole.out)])
    print("kills:", phases)
    assert phases[0] == "start"
    assert None not in phases
    assert cut.outcome() == whole.outcome()
    assert not cut.left_over()


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
