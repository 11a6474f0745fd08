"""Several runs at once: workers that die, Ctrl-C, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from rich.console import Console

import counterpoise
from counterpoise.engine import pool
from counterpoise.engine.given import RUNS, run_name
from counterpoise.errors import Unwritable
from counterpoise.training.run import ImageSettings, Run
from counterpoise.training.trainer import read_checkpoint

QUICK = {"epochs": 1, "batch_size": 64, "device": "cpu"}
RUN = Run("simclr", "digits", settings=ImageSettings(**QUICK))


def test_a_run_that_fails_keeps_why_until_it_succeeds(tmp_path, monkeypatch):
    def fails(run, folder, callbacks=()):
        raise ZeroDivisionError("of the method")

    folder = tmp_path / RUNS / run_name(RUN)
    monkeypatch.setattr(pool, "execute_run", fails)
    failed = pool.attempt(RUN, tmp_path / RUNS)
    assert failed == {"seed": 0, "status": "failed", "error": "ZeroDivisionError: of the method"}
    assert "in fails" in (folder / "error.txt").read_text(encoding="utf-8")
    monkeypatch.setattr(pool, "execute_run", lambda run, folder, callbacks=(): {"seed": 0, "status": "done"})
    assert pool.attempt(RUN, tmp_path / RUNS) == {"seed": 0, "status": "done", "folder": f"{RUNS}/{run_name(RUN)}"}
    assert not (folder / "error.txt").exists()


def test_where_nothing_can_be_written_no_run_goes_on(tmp_path, monkeypatch):
    def full(run, folder, callbacks=()):
        raise Unwritable("the disk is full")

    monkeypatch.setattr(pool, "execute_run", full)
    with pytest.raises(Unwritable, match="the disk is full"):
        pool.attempt(RUN, tmp_path / RUNS)


def test_rows_that_are_one_run_share_it(tmp_path, monkeypatch):
    """Two labels of the same run, and another seed: two runs, three results."""
    calls = []

    def counted(run, folder, callbacks=()):
        calls.append(run.seed)
        return {"seed": run.seed, "status": "done", "metrics": {}}

    monkeypatch.setattr(pool, "execute_run", counted)
    runs = {("a", 0): RUN, ("b", 0): RUN, ("a", 1): replace(RUN, seed=1)}
    results = pool.run_all(runs, tmp_path, 1, Console(quiet=True))
    assert calls == [0, 1]
    assert set(results) == set(runs)
    assert results["a", 0] == results["b", 0]


def test_at_ctrl_c_what_is_done_is_given_and_the_rest_is_stopped(tmp_path, monkeypatch):
    def second_stops(run, folder, callbacks=()):
        if run.seed == 1:
            raise KeyboardInterrupt
        return {"seed": run.seed, "status": "done", "metrics": {}}

    monkeypatch.setattr(pool, "execute_run", second_stops)
    runs = {("a", seed): replace(RUN, seed=seed) for seed in range(3)}
    with pytest.raises(pool.Stopped) as stop:
        pool.run_all(runs, tmp_path, 1, Console(quiet=True))
    assert [stop.value.results["a", seed]["status"] for seed in range(3)] == ["done", "stopped", "stopped"]


@pytest.mark.slow
def test_jobs_survive_a_process_that_dies(tmp_path, monkeypatch):
    """In worker processes a method kills its process; its rows fail, the other method's are as without it."""
    monkeypatch.setattr(pool, "attempt", _attempt_or_die)
    results = counterpoise.compare(
        ["dcl", "simclr"], "digits", seeds=2, jobs=2, out=str(tmp_path / "o"), quiet=True, **QUICK
    )
    dcl, simclr = results["methods"]
    assert [run["error"] for run in dcl["runs"]] == ["its process died"] * 2
    assert [run["status"] for run in simclr["runs"]] == ["done"] * 2


def _attempt_or_die(run, folder, callbacks=()):
    if run.method == "dcl":
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt_run(run, folder, callbacks)


attempt_run = pool.attempt


def results_without_clock(folder):
    content = json.loads((folder / "results.json").read_text())
    kept = []
    for row in content["methods"]:
        for run in row["runs"]:
            curve = [{k: v for k, v in point.items() if k != "seconds"} for point in run["curve"]]
            kept.append((row["label"], run["seed"], run["metrics"], run["per_class"], curve))
    return kept


@pytest.mark.slow
def test_kill_9_loses_nothing_but_the_running_run(tmp_path):
    command = [
        sys.executable, "-m", "counterpoise.cli", "compare", "--methods", "simclr,dcl", "--data", "digits",
        "--seeds", "2", "--epochs", "3", "--batch-size", "64", "--device", "cpu",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    kills = 0
    for wanted in (1, 2):  # once before the first result, once after some
        process = subprocess.Popen([*command, "--out", str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(cut.glob("runs/*/last.ckpt"))) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    done = {p: p.stat().st_mtime_ns for p in cut.glob("runs/*/result.json")}
    subprocess.run([*command, "--out", str(cut)], check=True, capture_output=True)
    assert results_without_clock(cut) == results_without_clock(whole)
    assert all(p.stat().st_mtime_ns == then for p, then in done.items())
    assert not list(cut.rglob(".counterpoise-*"))


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_stops_at_once_and_the_same_command_goes_on(tmp_path, jobs):
    command = [
        sys.executable, "-m", "counterpoise.cli", "compare", "--methods", "simclr,dcl", "--data", "digits",
        "--seeds", "1", "--epochs", "15", "--batch-size", "64", "--device", "cpu", "--jobs", jobs, "--no-references",
        "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("runs/*/last.ckpt")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    printed = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "the same command goes on from here" in printed
    assert "Traceback" not in printed
    # A row may have been written whose checkpoint was not yet.
    rows = {
        path.parent: len(read_checkpoint(path)["callbacks"]["History"]["rows"])
        for path in tmp_path.glob("runs/*/last.ckpt")
    }
    curves = {folder: (folder / "curve.csv").read_text().splitlines()[: 1 + rows[folder]] for folder in rows}
    assert all(len(lines) > 1 for lines in curves.values())
    assert curves
    assert not list(tmp_path.glob("runs/*/result.json"))
    subprocess.run(command, check=True, capture_output=True)
    for folder, before in curves.items():
        assert (folder / "curve.csv").read_text().splitlines()[: len(before)] == before
        assert (folder / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["workers start", "they run"])
def test_ctrl_c_with_workers_is_one_line_whether_they_get_it_or_not(tmp_path, when):
    command = [
        sys.executable, "-m", "counterpoise.cli", "compare", "--methods", "simclr,dcl", "--data", "digits",
        "--seeds", "2", "--epochs", "300", "--device", "cpu", "--jobs", "2", "--out", str(tmp_path), "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    children = []
    while len(children) < 3 or (when == "they run" and not list(tmp_path.glob("runs/*/last.ckpt"))):
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)  # with the one that tracks resources
        time.sleep(0.01)
    started = time.monotonic()
    (os.killpg if when == "workers start" else os.kill)(process.pid, signal.SIGINT)
    out, printed = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert (process.returncode, out) == (130, b"")
    assert printed == b"counterpoise: stopped; the same command goes on from here\n"
    assert psutil.wait_procs(children, timeout=10)[1] == []
