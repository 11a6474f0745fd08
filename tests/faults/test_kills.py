"""`kill -9` at any moment costs the running run's last epoch and nothing else."""

import collections
import random

import pytest

from faults.killing import MOMENTS, Work, kill_at, make_photos, serving

EPOCHS = 5
OPTIONS = ["--batch-size", "16", "--device", "cpu", "--epochs", str(EPOCHS)]
COMPARE = ["compare", "--methods", "simclr,dcl", "--seeds", "2", *OPTIONS]
TRAIN = ["train", "--method", "isogclr", "--quiet", *OPTIONS]
SCALE = {"few": 2, "many": 12}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "log") as found:
        yield found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return ["--data", str(make_photos(tmp_path_factory.mktemp("data") / "photos"))]


def killed_and_resumed(server, tmp_path, words, runs, kills, seed):
    """Kill a command so often, in new folders as they are done, and compare all of them with one left alone."""
    draw = random.Random(seed)
    whole = Work(tmp_path / "whole", runs, EPOCHS)
    server.run([*words, "--out", str(whole.out)])
    phases = collections.Counter()
    moments = [moment for moment in MOMENTS if runs > 1 or moment != "between"]
    folders = []
    while phases.total() < kills:
        folders.append(Work(tmp_path / f"cut-{len(folders)}", runs, EPOCHS))
        command = [*words, "--out", str(folders[-1].out)]
        phase = ""
        while phase is not None and phases.total() < kills:
            phase = kill_at(folders[-1], draw.choice(moments), draw, lambda: server.start(command), server.wait)  # noqa: B023
            phases.update([phase] if phase else [])
        server.run(command)
        assert folders[-1].outcome() == whole.outcome()
        assert not folders[-1].left_over()
    print(f"{phases.total()} kills in {len(folders)} folders:", dict(phases))
    return phases


@pytest.mark.parametrize("scale", ["few", pytest.param("many", marks=pytest.mark.faults)])
def test_a_comparison(server, photos, tmp_path, scale):
    phases = killed_and_resumed(server, tmp_path, COMPARE + photos, 4, SCALE[scale], seed=0)
    assert scale == "few" or len(phases) >= 3


@pytest.mark.parametrize("scale", ["few", pytest.param("many", marks=pytest.mark.faults)])
def test_a_training(server, photos, tmp_path, scale):
    phases = killed_and_resumed(server, tmp_path, TRAIN + photos, 1, SCALE[scale], seed=1)
    assert scale == "few" or len(phases) >= 2
