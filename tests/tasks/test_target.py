"""A task of two domains, as a room would write it: what `--target` names decides the run's name and what is loaded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoise import tasks
from counterpoise.data import load
from counterpoise.data.images import joined
from counterpoise.engine.execute import execute_run
from counterpoise.engine.given import run_name
from counterpoise.errors import InputError
from counterpoise.tasks.classify import Classify
from counterpoise.tasks.images import Prepared
from counterpoise.training.run import Run, TargetSettings, load_once

DOMAINS = ("source", "target")
LEVELS = {"dark": 60, "light": 190}


def prepare(data, target, seed, size):
    """One pool: images of the source with labels, those of the target without, and a factor that tells them apart."""
    of = {name: load(text, size=size, seed=seed) for name, text in zip(DOMAINS, (data, target), strict=True)}
    parts = [
        of[name].train.with_factor("domain", torch.full((len(of[name].train),), i), DOMAINS)
        for i, name in enumerate(DOMAINS)
    ]
    truth = torch.cat([part.labels for part in parts])
    hidden = replace(parts[1], labels=torch.full_like(parts[1].labels, -1))
    pool = joined([parts[0], hidden])
    return Prepared(pool, pool.subset(torch.arange(0)), of["target"].test, truth)


class Adapt(Classify):
    """Images of the target, classified by what the labels of the source teach."""

    settings = TargetSettings

    def prepare(self):
        return prepare


@pytest.fixture
def adapt(monkeypatch):
    found = tasks.find
    monkeypatch.setattr(tasks, "find", lambda name: Adapt() if name == "classify" else found(name))


@pytest.fixture
def domains(tmp_path):
    """Two folders of the same classes: that of the target is darker."""
    draw = np.random.default_rng(0)
    for domain, shift in zip(DOMAINS, (0, -40), strict=True):
        for name, level in LEVELS.items():
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for i in range(20):
                pixels = (level + shift + draw.integers(-10, 10, (8, 8))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def made(domains, **changes):
    settings = TargetSettings(epochs=3, batch_size=16, device="cpu", target=str(domains / "target"))
    return Run("cross-entropy", str(domains / "source"), settings=settings, task="classify", **changes)


def test_a_run_of_two_domains_is_trained_on_one_pool_and_scored_on_the_target(adapt, domains, tmp_path):
    run = made(domains)
    result = execute_run(run, tmp_path / "run")
    assert result["counts"]["train"] == [16, 16]  # those of the source: no label of the target is seen
    assert result["sizes"]["train"] == 64
    assert result["metrics"].keys() >= {"balanced"}
    pool = Adapt().load(run)
    assert pool.train.factors["domain"].bincount().tolist() == [32, 32]
    assert pool.truth.bincount().tolist() == [32, 32]


def test_a_run_s_name_changes_with_the_files_of_the_target(adapt, domains):
    before = run_name(made(domains))
    assert run_name(made(domains)) == before
    (domains / "target" / "dark" / "0.png").unlink()
    assert run_name(made(domains)) != before


def test_files_of_the_target_that_change_while_a_command_runs_are_refused(adapt, domains):
    run = made(domains)
    (domains / "target" / "dark" / "0.png").unlink()
    with pytest.raises(InputError, match="were changed while the command ran"):
        load_once(run, prepare)
