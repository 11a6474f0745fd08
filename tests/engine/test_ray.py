"""Runs over a Ray cluster, one that is started here."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import counterpoise
import worlds
from counterpoise.engine.ray import run_on_ray
from counterpoise.errors import InputError, MissingExtra

QUICK = {"epochs": 1, "device": "cpu", "seeds": 2, "quiet": True}


@pytest.mark.slow
def test_results_errors_and_deaths_come_with_their_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(worlds.__file__).parent))  # the cluster's processes import it, too
    names = ("one", "fails", "dies", "two")
    found = dict(run_on_ray(worlds.work, {name: (name, str(tmp_path)) for name in names}, "local", cpus=1, gpus=0))
    assert found.keys() == set(names)
    assert (found["one"], found["two"]) == (f"one in {tmp_path.name}", f"two in {tmp_path.name}")
    assert repr(found["fails"]) == "ValueError('size: too small')"
    assert isinstance(found["dies"], Exception)
    assert (tmp_path / "deaths").read_text() == "xx"  # it was tried twice


@pytest.mark.slow
def test_a_comparison_over_a_cluster_finds_what_one_without_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = ["simclr", "dcl:temperature=0.5"]
    spread = counterpoise.compare(methods, "digits", ray="local", out="spread", **QUICK)
    alone = counterpoise.compare(methods, "digits", out="alone", **QUICK)
    for mine, theirs in zip(spread["methods"], alone["methods"], strict=True):
        for run, expected in zip(mine["runs"], theirs["runs"], strict=True):
            assert run["metrics"] == expected["metrics"]
            assert run["folder"] == expected["folder"]
    assert "--ray local" in spread["command"]
    assert (tmp_path / "spread" / "report.html").exists()


@pytest.mark.slow
def test_models_that_runs_stand_on_are_trained_over_a_cluster_once_and_to_the_same_bits(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(worlds.NEAR)
    monkeypatch.chdir(tmp_path)
    methods = ["./mine.py:Near", "./mine.py:Near:weight=2"]
    options = {**QUICK, "seeds": 1, "references": False}
    spread = counterpoise.compare(methods, "digits", ray="local", out="spread", **options)
    alone = counterpoise.compare(methods, "digits", out="alone", **options)
    for mine, theirs in zip(spread["methods"], alone["methods"], strict=True):
        (run,), (expected,) = mine["runs"], theirs["runs"]
        assert run["status"] == "done"
        assert run["metrics"] == expected["metrics"]
        for name in ("source", "metrics"):
            assert run["given"]["start"][name] == expected["given"]["start"][name]
    nets = {path.relative_to("spread"): load_file(path) for path in Path("spread").rglob("net.safetensors")}
    assert len(nets) == 1 + 2  # the start, and the runs
    for path, net in nets.items():
        other = load_file("alone" / path)
        assert all(torch.equal(net[name], other[name]) for name in net.keys() | other.keys())


@pytest.mark.slow
def test_more_than_a_cluster_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="too little for one run: 1000 CPU"):
        list(run_on_ray(worlds.work, {"one": ("one", str(tmp_path))}, "local", cpus=1000, gpus=0))


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'counterpoise\[ray\]'"):
        list(run_on_ray(worlds.work, {}, "local", cpus=1, gpus=0))


def test_an_address_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="ray: no cluster at 'auto'"):
        list(run_on_ray(worlds.work, {}, "auto", cpus=1, gpus=0))


def test_ray_and_jobs_do_not_go_together(tmp_path):
    with pytest.raises(InputError, match="ray: spreads the runs by itself"):
        counterpoise.compare(["simclr"], "digits", ray="local", jobs=2, out=str(tmp_path), **QUICK)
